"""scripts/gallery_video.py on a small untrained model: every video method has a strip, and the sheet holds them all."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

import foveate
from foveate.bench.filmic import of_video
from foveate.lab import models
from foveate.load import Loaded
from foveate.spec import methods

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
gallery = pytest.importorskip("gallery_video")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder, little = tmp_path_factory.mktemp("model"), models.small("video")
    tower, text = replace(little.tower, layers=4), replace(little.text, layers=5)  # room for methods at several layers
    sizes = replace(little, tower=tower, text=text)
    models.save(models.make("video", sizes), "video", sizes, folder)
    return foveate.load(folder, device="cpu")


def test_every_video_method_has_a_strip(loaded: Loaded) -> None:
    item = gallery.clip(112, frames=8)
    found, missing = gallery.strips(loaded, item, 0.1)
    wanted = {n for n, c in methods().items() if c.stage in gallery.STAGES and of_video(c)}
    assert {s.name for s in found} | set(missing) == wanted
    assert not missing
    for s in found:
        assert s.kept.shape == s.part.shape == (4, 8, 8), s.name
        at = s.part[s.part >= 0]
        assert bool(s.kept.flatten()[at].all()), f"{s.name}: a token merged into one that is gone"
    drawn = gallery.sheet(loaded.prompt(item.messages), item, found, missing, "about")
    wide = gallery.COLUMNS * (4 * (gallery.SIDE + gallery.GAP) - gallery.GAP + gallery.show.GAP)
    assert drawn.width == wide - gallery.show.GAP + 2 * gallery.show.MARGIN
