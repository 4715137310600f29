"""Asking: answers, their numbers, and what was kept."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from PIL import Image

import foveate
from foveate.ask import DEFAULT_PLAN, ask, plan_of
from foveate.errors import InputError
from foveate.load import load
from foveate.video import demo_clip
from model_folders import make


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return demo_clip(tmp_path_factory.mktemp("clip") / "demo.mp4").path


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


def stripes(width=280, height=196):
    image = Image.new("RGB", (width, height), "navy")
    image.paste("orange", (0, 0, width // 3, height))
    return image


def test_a_video(clip, tiny):
    answer = ask(clip, "What happens?", model=tiny, frames=8, max_new_tokens=5)
    assert answer.tokens == 5
    assert answer.text.isascii()
    assert answer.plan == "foveal"
    assert not answer.trained
    assert "untrained" in str(answer)
    assert 0 < answer.first_token < answer.seconds
    assert answer.tokens_per_second > 0
    row = answer.report.rows[0]
    assert (row.stage, row.method) == ("inputs", "foveal")
    assert row.tokens_in == sum(len(v.where) for v in answer.prompt.visuals)
    assert row.tokens_out == round(0.1 * row.tokens_in)
    assert answer.as_dict()["report"]["sites"][0]["tokens_out"] == row.tokens_out


def test_same_question_same_answer_and_the_random_state_is_left_alone(clip, tiny):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = ask(clip, "What happens?", model=tiny, frames=4, max_new_tokens=6, plan="random(keep=0.3)")
    again = ask(clip, "What happens?", model=tiny, frames=4, max_new_tokens=6, plan="random(keep=0.3)")
    assert first.text == again.text
    assert torch.equal(torch.get_rng_state(), before)


def test_the_full_model_is_the_bare_model(tiny):
    answer = ask(stripes(), "What is it?", model=tiny, plan="none", max_new_tokens=6)
    assert answer.plan == ""
    out = tiny.model.generate(**answer.prompt.inputs, max_new_tokens=6, do_sample=False)
    assert tiny.decode(out[:, answer.prompt.n :])[0].strip() == answer.text
    assert all(bool(k.all()) for k in answer.kept() if k is not None)


def test_media_may_be_files_pictures_and_lists(clip, tiny, tmp_path):
    stripes().save(tmp_path / "a.png")
    for media, kinds in [
        (tmp_path / "a.png", ["image"]),
        (str(tmp_path / "a.png"), ["image"]),
        (stripes(), ["image"]),
        ([stripes(), str(clip), tmp_path / "a.png"], ["image", "video", "image"]),
        ([[stripes(), stripes()]], ["video"]),
        ([], []),
    ]:
        answer = ask(media, "What?", model=tiny, frames=4, max_new_tokens=1)
        assert [v.item.kind for v in answer.prompt.visuals] == kinds
        assert answer.plan == ("foveal" if kinds else "")


def test_frames(clip, tiny):
    answer = ask(clip, "What?", model=tiny, frames=6, max_new_tokens=1, plan="none")
    visual = answer.prompt.visuals[0]
    assert len(visual.item.frames) == 6
    assert visual.grid is not None
    assert visual.grid[0] == len(visual.pictures) == len(visual.times) == 3
    assert visual.times == sorted(visual.times)


@pytest.mark.parametrize("plan", ["divprune(keep=20)", "divprune(keep=20) + fastv(layer=2, keep=5)"])
def test_kept_is_composed_over_stages(clip, tiny, plan):
    answer = ask([stripes(), clip], "What?", model=tiny, frames=4, max_new_tokens=1, plan=plan)
    kept = [k for k in answer.kept() if k is not None]
    assert [tuple(k.shape) for k in kept] == [v.grid for v in answer.prompt.visuals]
    assert sum(int(k.sum()) for k in kept) == answer.report.rows[-1].tokens_out
    first = [k for k in answer.kept(("inputs",)) if k is not None]
    assert sum(int(k.sum()) for k in first) == 40
    assert all(bool((a <= b).all()) for a, b in zip(kept, first))


def test_show(clip, tiny, tmp_path):
    answer = ask([stripes(), clip], "What?", model=tiny, frames=4, max_new_tokens=1)
    path = answer.show(tmp_path / "kept.png")
    with Image.open(path) as drawn:
        assert drawn.width > 100
        assert len(drawn.convert("RGB").getcolors(1 << 24)) > 2
    with pytest.raises(InputError, match="nothing to draw"):
        ask([], "What?", model=tiny, max_new_tokens=1).show(tmp_path / "none.png")


@pytest.mark.parametrize("family", ["qwen3_vl", "llava", "llava_onevision", "gemma3", "internvl"])
def test_other_families(family, clip, tmp_path):
    answer = ask([stripes(), clip], "What?", model=make(family, tmp_path), frames=4, max_new_tokens=3)
    assert answer.trained
    assert answer.tokens == 3
    assert answer.report.rows[0].tokens_out < answer.report.rows[0].tokens_in
    answer.show(tmp_path / "kept.png")


def test_a_text_model_can_be_asked(tmp_path):
    answer = ask([], "What?", model=make("text", tmp_path), max_new_tokens=3, plan="snapkv(keep=8)")
    assert answer.tokens == 3
    assert answer.report.rows[0].stage == "cache"


def test_progress_is_told_in_order(clip, tiny):
    steps = []
    ask(clip, "What?", model=tiny, frames=4, max_new_tokens=3, progress=lambda *a: steps.append(a))
    names = list(dict.fromkeys(s[0] for s in steps))
    assert names == [f"reading {clip.name}", "encoding", "answering"]
    assert steps[-1][1:] == (3, 3)


def test_default_plan():
    assert str(plan_of(None)) == str(foveate.Plan.of(DEFAULT_PLAN))
    assert plan_of(None, visual=False) == plan_of("none") == plan_of("") == ()


def test_importing_foveate_imports_no_transformers():
    code = (
        "import sys, foveate; assert 'transformers' not in sys.modules; from foveate.load import load; "
        "import foveate.ask, foveate.apply; assert foveate.load is load; assert callable(foveate.ask)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_every_public_name_is_there():
    for name in foveate.__all__:
        assert not isinstance(getattr(foveate, name), type(sys)), name
    with pytest.raises(AttributeError):
        _ = foveate.nothing


def test_merged_tokens_are_where_they_went(tiny):
    answer = ask(stripes(), "What?", model=tiny, max_new_tokens=1, plan="avgpool + fastv(layer=2, keep=0.5)")
    from foveate.drawing import slots

    ended = slots(answer.prompt, answer.report.kept, ("inputs", "layers"))[0, answer.prompt.visuals[0].where]
    first = slots(answer.prompt, answer.report.kept, ("inputs",))[0, answer.prompt.visuals[0].where]
    rows = answer.report.rows
    assert len(first.unique()) == rows[0].tokens_out < rows[0].tokens_in
    assert (first >= 0).all()
    assert len(set(ended.tolist()) - {-1}) == rows[1].tokens_out
    assert ((ended == first) | (ended == -1)).all()
