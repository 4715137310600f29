"""The lab's tokenizer, models, training and evaluation, with shrunken sizes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import foveate
from foveate import builtin
from foveate.cli import app
from foveate.errors import InputError
from foveate.lab import checkpoint, models, schedule, steps, supervise, tasks, tokenizer
from foveate.lab.data import Diet, serve
from foveate.lab.evaluate import IMAGE, TEXT, VIDEO, evaluate, needed_tokens, wilson
from foveate.lab.loop import Recipe, Run
from foveate.lab.schedule import Budget
from foveate.lab.train import train
from foveate.prompt import read

run = CliRunner().invoke


def recipe(kind: str, **more: Any) -> Recipe:
    return Recipe(kind, models.small(kind), batch=6, turns=3, warm=2, workers=0, every=1, **more)


# --- the tokenizer ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words() -> Any:
    return tokenizer.make()


def texts() -> set[str]:
    out: set[str] = set()
    for seed in range(170):
        made = [*tasks.scene(seed, size=112, difficulty=0.8).turns, *tasks.clip(seed, size=84, frames=8).turns]
        out |= {text for turn in made for text in turn[:2]}
    for task in TEXT:
        for item in tasks.generate(task, 0, 20):
            out |= {item.question, item.answer}
    return out


def test_every_text_comes_back_exactly(words: Any) -> None:
    said = sorted(texts())
    assert len(said) > 800
    for text, ids in zip(said, words(said, add_special_tokens=False)["input_ids"]):
        assert words.unk_token_id not in ids, text
        assert words.decode(ids) == text
        assert tokenizer.encode(text) == ids


def test_a_word_is_one_token_wherever_it_stands(words: Any) -> None:
    assert words.tokenize("red") == words.tokenize("is it red")[-1:]
    assert [len(words.tokenize(t)) for t in ("KDW", "top left", "3", "the star?")] == [3, 2, 1, 3]
    assert words.decode(words("K D W", add_special_tokens=False)["input_ids"]) == "K D W"
    assert words.unk_token_id in words("zebra", add_special_tokens=False)["input_ids"]


def test_training_rows_are_what_the_chat_template_writes(words: Any) -> None:
    item = tasks.generate("dialogue", 0, 1)[0]
    ids, owner = tokenizer.conversation([t[:2] for t in item.turns], tokenizer.IMAGE, 1)
    prompt = words.apply_chat_template(read(item.messages).messages, tokenize=False, add_generation_prompt=True)
    begin = words(prompt, add_special_tokens=False)["input_ids"]
    assert ids[: len(begin)] == begin
    assert words.decode(ids[len(begin) :], skip_special_tokens=True) == item.answer
    assert ids[-1] == words.eos_token_id
    for number, turn in enumerate(item.turns):
        of = [i for i, o in zip(ids, owner) if o == number]
        assert words.decode(of, skip_special_tokens=True) == turn.answer
        assert of[-1] == words.eos_token_id


def test_roles_and_plain_text_in_the_template(words: Any) -> None:
    chat = [{"role": "user", "content": "where is the star?"}, {"role": "assistant", "content": "center"}]
    whole = words.apply_chat_template(chat, tokenize=False)
    assert whole == "<|bos|><|user|>where is the star?<|assistant|>center<|eos|>"


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", models.KINDS)
def test_the_usual_models_fit_the_limit(kind: str) -> None:
    with torch.device("meta"):
        made = {"image": models._llava, "video": models._qwen}[kind](models.SIZES[kind])
    count = sum(p.numel() for p in made.parameters())
    assert 5e6 < count < 7e6
    assert 4 * count < models.LIMIT


@pytest.mark.parametrize("kind", models.KINDS)
def test_a_saved_folder_loads_offline_and_sees(kind: str, tmp_path: Path) -> None:
    sizes = models.small(kind)
    before = torch.random.get_rng_state()
    model = models.make(kind, sizes).eval()
    assert torch.equal(before, torch.random.get_rng_state())
    models.save(model, kind, sizes, tmp_path)
    loaded = foveate.load(tmp_path)
    item = tasks.generate("attribute", 0, 1, size=112)[0]
    prompt = loaded.prompt(item.messages)
    assert prompt.visuals[0].grid == (1, 112 // sizes.token, 112 // sizes.token)
    seen = supervise.sight(
        Diet(kind, sizes, "joint", batch=1).make(1)._replace(kind="image", pixels=picture(item)), sizes
    )
    torch.testing.assert_close(seen["pixel_values"], prompt.inputs["pixel_values"], atol=1e-5, rtol=0)
    with torch.no_grad():
        there, here = (m(**prompt.inputs).logits for m in (loaded.model, model))
    torch.testing.assert_close(there, here)
    with foveate.apply(loaded.model, "divprune(keep=0.25)") as report:
        loaded.model.generate(**prompt.inputs, max_new_tokens=2, do_sample=False)
    assert report.rows[0].tokens_out < report.rows[0].tokens_in


def picture(item: tasks.Item) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(m) for m in item.media])[None])


def test_clips_are_cut_as_the_prompt_builder_cuts_them(tmp_path: Path) -> None:
    sizes = models.small("video")
    models.save(models.make("video", sizes), "video", sizes, tmp_path)
    item = tasks.generate("direction", 0, 1, frames=8, fps=4)[0]
    prompt = foveate.load(tmp_path).prompt(item.messages)
    batch = Diet("video", sizes, "joint", batch=3).make(0)
    batch = batch._replace(
        kind="video", pixels=picture(item), ids=prompt.inputs["input_ids"], mask=prompt.inputs["attention_mask"],
        step_seconds=0.5,
    )  # fmt: skip
    ours = supervise.inputs(batch, sizes)
    assert set(ours) == set(prompt.inputs)
    for name, value in prompt.inputs.items():
        torch.testing.assert_close(ours[name], value, check_dtype=False, atol=1e-5, rtol=0)


def test_a_lab_model_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(builtin, "WEIGHTS", tmp_path)
    with pytest.raises(InputError, match=r"^'lab/image' is not trained here; make it with: foveate lab train image"):
        foveate.load("lab/image")
    models.save(models.make("image", models.small("image")), "image", models.small("image"), tmp_path / "image")
    loaded = foveate.load("lab/image")
    assert loaded.name == "lab/image"
    assert loaded.trained


# --- data and labels --------------------------------------------------------------------------------------------------


def same(a: Any, b: Any) -> bool:
    tensors = all(torch.equal(getattr(a, k), getattr(b, k)) for k in ("pixels", "ids", "mask", "answer"))
    return tensors and a.tasks == b.tasks and all(torch.equal(a.labels[k], b.labels[k]) for k in a.labels)


def test_batches_do_not_depend_on_workers_or_on_where_one_begins() -> None:
    diet = Diet("image", models.small("image"), "joint", batch=2, turns=2)
    here = [batch for batch, _ in zip(serve(diet, 0, 0), range(5))]
    there = [batch for batch, _ in zip(serve(diet, 2, 2), range(3))]
    assert all(same(a, b) for a, b in zip(here[2:], there))
    assert not same(here[0], here[1])
    other = Diet("image", models.small("image"), "joint", seed=1, batch=2, turns=2).make(0)
    assert not same(here[0], other)


@pytest.mark.parametrize("kind", models.KINDS)
def test_only_answers_are_learned(kind: str, words: Any) -> None:
    diet = Diet(kind, models.small(kind), "joint", batch=3)
    for step in range(6):
        batch = diet.make(step)
        learned = batch.answer >= 0
        assert bool((batch.mask[learned] == 1).all())
        assert int(batch.answer.max()) == len(batch.tasks) - 1
        ends = (batch.ids == words.eos_token_id) & learned
        assert int(ends.sum()) == len(batch.tasks)
        if batch.kind != "text":
            tokens = (batch.ids == words.convert_tokens_to_ids(f"<|{batch.kind}_pad|>")).sum(1)
            sizes = models.small(kind)
            cells = batch.pixels.shape[2] * batch.pixels.shape[3] // sizes.token**2
            assert set(tokens.tolist()) == {cells * -(-batch.pixels.shape[1] // sizes.temporal)}


def test_difficulty_rises_and_descriptions_become_rare() -> None:
    diet = Diet("image", models.small("image"), "joint", batch=10, ramp=100)
    assert [diet.ease(s) for s in (0, 5, 10, 99)] == [0, 0.5, 1, 1]
    told = [sum(t == "describe" for s in steps for t in diet.make(s).tasks) for steps in (range(3), range(50, 53))]
    assert told[0] > told[1]


def test_cells_belong_to_their_token() -> None:
    sizes = models.small("video")
    heads = supervise.Heads(8, sizes, whole=False)
    side = sizes.token // 7
    labels = (
        torch.arange(3)[None, :, None, None] * 100
        + torch.arange(2 * side)[:, None] // side * 10
        + torch.arange(2 * side) // side
    )
    cells = heads.cells(labels.to(torch.int16))
    assert cells.shape == (1, 2, 2, 2, 2 * side**2)
    assert set(cells[0, 0, 1, 0].tolist()) == {10, 110}
    assert set(cells[0, 1, 0, 1].tolist()) == {201}


def test_quarters_of_a_large_token_show_several_things() -> None:
    sizes = models.small("video")
    heads = supervise.Heads(8, sizes, whole=False)
    side = 2 * sizes.token // 7
    labels = torch.zeros(1, 2, side, side, dtype=torch.int8)
    labels[0, 0, 0, 0], labels[0, 1, 0, 0], labels[0, 1, -1, -1] = 3, 4, 5  # two in the first quarter, one in the last
    want = heads.cells(labels)
    sure = torch.full((16, 9), -20.0)
    sure[0, 3], sure[0, 4], sure[15, 5] = 20.0, 20.0, 20.0
    loss, right = heads._several(sure, want, 9)
    assert loss < 1e-6
    assert right == 1
    sure[0, 3] = -20.0
    loss, right = heads._several(sure, want, 9)
    assert loss > 1
    assert right == 1  # the surest class is still there


# --- schedule and checkpoint ------------------------------------------------------------------------------------------


def test_the_learning_rate() -> None:
    assert schedule.rate(0, 0.0, 10) == 0.1
    assert schedule.rate(10, 0.5, 10) == 1
    assert schedule.rate(500, 0.79, 10) == 1
    late = [schedule.rate(500, gone, 10) for gone in (0.85, 0.9, 1.0)]
    assert late == sorted(late, reverse=True)
    assert late[-1] == 0
    assert Budget(seconds=10).gone(99, 5) == 0.5
    assert Budget(steps=10).part(0.2) == Budget(None, 2)


def test_a_checkpoint_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a" / "c.safetensors"
    checkpoint.write(path, {"x": torch.ones(2)}, {"step": 1})

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as m:
        m.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            checkpoint.write(path, {"x": torch.zeros(2)}, {"step": 2})
    tensors, state = checkpoint.read(path)
    assert state == {"step": 1}
    assert torch.equal(tensors["x"], torch.ones(2))
    path.write_bytes(b"damaged")
    with pytest.raises(InputError, match="no checkpoint of the lab"):
        checkpoint.read(path)
    with pytest.raises(InputError, match="train without --resume"):
        checkpoint.read(tmp_path / "none")


# --- training ---------------------------------------------------------------------------------------------------------


def losses(path: Path) -> list[tuple[str, int, float]]:
    return [(r["stage"], r["step"], r["loss"]) for r in json.loads((path / "log.json").read_text())["history"]]


@pytest.mark.parametrize("kind", models.KINDS)
def test_train_stop_resume_and_evaluate(kind: str, tmp_path: Path) -> None:
    items = len(VIDEO + IMAGE)
    whole = train(recipe(kind), steps=10, out=tmp_path / "whole", items=items)
    assert whole.finished
    assert whole.result is not None
    for stop in (1, 5):  # in the dense stage, then in the joint one
        seen: list[dict[str, Any]] = []

        def tell(record: dict[str, Any], gone: float, seen: list[dict[str, Any]] = seen, stop: int = stop) -> None:
            seen.append(record)
            if len(seen) == stop - (0 if stop == 1 else 1):
                os.kill(os.getpid(), signal.SIGTERM)

        half = train(recipe(kind), steps=10, out=tmp_path / "half", resume=stop > 1, items=items, tell=tell)
        assert not half.finished
        assert len(losses(tmp_path / "half")) == stop
        assert not (tmp_path / "half" / "config.json").exists()
    rest = train(recipe(kind), steps=10, out=tmp_path / "half", resume=True, items=items)
    assert rest.finished
    assert losses(tmp_path / "half") == losses(tmp_path / "whole")
    assert rest.result is not None
    assert rest.result["tasks"] == whole.result["tasks"]
    a, b = (foveate.load(tmp_path / k).model.state_dict() for k in ("half", "whole"))
    assert all(torch.equal(a[k], b[k]) for k in b)
    files = {p.name for p in (tmp_path / "whole").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "loss.png", "log.json"} <= files
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]
    card = (tmp_path / "whole" / "README.md").read_text()
    assert all(part in card for part in ("## Data", "## Compute", "## Accuracy", "## Limits", "| joint |"))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_longer_run_goes_on_from_before_the_decay(tmp_path: Path) -> None:
    short = Run(recipe("image"), Budget(steps=10), tmp_path, torch.device("cpu"))
    assert short.go()
    longer = Run(recipe("image"), Budget(steps=20), tmp_path, torch.device("cpu"))
    longer.resume()
    assert longer.state.stage == "joint"
    assert longer.state.step == 7  # of 8; the rate was still full then
    assert longer.go()
    assert longer.state.step == 18  # all but the two of the dense stage


def test_the_joint_stage_learns(tmp_path: Path) -> None:
    made = Run(recipe("image", peak=3e-3, ramp=10**9), Budget(steps=45), tmp_path, torch.device("cpu"))
    assert made.go()
    loss = {stage: [r["loss"] for r in made.state.history if r["stage"] == stage] for stage in ("dense", "joint")}
    assert loss["dense"][-1] < loss["dense"][0]
    assert loss["joint"][-1] < 0.7 * loss["joint"][0]


def test_a_step_without_finite_gradients_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Run(recipe("image", share=1.0), Budget(steps=1), tmp_path, torch.device("cpu"))
    before = {k: v.clone() for k, v in made.model.state_dict().items()}
    real = steps.dense

    def broken(*args: Any) -> steps.Learned:
        learned = real(*args)
        return learned._replace(loss=learned.loss * float("nan"))

    monkeypatch.setattr(steps, "dense", broken)
    assert made.go()
    assert made.state.skipped == 1
    assert all(torch.equal(v, before[k]) for k, v in made.model.state_dict().items())


def test_what_train_refuses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'image' or 'video'"):
        train("audio", minutes=1, out=tmp_path)
    with pytest.raises(InputError, match="either 'minutes' or 'steps'"):
        train("image", out=tmp_path)
    with pytest.raises(InputError, match="'minutes' must be above 0"):
        train("image", minutes=0, out=tmp_path)
    with pytest.raises(InputError, match="no device 'abacus'"):
        train("image", minutes=1, out=tmp_path, device="abacus")
    with pytest.raises(InputError, match="there is no checkpoint"):
        train(recipe("image"), steps=4, out=tmp_path, resume=True)
    Run(recipe("image"), Budget(steps=0), tmp_path, torch.device("cpu")).go()
    with pytest.raises(InputError, match="holds a run already; go on with --resume"):
        train(recipe("image"), steps=4, out=tmp_path)
    with pytest.raises(InputError, match="has another seed"):
        train(recipe("image", seed=1), steps=4, out=tmp_path, resume=True)


# --- evaluation -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model")
    models.save(models.make("image", models.small("image")), "image", models.small("image"), out)
    return out


def test_eval_prints_json_and_nothing_else(folder: Path) -> None:
    out = run(app, ["lab", "eval", str(folder), "--n", "10", "--seed", "3", "--json", "--plan", "divprune(keep=0.25)"])
    assert out.exit_code == 0, out.output
    assert out.stderr == ""
    assert out.stdout.count("\n") == 1
    data = json.loads(out.stdout)
    assert data["n"] == 10
    assert set(data["tasks"]) == set(IMAGE)
    assert 0 <= data["accuracy"] <= 1
    for task in data["tasks"].values():
        assert {"accuracy", "low", "high", "n"} <= set(task)
        assert 0 <= task["low"] <= task["accuracy"] <= task["high"] <= 1
    assert sum(t["n"] for t in data["tasks"].values()) == 10
    assert data["visual_tokens"] == 64
    assert data["kept_tokens"] == 16
    assert 0 < data["evidence_kept"] < 1


def test_eval_for_people(folder: Path) -> None:
    out = run(app, ["lab", "eval", str(folder), "--n", "3", "--tasks", "shape, read", "--difficulty", "0"])
    assert out.exit_code == 0, out.output
    assert "95% interval" in out.stdout
    assert "64.0 of 64.0 visual tokens" in out.stdout


def test_evaluation_is_right_about_right_and_wrong(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = foveate.load(folder)
    said = iter(["<|pad|>"])
    answers = [i.answer for i in tasks.generate("attribute", 0, 4)]
    monkeypatch.setattr(type(loaded), "decode", lambda self, ids: [*answers[:3], next(said)])
    result = evaluate(loaded, n=4, tasks=["attribute"])
    assert result.accuracy == 0.75
    assert result.as_dict()["tasks"]["attribute"]["low"] == pytest.approx(0.3006, abs=1e-4)
    assert result.as_dict()["evidence_kept"] == 1
    assert [s[2] for s in result.said] == answers


def test_a_text_model_is_asked_texts() -> None:
    result = evaluate(foveate.load("tiny"), n=2, tasks=TEXT, frames=8)
    assert result.as_dict()["evidence_kept"] is None
    assert set(result.tallies) == set(TEXT)


def test_evidence_tokens_of_a_clip(folder: Path) -> None:
    item = tasks.generate("needle", 0, 1, frames=8, fps=4)[0]
    visual = foveate.load("tiny").prompt(item.messages).visuals[0]
    assert visual.grid is not None
    need = needed_tokens(item, visual)
    (x0, y0, x1, y1), time = item.evidence[0]
    assert time is not None
    times = torch.tensor(visual.item.times).view(visual.grid[0], -1)
    assert need.any(2).any(1).tolist() == ((times >= time[0]) & (times < time[1])).any(1).tolist()
    rows, cols = need.any(2).any(0).nonzero().flatten(), need.any(1).any(0).nonzero().flatten()
    for (first, last), (low, high), side, n in (
        ((rows.min(), rows.max()), (y0, y1), item.size[1], visual.grid[1]),
        ((cols.min(), cols.max()), (x0, x1), item.size[0], visual.grid[2]),
    ):
        cell = side / n
        assert first * cell <= low < (first + 1) * cell
        assert last * cell < high <= (last + 1) * cell


def test_wilson() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 0) == (0, 1)
    assert wilson(5, 5)[1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["eval", "tiny", "--tasks", "atribute"], "did you mean 'attribute'"),
        (["eval", "tiny", "--tasks", ","], "--tasks names no task"),
        (["eval", "tiny", "--n", "1"], "at least the number of tasks"),
        (["eval", "tiny", "--n", "40", "--batch", "0"], "'batch' must be at least 1"),
        (["eval", "tiny", "--n", "40", "--difficulty", "2"], "'difficulty' must be in 0..1"),
        (["eval", "tiny", "--n", "40", "--plan", "divprun"], "did you mean 'divprune'"),
        (["train", "audio", "--minutes", "1"], "KIND must be one of image, video"),
        (["train", "image"], "say how long to train"),
        (["train", "image", "--minutes", "1", "--batch", "0"], "--batch must be at least 1"),
        (["show", "atribute"], "did you mean 'attribute'"),
        (["show", "shape", "--n", "0"], "'n' must be at least 1"),
    ],
)
def test_errors_are_one_line(command: list[str], said: str) -> None:
    out = run(app, ["lab", *command])
    assert out.exit_code == 2
    assert said in out.stderr
    assert out.stderr.count("\n") == 1


# --- the commands -----------------------------------------------------------------------------------------------------


def test_train_and_resume_from_the_command_line(tmp_path: Path) -> None:
    command = ["lab", "train", "image", "--small", "--batch", "4", "--workers", "0", "--items", "10"]
    out = run(app, [*command, "--minutes", "0.02", "--out", str(tmp_path / "m")])
    assert out.exit_code == 0, out.output
    assert "new items" in out.stdout
    out = run(app, [*command, "--minutes", "0.03", "--out", str(tmp_path / "m"), "--resume"])
    assert out.exit_code == 0, out.output
    told = json.loads((tmp_path / "m" / "log.json").read_text())
    assert sum(s["seconds"] for s in told["stages"].values()) >= 1.8 * 0.99


@pytest.mark.parametrize("task", ["counting", "direction", "recall"])
def test_show(task: str, tmp_path: Path) -> None:
    out = run(app, ["lab", "show", task, "--out", str(tmp_path / "sheet.png"), "--n", "3"])
    assert out.exit_code == 0, out.output
    assert min(Image.open(tmp_path / "sheet.png").size) > 50
    bad = run(app, ["lab", "show", task, "--out", str(tmp_path / "none" / "sheet.png"), "--n", "1"])
    assert bad.exit_code == 2
