"""The lab's masked-diffusion model: batches, a few steps of training, going on, and the study of schedules."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import foveate
from foveate.bench import __main__ as bench
from foveate.bench import diffusion as study
from foveate.cli import app
from foveate.errors import InputError
from foveate.lab import diffusion, tokenizer
from foveate.lab.diffusion_eval import evaluate

TINY = diffusion.Recipe(size=diffusion.SMALL, batch=4, every=2)


def test_a_batch_hides_answers_only_and_depends_on_its_step() -> None:
    one, same, other = diffusion.batch(TINY, 3), diffusion.batch(TINY, 3), diffusion.batch(TINY, 4)
    assert torch.equal(one.ids, same.ids)
    assert torch.equal(one.hidden, same.hidden)
    assert not torch.equal(one.ids[:, -diffusion.CANVAS :], other.ids[:, -diffusion.CANVAS :])
    assert not one.hidden[:, : -diffusion.CANVAS].any()
    assert one.hidden.any(-1).all()
    known = tokenizer.entries()
    assert (one.ids[:, -diffusion.CANVAS - 1] == known[tokenizer.ASSISTANT]).all()
    assert (one.ids[:, -1] == known[tokenizer.EOS]).all()
    assert (one.ids < diffusion.ids()["mask"]).all()


def test_the_model_is_bidirectional_by_itself() -> None:
    model = diffusion.make(diffusion.SMALL).eval()
    ids = torch.randint(0, 200, (1, 6))
    changed = ids.clone()
    changed[0, -1] += 1
    with torch.no_grad():
        assert not torch.equal(model(ids).logits[0, 0], model(changed).logits[0, 0])


def test_it_learns_the_end_of_answers() -> None:
    recipe = diffusion.Recipe(size=diffusion.SMALL, batch=8, peak=1e-2, warm=1)
    model = diffusion.make(recipe.size)
    optimiser = diffusion.Optimiser(model.named_parameters(), lambda name: 1.0, recipe.peak, 0.0)
    losses = []
    for step in range(5):
        optimiser.set(recipe.peak)
        loss, _ = diffusion.loss_of(model, diffusion.batch(recipe, step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_training_writes_a_model_that_loads_and_goes_on(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    diffusion.train(TINY, steps=2, out=tmp_path, items=2, tell=lambda record, gone: told.append(record))
    assert [r["step"] for r in told] == [2]
    loaded = foveate.load(tmp_path)
    assert loaded.model.config.mask_token_id == diffusion.ids()["mask"]
    assert loaded.builder.tokenizer.mask_token_id == diffusion.ids()["mask"]
    assert "masked-diffusion" in (tmp_path / "README.md").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="--resume"):
        diffusion.train(TINY, steps=2, out=tmp_path)
    log = diffusion.train(TINY, steps=4, out=tmp_path, items=2, resume=True)
    assert log is not None
    assert log["steps"] == 4
    straight = diffusion.train(TINY, steps=4, out=tmp_path / "straight", items=2)
    assert straight is not None
    first = foveate.load(tmp_path).model.model.embed_tokens.weight
    second = foveate.load(tmp_path / "straight").model.model.embed_tokens.weight
    assert first.shape == second.shape  # the rate goes down at the end of a budget, so the weights differ
    with pytest.raises(InputError, match="another recipe"):
        diffusion.train(diffusion.Recipe(size=diffusion.SMALL, batch=5), steps=6, out=tmp_path, resume=True)
    with pytest.raises(InputError, match="either"):
        diffusion.train(TINY, out=tmp_path / "new")


def test_the_command_trains_it(tmp_path: Path) -> None:
    words = ["lab", "train", "diffusion", "--small", "--batch", "2", "--items", "2", "--out", str(tmp_path / "made")]
    done = CliRunner().invoke(app, [*words, "--steps", "1"])
    assert done.exit_code == 0, done.output
    assert "1 steps" in done.output
    assert (tmp_path / "made" / "model.safetensors").is_file()
    refused = CliRunner().invoke(app, [*words, "--steps", "1", "--fuse"])
    assert refused.exit_code == 2
    assert "--fuse" in refused.stderr


def test_forwards_of_rows_are_those_they_need_alone() -> None:
    model = diffusion.make(diffusion.SMALL).eval()
    options: dict[str, Any] = {"schedule": "threshold(confidence=0.05)", "length": 8, "block": 8}
    together = evaluate(model, "copy", n=3, rows=3, **options)
    alone = evaluate(model, "copy", n=3, rows=1, **options)
    assert together.forwards == alone.forwards
    assert together.scores == alone.scores


def test_the_study_compares_with_the_slow_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "PLANS", [study.PLANS[0], study.PLANS[1], study.PLANS[9], study.PLANS[12]])
    command = ["bench", "diffusion", "--small", "--n", "2", "--out", str(tmp_path / "diffusion.json")]
    monkeypatch.setattr(sys, "argv", command)
    bench.main()
    data = json.loads((tmp_path / "diffusion.json").read_text(encoding="utf-8"))
    names = [r["plan"].split("(")[0] for r in data["rows"]]
    assert names == ["lowconfidence", "lowconfidence, steps=6", "learn2pd", "threshold"]
    slow, planned = data["rows"][:2]
    assert (slow["forwards"], slow["cut"], planned["forwards"], planned["cut"]) == (24, 1, 6, 4)
    assert data["rows"][3]["positions"] < slow["positions"]
    assert len(data["goals"]) == 2


def test_goals_want_equal_answers() -> None:
    rows = [
        {"accuracy": 0.95, "cut": 1.0, "lost": 0.0},
        {"accuracy": 0.94, "cut": 5.0, "lost": 0.01},
        {"accuracy": 0.5, "cut": 9.0, "lost": 0.45},
    ]
    assert [(g["value"], g["holds"]) for g in study.goals(rows)] == [(0.95, True), (5.0, True)]
    assert not any(g["holds"] for g in study.goals([{"accuracy": 0.5, "cut": 1.0, "lost": 0.0}, rows[2]]))
