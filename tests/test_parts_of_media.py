"""Parts of videos, directories, several media at once, and questions split by the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import foveate
from foveate.ask import ask
from foveate.choose import collages, smaller
from foveate.errors import InputError, MediaError
from foveate.prompt.contents import contents
from foveate.questions import decompose, parsed
from foveate.video import Limits, write_video
from foveate.video.part import part_of


@pytest.fixture(scope="module")
def loaded() -> Any:
    return foveate.load("tiny")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two videos and a picture, and things that are none."""
    for name in ("b.mp4", "a.mp4"):
        write_video(tmp_path / name, (Image.new("RGB", (64, 48), (10 * i, 90, 90)) for i in range(20)), 10)
    Image.new("RGB", (64, 48)).save(tmp_path / "c.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "deeper").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "start", "stop"),
    [
        ("a.mp4[00:10-00:25]", 10, 25),
        ("a.mp4[1:02:03.5-]", 3723.5, None),
        ("a.mp4[-0:05]", 0, 5),
        ("a.mp4[7.5 - 90]", 7.5, 90),
        ("a[1].mp4", 0, None),
        ("a.mp4", 0, None),
    ],
)
def test_parts(text: str, start: float, stop: float | None) -> None:
    part = part_of(text)
    assert (part.start, part.stop) == (start, stop)
    assert part.path.name == ("a[1].mp4" if "[1]" in text else "a.mp4")


@pytest.mark.parametrize("text", ["a.mp4[5-2]", "a.mp4[1:75-]", "a.mp4[1:2:3:4-]", "a.mp4[1..2-3]", "a.mp4[1.5:10-]"])
def test_parts_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match=r"no time|ends before"):
        part_of(text)


def test_a_file_with_brackets_in_its_name(tmp_path: Path) -> None:
    path = tmp_path / "take[1-2]"
    Image.new("RGB", (8, 8)).save(path, format="PNG")
    assert part_of(path).path == path


def test_directories(folder: Path) -> None:
    found = contents(folder)
    assert [(e["type"], e[e["type"]].name) for e in found] == [
        ("video", "a.mp4"),
        ("video", "b.mp4"),
        ("image", "c.png"),
    ]
    with pytest.raises(MediaError, match="directory without pictures and videos"):
        contents(folder / "deeper")
    (folder / "d.png").write_bytes(b"broken")
    with pytest.raises(MediaError, match=r"d\.png"):  # meant as a picture, so it is not passed over
        ask(folder, "What?", model="tiny", max_new_tokens=1)
    with pytest.raises(InputError, match="is a picture; only videos have parts"):
        contents(f"{folder / 'c.png'}[0-1]")


def test_ask_takes_parts_and_several(folder: Path, loaded: Any) -> None:
    given = [f"{folder / 'a.mp4'}[0:00.5-0:01]", folder / "c.png", str(folder / "b.mp4")]
    said = ask(given, "What?", model=loaded, frames=3, plan="none", max_new_tokens=1)
    items = list(dict.fromkeys(id(v.item) for v in said.prompt.visuals))
    times = [t for v in said.prompt.visuals for t in v.item.times]
    assert len(items) >= 3
    assert times[:3] == pytest.approx([0.5, 0.7, 0.9])
    assert max(times) > 1.5
    with pytest.raises(MediaError, match="more than 3,071"):
        ask(folder / "c.png", "What?", model=loaded, limits=Limits(pixels=3071), max_new_tokens=1)
    with pytest.raises(InputError, match="is no part of"):
        ask(f"{folder / 'a.mp4'}[9-10]", "What?", model=loaded, max_new_tokens=1)


# --- frames shown smaller, or together ----------------------------------------------------------------------------


def film(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (64, 48), (20 * i, 255 - 20 * i, 90)) for i in range(count)]


def test_clips_are_shown_smaller(loaded: Any) -> None:
    said = ask([film(9)], "What?", model=loaded, plan="f2c(frames=2, clips=2, scale=0.5)", max_new_tokens=1)
    shown = [f for v in said.prompt.visuals for f in v.item.frames]
    assert {f.size for f in shown} == {(32, 24)}
    assert len(shown) == 8


def test_frames_share_a_picture(loaded: Any) -> None:
    said = ask([film(9)], "What?", model=loaded, plan="thumbnail_grid(frames=6, cells=4)", max_new_tokens=1)
    shown = [f for v in said.prompt.visuals for f in v.item.frames]
    assert [f.size for f in shown] == [(64, 48)] * 2
    picked = [0, 2, 3, 5, 6, 8]
    corners = [(4, 4), (60, 4), (4, 44), (60, 44)]
    assert [shown[0].getpixel(c) for c in corners] == [(20 * i, 255 - 20 * i, 90) for i in picked[:4]]
    assert shown[1].getpixel((60, 44)) == (0, 0, 0)
    assert [t for v in said.prompt.visuals for t in v.item.times] == [0.0, 3.0]


def test_layout() -> None:
    assert smaller(film(1)[0], 1.0).size == (64, 48)
    assert smaller(film(1)[0], 0.01).size == (2, 2)
    assert collages(film(3), 1) == film(3)
    assert len(collages(film(7), 6)) == 2


# --- questions ----------------------------------------------------------------------------------------------------


def test_lines_that_are_questions() -> None:
    text = "Sure:\n1. Who enters?\n2) What colour is it?\n- Who enters?\n\n* Is it late?\nnot a question\n(4) Why?"
    assert parsed(text, 9) == ["Who enters?", "What colour is it?", "Is it late?", "Why?"]
    assert parsed(text, 2) == ["Who enters?", "What colour is it?"]
    assert parsed("", 4) == []


def test_a_model_that_has_no_questions_leaves_the_one(loaded: Any) -> None:
    assert decompose(loaded, " Who enters? ", max_new_tokens=4) == ["Who enters?"]
    with pytest.raises(InputError, match="empty"):
        decompose(loaded, " ")
    with pytest.raises(InputError, match="at least 1"):
        decompose(loaded, "Who?", most=0)


def test_frames_are_compared_with_all_questions(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from foveate import choose
    from foveate.media.bolt import BOLT

    lengths: list[int] = []
    reduce = BOLT.reduce
    monkeypatch.setattr(BOLT, "reduce", lambda self, t: lengths.append(t.need("text").shape[1]) or reduce(self, t))
    monkeypatch.setattr(choose, "decompose", lambda loaded, question: ["Who enters?", "What colour is it?"])
    for split in (False, True):
        ask([film(4)], "Who?", model=loaded, plan="bolt(frames=2)", decompose=split, max_new_tokens=1)
    assert lengths[1] > lengths[0]


# --- what the methods choose --------------------------------------------------------------------------------------


def chosen(plan: str, **signals: torch.Tensor) -> list[int]:
    (m,) = foveate.spec.parse(plan)
    return m.reduce(foveate.Tokens(**signals)).keep[0].tolist()


def scenes(*lengths: int) -> torch.Tensor:
    """Features of scenes of these lengths, one direction each, (1, T, D)."""
    return torch.eye(len(lengths)).repeat_interleave(torch.tensor(lengths), 0)[None]


def test_uniform_and_fixed_rates() -> None:
    x = torch.zeros(1, 10, 2)
    assert chosen("uniform(frames=5)", x=x) == [1, 3, 5, 7, 9]
    assert chosen("uniform(frames=99)", x=x) == list(range(10))
    times = torch.tensor([[0.0, 0.1, 0.5, 0.9, 1.0, 1.2, 3.0, 3.4, 3.5, 9.0]])
    assert chosen("fps(rate=2)", x=x, times=times) == [0, 2, 4, 6, 8, 9]
    assert chosen("fps(rate=2, most=3)", x=x, times=times) == [0, 4, 9]


def test_scenes() -> None:
    x = scenes(3, 5, 2)
    pixels = (x.argmax(-1) * 60.0).view(1, 10, 1, 1, 1).expand(1, 10, 3, 8, 8)
    assert chosen("scene_change(frames=3)", x=x, pixels=pixels) == [1, 5, 8]
    assert chosen("density(frames=3)", x=x) == [0, 3, 8]
    assert chosen("tdc_frames(frames=3)", x=x) == [0, 3, 8]
    assert chosen("tdc_frames(frames=4, chunk=4, cuts=2)", x=x) == [0, 3, 7, 8]


def test_still_frames_are_left_out() -> None:
    pixels = torch.zeros(1, 8, 3, 16, 16)
    pixels[:, 3:, :, :, :8] = 90
    pixels[:, 6, :, 0, 0] = 255  # a single pixel is no motion
    assert chosen("grt_frames", x=torch.zeros(1, 8, 2), pixels=pixels) == [0, 3]
    slow = (torch.arange(8.0) * 5).view(1, 8, 1, 1, 1).expand(1, 8, 3, 16, 16)
    assert chosen("grt_frames(threshold=12)", x=torch.zeros(1, 8, 2), pixels=slow) == [0, 3, 6]
    assert chosen("grt_frames(threshold=2, frames=3)", x=torch.zeros(1, 8, 2), pixels=slow) == [0, 4, 7]


def test_frames_that_fit_the_question() -> None:
    x = torch.tensor([[[0.0, 1], [0, 1], [0.1, 1], [1, 0.1], [1, 0.1], [0.2, 1], [0, 1], [0.9, 0.4]]])
    text = torch.tensor([[[1.0, 0]]])
    assert chosen("bvllm_frames(frames=2, threshold=0.99)", x=x, text=text) == [3, 7]
    assert 3 in chosen("quota_frames(frames=4, stretches=4)", x=x, text=text)
    assert len(chosen("quota_frames(frames=4, stretches=4)", x=x, text=text)) == 4
    assert chosen("f2c(frames=3, clips=1, scale=1)", x=x, text=text) == [3, 4, 5]
    assert chosen("f2c(frames=2, clips=2, scale=1)", x=x, text=text) == [3, 7]
