"""The tower's output is kept between plans: answers and shares are what they are without that."""

from __future__ import annotations

from pathlib import Path

import pytest

import foveate
from foveate.bench import clips, exam, once
from foveate.lab import models
from foveate.spec import Plan


@pytest.mark.parametrize("kind", models.KINDS)
def test_answers_are_the_same(kind: str, tmp_path: Path) -> None:
    models.save(models.make(kind, models.small(kind), seed=3), kind, models.small(kind), tmp_path / "m")
    loaded = foveate.load(tmp_path / "m")
    if kind == "image":
        found = exam.items_of(5, 12, tmp_path)
    else:
        found = [(t, clips.opened(i)) for t, i in clips.items_of(5, 9, tmp_path, frames=8)]
    ready, tower = exam.prepare(loaded, found, batch=6), loaded.model.get_encoder(modality="image")
    ran: list[int] = []
    block = next(m for n, m in tower.named_modules() if (n.endswith(".0") and "layers" in n) or n == "blocks.0")
    block.register_forward_hook(lambda *_: ran.append(1))
    plans = ("", "divprune(keep=0.25)", "fastv(keep=0.5, layer=1)", "foveal(keep=0.1)", "visionzip(keep=0.2)")
    for plan in plans:
        before = len(ran)
        kept = exam.ask(ready, loaded, plan)
        used, again = len(ran) - before, exam.ask(exam.prepare(loaded, found, batch=6), loaded, plan)
        assert (kept.said, kept.kept, kept.evidence) == (again.said, again.kept, again.evidence), plan
        assert (used == 0) == (plan in plans[1:4])
    assert "forward" not in vars(tower)


def test_which_plans_do_not_need_the_tower() -> None:
    assert once.blind(Plan.of("foveal(keep=0.1) + fastv(keep=0.5)"))
    assert not once.blind(Plan.of("tome(r=2)"))
    assert not once.blind(Plan.of("fastervlm(keep=0.2)"))
