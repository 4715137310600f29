"""The study of videos, on an untrained model and an item of each task."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import foveate
from foveate.bench import clips, exam, pareto, verdict, video
from foveate.bench.desk import FULL, Desk
from foveate.bench.shelf import Shelf
from foveate.errors import InputError
from foveate.lab import models
from foveate.load import Loaded

KEEPS, FRAMES = (0.5, 0.1), (8, 12)
N = len(clips.TASKS)
ONLY = ["dycoke", "fastv"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where, little = tmp_path_factory.mktemp("model"), models.small("video")
    sizes = replace(little, text=replace(little.text, layers=4))  # room for methods at several layers
    models.save(models.make("video", sizes), "video", sizes, where)
    return where


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Loaded:
    return foveate.load(folder, device="cpu")


@pytest.fixture(scope="module")
def out(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results") / "video.json"
    video.run(path, str(folder), N, 0, KEEPS, ONLY, 1, FRAMES)
    return path


def test_rows_and_goals(out: Path) -> None:
    data = json.loads(out.read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = data["rows"]
    plans = {(FULL, 1.0), *((m, k) for m in ("random", "dycoke", "fastv") for k in KEEPS)}
    assert {(r["method"], r["keep"], r["frames"]) for r in rows} == {(*p, n) for p in plans for n in FRAMES}
    for row in rows:
        assert set(row["tasks"]) == {*clips.TASKS, "motion", "moment", "counting", "overall"}
        assert row["tasks"]["overall"]["n"] == N
        if row["method"] != FULL:
            assert row["kept"] == pytest.approx(row["keep"], rel=0.2)
            assert row["flops"] < row["flops_full"]
            assert row["tasks"]["needle"]["evidence"] <= 1
    tokens = {r["frames"]: r["tokens"] for r in rows if r["method"] == FULL}
    assert tokens[12] == 1.5 * tokens[8]
    assert any("12 frames" in g["goal"] for g in data["goals"])
    assert "bolt" in data["left_out"]


def test_a_second_run_asks_nothing(out: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("asked again")

    before = json.loads(out.read_text(encoding="utf-8"))["rows"]
    for name in ("_sheet", "_kept", "_cost"):
        monkeypatch.setattr(Desk, name, never)
    video.run(out, str(folder), N, 0, KEEPS, ONLY, 1, FRAMES)
    assert json.loads(out.read_text(encoding="utf-8"))["rows"] == before


def test_plots_and_pages(out: Path) -> None:
    made = [p.name for p in pareto.plots(out)]
    assert made == [f"video{end}.png" for end in ("", "_counting", "_motion", "_moment", "_needle", "_dialogue")]
    text = verdict.section("dycoke", out)
    assert text is not None
    assert "**12 frames.**" in text
    assert "| 8 | full model | 100% |" in text
    assert "Not in the study" in (verdict.section("bolt", out) or "")


def test_a_clip_keeps_every_frame(out: Path) -> None:
    for frames in FRAMES:
        item = clips.opened(clips.items_of(0, N, out.parent / ".cache", frames=frames)[0][1])
        assert len(item.messages[0]["content"][0]["video"]) == len(item.times) == frames


def test_parts_answer_as_single_items_do(loaded: Loaded, out: Path) -> None:
    found = [f for f in clips.items_of(0, N, out.parent / ".cache", frames=8) if len(f[1].answer) < 7]
    for plan in ("", "dycoke(keep=0.25)", "fastv(layer=1, keep=0.3)"):
        together = Shelf(loaded, found, 4, 4, clips.opened).ask(plan)
        alone = Shelf(loaded, found, 1, 1, clips.opened).ask(plan)
        assert all(a.startswith(b) or b.startswith(a) for a, b in zip(together.said, alone.said)), plan
        assert together.kept == alone.kept
        assert together.evidence == alone.evidence


def test_a_conversation_is_what_one_prompt_is(loaded: Loaded, out: Path) -> None:
    items = clips.items_of(0, 3 * N, out.parent / ".cache", frames=8)
    found = [(t, clips.opened(i)) for t, i in items if t == "dialogue_video"]
    ready = exam.prepare(loaded, found)  # rows whose conversations differ in length
    said = exam.ask(ready, loaded, "").said
    for (_, item), words in zip(found, said):
        prompt = loaded.prompt(item.messages)
        with torch.inference_mode():
            whole = loaded.model.generate(**prompt.inputs, max_new_tokens=ready.batches[0].most, do_sample=False)
        assert words == loaded.decode(whole[:, prompt.n :])[0].strip()


def test_bad_input(folder: Path, tmp_path: Path) -> None:
    for items, keeps, only, frames in (
        (3, KEEPS, [], FRAMES),
        (N, (0.0,), [], FRAMES),
        (N, KEEPS, ["bolt"], FRAMES),
        (N, KEEPS, [], (4,)),
        (N, KEEPS, [], ()),
    ):
        with pytest.raises(InputError):
            video.run(tmp_path / "video.json", str(folder), items, 0, keeps, only, 1, frames)
