"""Decoding while encoding: the same prompt, features and words as decoding first, and errors that arrive."""

from __future__ import annotations

import threading

import pytest
import torch

import foveate
from foveate import overlap
from foveate.ask import ask
from foveate.errors import InputError, MediaError, PlanError, UnsupportedModelError
from foveate.load import load
from foveate.sites.vision import NOTE
from foveate.video import demo_clip
from foveate.video.read import Video
from model_folders import make


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return demo_clip(tmp_path_factory.mktemp("clip") / "demo.mp4").path


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


def asked(*media, question="What happens?"):
    content = [{"type": "video", "video": m} if not isinstance(m, dict) else m for m in media]
    return [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]


def test_the_same_prompt_and_the_same_features(clip, tiny):
    messages = asked({"type": "video", "path": str(clip), "start": 0.5, "stop": 2.0}, clip)
    first = tiny.prompt(messages, 11)
    with overlap.opened(tiny, messages, 11, interval=3) as ahead:
        assert "pixel_values_videos" not in ahead.prompt.inputs
        assert not ahead.prompt.visuals[0].item.frames
        given = ahead.inputs()
    out = given.pop("mm_encoder_outputs")["video"]
    pixels = first.inputs.pop("pixel_values_videos")
    assert given.keys() == first.inputs.keys()
    assert all(torch.equal(given[k], first.inputs[k]) for k in given)
    with torch.no_grad():
        plain = tiny.model.model.get_video_features(pixels, first.inputs["video_grid_thw"], return_dict=True)
    assert len(out.pooler_output) == len(plain.pooler_output) == 2
    for mine, theirs in zip(out.pooler_output, plain.pooler_output):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(ahead.prompt.visuals, first.visuals):
        assert [f.tobytes() for f in mine.item.frames] == [f.tobytes() for f in theirs.item.frames]
        assert (mine.grid, mine.item.times, mine.item.name) == (theirs.grid, theirs.item.times, theirs.item.name)
        assert mine.item.awaited is None


@pytest.mark.parametrize("plan", ["none", "foveal(keep=0.2)", "foveal(keep=0.5) + snapkv(keep=0.5)"])
def test_the_same_words(clip, tiny, plan, monkeypatch):
    settings = {"model": tiny, "frames": 14, "max_new_tokens": 6, "plan": plan}
    plain = ask(clip, "What happens?", ahead=False, **settings)
    monkeypatch.setattr(overlap, "INTERVAL", 4)
    seen = []
    ahead = ask(clip, "What happens?", progress=lambda *at: seen.append(at), **settings)
    assert ahead.text == plain.text
    assert any(name == "reading and encoding demo.mp4" for name, _, _ in seen)
    for mine, theirs in zip(ahead.kept(), plain.kept()):
        assert torch.equal(mine, theirs)
    assert 0 < ahead.first_token <= ahead.seconds


def test_signals_of_the_tower_are_those_of_one_run(clip, tiny):
    messages, found = asked(clip), []
    plan = "fastervlm(keep=0.3) + evs(keep=0.5)"  # attention of the tower, and pixels
    for interval in (100, 4):
        opened = overlap.opened(tiny, messages, 14, plan=plan, interval=interval)
        with opened as ahead, foveate.apply(tiny.model, plan):
            found.append(getattr(ahead.inputs()["mm_encoder_outputs"]["video"], NOTE).scores)
    assert found[0].keys() == found[1].keys() > {"grid"}
    for name, whole in found[0].items():
        torch.testing.assert_close(found[1][name], whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_other_families_that_take_frames_packed(family, clip, tmp_path, monkeypatch):
    model = make(family, tmp_path)
    settings = {"model": model, "frames": 9, "max_new_tokens": 4, "plan": "divprune(keep=0.5)"}
    plain = ask([clip, clip], "What?", ahead=False, **settings)
    monkeypatch.setattr(overlap, "INTERVAL", 4)
    assert ask([clip, clip], "What?", **settings).text == plain.text


def test_an_image_beside_a_video(clip, tiny, monkeypatch):
    from PIL import Image

    media = [Image.effect_noise((112, 84), 60).convert("RGB"), clip]
    plain = ask(media, "What?", model=tiny, frames=8, max_new_tokens=4, ahead=False)
    monkeypatch.setattr(overlap, "INTERVAL", 4)
    assert ask(media, "What?", model=tiny, frames=8, max_new_tokens=4).text == plain.text


def test_what_cannot_be_overlapped_is_decoded_first(clip, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(overlap, "INTERVAL", 2)
    assert ask(clip, "What?", model=tiny, frames=6, max_new_tokens=1, plan="uniform(frames=4) + foveal").tokens == 1
    assert ask(clip, "What?", model=tiny, frames=6, max_new_tokens=1, plan="tome(r=2)").tokens == 1
    llava = load(make("llava", tmp_path))
    assert ask(clip, "What?", model=llava, frames=4, max_new_tokens=1).tokens == 1
    with pytest.raises(UnsupportedModelError, match="llava models go through the processor"):
        overlap.opened(llava, asked(clip)).__enter__()
    with pytest.raises(PlanError, match="tome shortens"):
        overlap.opened(tiny, asked(clip), plan="tome").__enter__()
    with pytest.raises(InputError, match="no video given as a path"):
        overlap.opened(tiny, asked()).__enter__()
    with pytest.raises(InputError, match="Got 0"):
        overlap.opened(tiny, asked(clip), interval=0).__enter__()


def test_a_frame_that_cannot_be_decoded_is_told_and_the_thread_ends(clip, tiny, monkeypatch):
    plain = Video.several

    def broken(self, numbers):
        yield from list(plain(self, numbers))[:5]
        raise MediaError("demo.mp4: damaged at 1.00 s")

    monkeypatch.setattr(Video, "several", broken)
    with overlap.opened(tiny, asked(clip), 14, interval=4) as ahead, pytest.raises(MediaError, match="damaged at"):
        ahead.inputs()
    assert not [t for t in threading.enumerate() if t.name == "foveate-ahead"]


def test_the_thread_ends_when_the_tower_fails(clip, tiny, monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("the tower is broken")

    monkeypatch.setattr(type(tiny.model.model), "get_video_features", fails)
    with overlap.opened(tiny, asked(clip), 14, interval=2) as ahead, pytest.raises(RuntimeError, match="broken"):
        ahead.inputs()
    assert not [t for t in threading.enumerate() if t.name == "foveate-ahead"]
