"""scripts/gallery.py on a small untrained model: every method has a cell, and the sheet holds them all."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

import foveate
from foveate.lab import models
from foveate.load import Loaded
from foveate.spec import methods

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
OPTIONS = {n: {"keep": 0.25} for n in ("divprune", "fastv", "hired", "avgpool")} | {
    "pyramiddrop": {"layers": (1, 2), "keeps": (0.5, 0.25)}
}
gallery = pytest.importorskip("gallery")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder, little = tmp_path_factory.mktemp("model"), models.small("image")
    tower, text = replace(little.tower, layers=5), replace(little.text, layers=5)  # room for methods at several layers
    sizes = replace(little, tower=tower, text=text)
    models.save(models.make("image", sizes), "image", sizes, folder)
    return foveate.load(folder, device="cpu")


def test_every_method_has_a_cell(loaded: Loaded) -> None:
    subject = gallery.subjects(112)[0]
    found = gallery.cells(loaded, subject, gallery.plans(loaded, subject, 0.25))
    assert [c.name for c in found] == [
        n for s in gallery.STAGES for n, cls in sorted(methods().items()) if cls.stage == s
    ]
    for c in found:
        assert c.kept.shape == c.part.shape == (8, 8), c.name
        assert bool((c.part[c.kept] >= 0).all()), c.name
        at = c.part[c.part >= 0]
        assert bool(c.kept.flatten()[at].all()), f"{c.name}: a token merged into one that is gone"
    drawn = gallery.sheet(subject, found, "small", 0.25)
    assert drawn.width == gallery.COLUMNS * (gallery.SIDE + gallery.show.GAP) + 2 * gallery.show.MARGIN - 14


def test_a_quarter_is_a_quarter_of_the_cells(loaded: Loaded) -> None:
    chosen = {n: methods()[n](**given) for n, given in OPTIONS.items()}
    for c in gallery.cells(loaded, gallery.subjects(112)[1], chosen):
        assert int(c.kept.sum()) == 16, c.name
