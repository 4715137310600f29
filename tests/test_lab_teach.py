"""A learner that begins with another lab model's decoder and imitates its visual tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foveate.errors import InputError
from foveate.lab import models, steps, supervise
from foveate.lab.data import Batch, Diet
from foveate.lab.loop import Recipe, Run
from foveate.lab.schedule import Budget
from foveate.lab.teach import Teacher
from foveate.load import load

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher")
    models.save(models.make("image", models.small("image"), seed=4), "image", models.small("image"), out)
    return out


def learner(folder: Path, out: Path) -> Run:
    recipe = Recipe("video", models.small("video"), batch=6, turns=3, workers=0, every=1, warm=1, teacher=str(folder))
    return Run(recipe, Budget(steps=4), out, CPU)


def picture(run: Run) -> Batch:
    diet = Diet("video", run.recipe.size, "dense", batch=4, side=run.teacher.side if run.teacher else 0)
    return next(b for b in map(diet.make, range(20)) if b.kind == "image")


def test_the_decoder_is_the_teachers_from_the_start(folder: Path, tmp_path: Path) -> None:
    run, teacher = learner(folder, tmp_path), load(folder).model
    own, given = (dict(m.model.language_model.named_parameters()) for m in (run.model, teacher))
    for name, p in own.items():
        torch.testing.assert_close(p, given[name] if name in given else torch.zeros_like(p))
    ids = torch.arange(5, 17)[None]
    torch.testing.assert_close(run.model(input_ids=ids).logits, teacher(input_ids=ids).logits, rtol=1e-3, atol=1e-3)


def test_pictures_of_the_teachers_size_are_imitated_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    run = learner(folder, tmp_path)
    assert run.teacher is not None
    batch, sizes = picture(run), run.recipe.size
    assert run.teacher.fits(batch, sizes)
    assert not run.teacher.fits(batch._replace(kind="video"), sizes)
    assert not run.teacher.fits(batch._replace(pixels=batch.pixels[:, :, 14:]), sizes)
    want = run.teacher.look(batch)
    tokens, _ = supervise.features(supervise.look(run.model, batch, sizes), batch, sizes)
    assert want.shape == tokens.shape
    assert 0.3 < float(want.std()) < 3
    with_it = steps.dense(run.model, run.heads, batch, sizes, run.teacher)
    assert "teacher" in with_it.right
    assert "teacher" not in steps.dense(run.model, run.heads, batch, sizes).right


def test_joining_changes_the_scale_and_not_what_the_heads_read(folder: Path, tmp_path: Path) -> None:
    run = learner(folder, tmp_path)
    assert run.teacher is not None
    run.teacher.scale = 100.0
    batch, sizes = picture(run), run.recipe.size
    with torch.no_grad():
        before = supervise.features(supervise.look(run.model, batch, sizes), batch, sizes)[0]
        told = run.heads(before, None, batch.labels)
        run.teacher.join(run.model, run.heads)
        after = supervise.features(supervise.look(run.model, batch, sizes), batch, sizes)[0]
        again = run.heads(after, None, batch.labels)
    torch.testing.assert_close(after, 100 * before, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(again[0], told[0], rtol=1e-3, atol=1e-3)


def test_both_stages_run_with_a_teacher(folder: Path, tmp_path: Path) -> None:
    run = learner(folder, tmp_path)
    assert run.go()
    assert [r["stage"] for r in run.state.history] == ["dense"] * run.state.spent["dense"]["steps"] + ["joint"] * int(
        run.state.spent["joint"]["steps"]
    )


def test_a_teacher_that_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    sizes = models.small("video")
    wide = replace(sizes, text=replace(sizes.text, width=64))
    with pytest.raises(InputError, match="decoder is of another size"):
        Run(Recipe("video", wide, teacher=str(folder)), Budget(steps=4), tmp_path, CPU)
    models.save(models.make("video", sizes), "video", sizes, tmp_path / "video")
    with pytest.raises(InputError, match="must be a LLaVA model"):
        Teacher(load(tmp_path / "video").model, CPU)


def test_without_a_teacher_a_run_is_what_it_was() -> None:
    assert "teacher" not in Recipe("video").identity
    assert Recipe("video", teacher="lab/image").identity["teacher"] == "lab/image"
