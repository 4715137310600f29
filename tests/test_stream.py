"""Streams: answers from memory are those from the video as long as nothing was forgotten, and memory stays bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import foveate
from foveate.ask import answer
from foveate.errors import InputError, PlanError, UnsupportedModelError
from foveate.load import Loaded
from foveate.sites.model import anatomy
from foveate.stream import Stream
from foveate.stream.memory import LEAST_NEWS, Memory, within
from foveate.stream.prompts import recalled
from foveate.stream.recall import clock
from foveate.stream.seen import Seen
from foveate.stream.split import split
from stream_kit import SIZE, frames, model, same, watched

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava", "llava_onevision", "gemma3", "internvl")
ASK = "Which word?"
TIMES = [0.5 * i for i in range(12)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return model("qwen2_5_vl", tmp_path_factory.mktemp("stream"))


def asked(loaded: Loaded, plan: str = "", n: int = 12) -> Any:
    content = [{"type": "video", "video": frames(12)[:n], "times": TIMES[:n]}, {"type": "text", "text": ASK}]
    prompt = loaded.prompt([{"role": "user", "content": content}])
    return answer(loaded, prompt, foveate.Plan.of(plan), max_new_tokens=8)


def streamed(loaded: Loaded, plan: Any = "none", n: int = 12, **more: Any) -> Stream:
    live = Stream(loaded, plan, **{"cap": 10_000, "clip": 4, **more})
    live.push(frames(12)[:n], TIMES[:n])
    return live


# --- nothing forgotten: the same as the whole video -------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_without_forgetting_it_answers_as_from_the_whole_video(family: str, tmp_path: Path) -> None:
    loaded = model(family, tmp_path)
    live = streamed(loaded)
    with watched(loaded) as given:
        whole = asked(loaded)
        said = live.ask(ASK, max_new_tokens=8)
    same(given[0], given[1])
    assert said.text == whole.text
    assert said.prompt_tokens == whole.prompt_tokens


@pytest.mark.parametrize("plan", ["divprune(keep=0.5)", "aim(keep=0.5)", "tome(r=2)"])
def test_a_plan_leaves_the_tokens_and_positions_that_it_leaves_of_the_whole_clip(loaded: Loaded, plan: str) -> None:
    live = streamed(loaded, plan, clip=12)
    with watched(loaded) as given:
        whole = asked(loaded, plan)
        said = live.ask(ASK, max_new_tokens=8)
    same(given[0], given[1])
    assert said.text == whole.text


def test_positions_in_time_follow_the_frames_seconds(loaded: Loaded) -> None:
    live = Stream(loaded, "none", clip=2)
    times = [0.0, 1.0, 100.0, 101.0]
    live.push(frames(4), times)
    (seen,) = [Seen.cat(live.remembered())]
    prompt = recalled(loaded, [("", seen)], ASK)
    inside = anatomy(loaded.model).visual(prompt.inputs["input_ids"])[0]
    place = prompt.inputs["position_ids"][1, 0, inside]
    assert (place - place[0]).unique().tolist() == [0, 200]  # two positions a second


# --- questions --------------------------------------------------------------------------------------------------------


def test_a_question_is_answered_from_what_was_seen_before_it(loaded: Loaded) -> None:
    live = Stream(loaded, "none", cap=10_000, clip=4)
    for n, (frame, time) in enumerate(zip(frames(12), TIMES), 1):
        live.push(frame, time)
        if n in (2, 4, 6, 12):  # in the middle of a clip, and at its end
            assert live.ask(ASK, max_new_tokens=8).text == asked(loaded, n=n).text
    assert live.frames == 12


def test_asking_leaves_memory_and_model_alone(loaded: Loaded) -> None:
    live = streamed(loaded, "foveal(keep=0.5)", n=10)
    before = [c.seen.x.clone() for c in live.memory.clips]
    first = live.ask(ASK, max_new_tokens=4)
    again = live.ask(ASK, max_new_tokens=4)
    assert first.text == again.text
    assert all(torch.equal(a, c.seen.x) for a, c in zip(before, live.memory.clips, strict=True))
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in loaded.model.modules())


def test_stages_after_the_inputs_run_when_the_question_comes(loaded: Loaded) -> None:
    live = streamed(loaded, "divprune(keep=0.5) + fastv(layer=1, keep=0.5) + snapkv(keep=0.5, window=4)")
    said = live.ask(ASK, max_new_tokens=4)
    by = {r.method.split("(")[0]: r for r in said.report.ordered()}
    assert by["divprune"].tokens_in == 36
    assert by["divprune"].tokens_out == by["fastv"].tokens_in == live.tokens == 18
    assert by["fastv"].tokens_out == 9
    assert by["snapkv"].tokens_out < by["snapkv"].tokens_in


def test_a_method_that_needs_the_question_waits_for_it(loaded: Loaded) -> None:
    live = streamed(loaded, "quota(keep=0.5)")
    assert live.tokens == 36
    (row,) = [r for r in live.ask(ASK, max_new_tokens=2).report.rows if r.method.startswith("quota")]
    assert row.tokens_in == 36
    assert row.tokens_out < 36


def test_foveal_runs_without_the_question_while_frames_arrive(loaded: Loaded) -> None:
    first, late = split(foveate.Plan.of("foveal(keep=0.5) + snapkv"))
    assert [str(m) for m in first] == ["foveal(keep=0.5, query=0.0)"]
    assert [m.name for m in late] == ["snapkv"]
    assert [str(m) for m in split(foveate.Plan.of("foveal"), known=True)[0]] == ["foveal"]


def test_a_budget_takes_the_clips_that_fit_best(loaded: Loaded) -> None:
    live = streamed(loaded)
    for by in ("embeddings", "model"):
        said = live.ask(ASK, budget=12, by=by, max_new_tokens=2)
        assert [s.tokens for s in said.sources] == [12]
        assert said.as_dict()["visual_tokens"] == 12
    assert live.ask(ASK, max_new_tokens=2).sources[0].tokens == 36


def test_a_stretch_is_shown_as_a_video_of_its_own(loaded: Loaded) -> None:
    live = streamed(loaded)
    with watched(loaded) as given:
        said = live.ask(ASK, between=(2.0, 3.5), max_new_tokens=8)
        alone = Stream(loaded, "none", clip=4)
        alone.push(frames(12)[4:8], [0.0, 0.5, 1.0, 1.5])
        given[1:] = []
        other = alone.ask(ASK, max_new_tokens=8)
    same(given[0], given[1])
    assert said.text == other.text
    assert (said.sources[0].start, said.sources[0].stop) == (2.0, 3.5)
    with pytest.raises(InputError, match=r"nothing is remembered between 60 and 70 s, only 00:00 to 00:05.5"):
        live.ask(ASK, between=(60, 70))


# --- memory -----------------------------------------------------------------------------------------------------------


def test_memory_never_passes_the_cap(loaded: Loaded) -> None:
    live, most = Stream(loaded, "none", cap=30, clip=2), 0
    for i in range(40):
        live.push(frames(1, seed=i)[0], i)
        assert live.tokens <= 30
        most = max(most, live.nbytes) if i > 10 else most
        if i > 30:
            assert live.nbytes <= most
    assert live.ask(ASK, max_new_tokens=1).sources[0].stop == 39
    assert live.memory.clips[0].seen.time[0] == 0, "what is old is thinned, not cut off"


def test_more_clips_than_the_cap_has_tokens(loaded: Loaded) -> None:
    live = Stream(loaded, "none", cap=3, clip=2)
    for i in range(20):
        live.push(frames(1, seed=i)[0], i)
    assert 0 < live.tokens <= 3
    assert live.ask(ASK, max_new_tokens=1).text is not None


def _seen(x: torch.Tensor, slot: int) -> Seen:
    n = len(x)
    one = torch.ones(n)
    cell = torch.stack([torch.arange(n) // 4, torch.arange(n) % 4], 1)
    at = torch.full((n,), slot)
    return Seen(
        x,
        x.new_empty(0, n, x.shape[1]),
        at,
        at.double(),
        at.double(),
        cell,
        one.long() * 4,
        one,
        x[:0],
        at[:2].double(),
    )


def test_clips_that_bring_news_keep_more() -> None:
    (method,) = foveate.Plan.of("divprune")
    memory, still = Memory(96, 0.0, method), torch.randn(16, 32)
    for i in range(40):
        memory.add(_seen(torch.randn(16, 32) if i == 20 else still, i))
    assert memory.n <= 96
    kept = {int(c.seen.slot[0]): c.seen.n for c in memory.clips}
    assert kept[20] > 2 * max(n for s, n in kept.items() if s not in (0, 20, 21))
    assert min(c.news for c in memory.clips) == LEAST_NEWS


def test_recent_clips_stay_whole() -> None:
    (method,) = foveate.Plan.of("divprune")
    memory = Memory(64, 0.5, method)
    for i in range(30):
        memory.add(_seen(torch.randn(16, 32), i))
    assert [c.seen.n for c in memory.clips[-2:]] == [16, 16]
    assert max(c.seen.n for c in memory.clips[:-2]) < 16


def test_within_takes_the_best_in_order_of_time() -> None:
    clips = [_seen(torch.randn(4, 8), i) for i in range(4)]
    assert within(clips, [0.1, 0.9, 0.2, 0.8], 8) == [1, 3]
    assert within(clips, [0.5, 0.5, 0.5, 0.5], 4) == [0]
    assert within(clips, [0.1, 0.9, 0.2, 0.8], 1) == [1], "at least one"


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "time", "said"),
    [
        (frames(1)[0], 0.5, "times must ascend: 0.5 s comes after 1 s"),
        (frames(1)[0], float("nan"), "times must ascend"),
        (frames(2), [2.0], "2 frames and 1 times"),
        (Image.new("RGB", (60, 60)), 2.0, "60x60 comes after 84x56"),
    ],
)
def test_wrong_frames_are_refused(loaded: Loaded, frame: Any, time: Any, said: str) -> None:
    live = Stream(loaded, "none")
    live.push(frames(1)[0], 1.0)
    with pytest.raises(InputError, match=said):
        live.push(frame, time)
    assert live.frames == 1


def test_wrong_settings_are_refused(loaded: Loaded) -> None:
    for more in ({"cap": 0}, {"clip": 0}, {"recent": 1.5}, {"merge": "divprune + aim"}):
        with pytest.raises(InputError):
            Stream(loaded, **more)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="option 'keep'"):
        Stream(loaded, merge="videoscan")
    with pytest.raises(PlanError, match="all frames of a video"):
        Stream(loaded, "bolt")
    with pytest.raises(PlanError, match="gone with the frames"):
        Stream(loaded, "recoverable_compression")
    live = Stream(loaded)
    with pytest.raises(InputError, match="nothing was seen yet"):
        live.ask(ASK)
    live.push(frames(1)[0])
    for more in ({"question": " "}, {"question": ASK, "budget": 0}, {"question": ASK, "max_new_tokens": 0}):
        with pytest.raises(InputError):
            live.ask(**more)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'by' must be"):
        streamed(loaded).ask(ASK, budget=1, by="guess")


def test_a_model_that_cannot_look_is_refused(tmp_path: Path) -> None:
    live = Stream(model("text", tmp_path), "none", clip=1)
    with pytest.raises(UnsupportedModelError):
        live.push(frames(1)[0])


def test_times_of_bare_pictures_and_of_video_frames(loaded: Loaded) -> None:
    live = Stream(loaded, "none", clip=8)
    live.push(frames(2))
    assert [t for _, t in live._pending] == [0.0, 0.5]
    assert live._pending[0][0].size == SIZE


def test_clock() -> None:
    assert [clock(t) for t in (0, 9.96, 61.5, 3725)] == ["00:00", "00:10", "01:01.5", "1:02:05"]
