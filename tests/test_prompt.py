"""Prompts: the same pixels as transformers makes, placeholders where they belong, batches that equal single rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

from foveate.errors import InputError, MediaError, UnsupportedModelError
from foveate.load import load
from foveate.prompt.pixels import PatchRule, normalised, patchify, video_patches
from model_folders import MAKERS, make

VLM = [f for f in MAKERS if f != "text"]
QWEN = [f for f in VLM if f.startswith("qwen")]


def picture(width=100, height=70, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def clip(n=5, width=80, height=60):
    return [picture(width, height, seed) for seed in range(n)]


IMAGE = {"type": "image", "image": picture()}
OTHER = {"type": "image", "image": picture(64, 64, 7)}
VIDEO = {"type": "video", "video": clip()}
ASK = {"type": "text", "text": "What is it?"}


def user(*content):
    return [{"role": "user", "content": list(content)}]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root, made = tmp_path_factory.mktemp("models"), {}

    def get(family):
        if family not in made:
            made[family] = load(make(family, root))
        return made[family]

    return get


# --- pixels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(100, 70), (33, 57), (640, 480), (29, 28), (1000, 60)])
@pytest.mark.parametrize("patch", [14, 16])
def test_a_still_gets_the_same_patches_as_from_transformers(size, patch):
    side = 2 * patch
    processor = hf.Qwen2VLImageProcessorPil(
        patch_size=patch, size={"shortest_edge": 4 * side**2, "longest_edge": 99 * side**2}
    )
    want = processor(images=[picture(*size)], return_tensors="pt")
    rule = PatchRule(patch=patch, low=4 * side**2, high=99 * side**2)
    got, grid = video_patches([picture(*size)], rule)
    assert [list(grid)] == want["image_grid_thw"].tolist()
    assert torch.equal(got, want["pixel_values"])


def test_patches_of_a_video_are_laid_out_group_by_group():
    rule = PatchRule(patch=2, temporal=2, merge=2)
    video = torch.arange(4 * 3 * 8 * 12, dtype=torch.float32).view(4, 3, 8, 12)
    got, grid = patchify(video, rule)
    assert grid == (2, 4, 6)
    want = []
    for t in range(2):
        for gy in range(2):
            for gx in range(3):
                for y in (2 * gy, 2 * gy + 1):
                    for x in (2 * gx, 2 * gx + 1):
                        cube = video[2 * t : 2 * t + 2, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
                        want.append(cube.transpose(0, 1).reshape(-1))  # channel, frame, row, column
    assert torch.equal(got, torch.stack(want))


def test_an_odd_number_of_frames_repeats_the_last():
    rule = PatchRule(patch=2, merge=1)
    video = torch.randn(3, 3, 4, 4)
    assert torch.equal(patchify(video, rule)[0], patchify(torch.cat([video, video[-1:]]), rule)[0])


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("size", [(1, 90, 160), (4, 1080, 1920), (16, 20, 300), (768, 720, 1280)])
def test_frame_sizes_stay_in_their_budget(whole, size):
    frames, height, width = size
    rule = PatchRule(low=8 * 28 * 28, high=768 * 28 * 28 * (32 if whole else 1), whole=whole)
    h, w = rule.size(frames, height, width)
    assert h % 28 == w % 28 == 0
    assert h >= 28
    assert w >= 28
    assert h * w <= 768 * 28 * 28 * 1.05


def test_normalised_reads_rgb_in_zero_to_one():
    white = normalised(Image.new("RGB", (8, 8), "white"), (4, 6), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert white.shape == (3, 4, 6)
    assert white.dtype == np.float32
    assert (white == 1).all()


# --- prompts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", VLM)
@pytest.mark.parametrize(
    "content",
    [[IMAGE], [VIDEO], [IMAGE, OTHER], [IMAGE, VIDEO], [VIDEO, IMAGE]],
    ids=["image", "video", "images", "image-video", "video-image"],
)
def test_every_family_answers(models, family, content):
    loaded = models(family)
    prompt = loaded.prompt(user(*content, ASK))
    out = loaded.model.generate(**prompt.inputs, max_new_tokens=2, do_sample=False)
    assert out.shape == (1, prompt.n + 2)
    assert prompt.visuals
    visual = torch.tensor([i for k in ("image", "video") for i in _ids(loaded, k)])
    for v in prompt.visuals:
        assert v.grid is not None
        assert len(v.where) == v.grid[0] * v.grid[1] * v.grid[2]
        assert len(v.pictures) == v.grid[0]
        assert torch.isin(prompt.inputs["input_ids"][v.row, v.where], visual).all()
    places = torch.cat([v.where for v in prompt.visuals])
    assert len(places.unique()) == len(places)


def _ids(loaded, kind):
    config = loaded.model.config
    return [i for end in ("id", "index") if isinstance(i := getattr(config, f"{kind}_token_{end}", None), int)]


@pytest.mark.parametrize("family", VLM)
def test_a_ragged_batch_equals_single_prompts(models, family):
    loaded = models(family)
    rows = [user(IMAGE, ASK), user(ASK), user(IMAGE, IMAGE, ASK)]
    batch = loaded.prompt(rows)
    together = loaded.model.generate(**batch.inputs, max_new_tokens=4, do_sample=False)[:, batch.n :]
    for i, row in enumerate(rows):
        alone = loaded.prompt(row)
        out = loaded.model.generate(**alone.inputs, max_new_tokens=4, do_sample=False)[:, alone.n :]
        assert torch.equal(out[0], together[i])
        padding = batch.n - alone.n
        assert [v.where.tolist() for v in batch.visuals if v.row == i] == [
            (v.where + padding).tolist() for v in alone.visuals
        ]


@pytest.mark.parametrize("family", QWEN)
def test_qwen_inputs(models, family):
    p = models(family).prompt(user(IMAGE, {**VIDEO, "times": [0, 1, 2, 3, 4]}, ASK)).inputs
    side = 2 * 2
    kinds = p["mm_token_type_ids"]
    assert (kinds == 1).sum() == p["image_grid_thw"].prod() // side
    assert (kinds == 2).sum() == p["video_grid_thw"].prod() // side
    assert p["video_grid_thw"][0, 0] == 3
    assert len(p["pixel_values_videos"]) == p["video_grid_thw"].prod()
    if family == "qwen2_5_vl":
        assert p["second_per_grid_ts"].tolist() == [2.0]


def test_qwen3_writes_the_time_before_each_pair_of_frames(models):
    loaded = models("qwen3_vl")
    p = loaded.prompt(user({**VIDEO, "times": [0, 1, 2, 3, 4.5]}, ASK))
    text = loaded.builder.tokenizer.decode(p.inputs["input_ids"][0]).replace("<|video_pad|>", "")
    stamps = ["<0.5 seconds>", "<2.5 seconds>", "<4.5 seconds>"]
    assert "".join(s + "<|vision_start|><|vision_end|>" for s in stamps) in text


def test_a_second_turn_keeps_the_first(models):
    loaded = models("qwen2_5_vl")
    talk = [*user(IMAGE, ASK), {"role": "assistant", "content": "A cat."}, *user({"type": "text", "text": "Sure?"})]
    p = loaded.prompt(talk)
    assert len(p.visuals) == 1
    assert "A cat." in p.text[0]
    assert p.text[0].index("A cat.") < p.text[0].index("Sure?")


def test_text_models_read_text(models):
    loaded = models("text")
    assert loaded.prompt([{"role": "user", "content": "hello"}]).visuals == []
    assert loaded.prompt([user(ASK), user({"type": "text", "text": "longer than that"})]).inputs["input_ids"].ndim == 2
    with pytest.raises(UnsupportedModelError, match="text-only"):
        loaded.prompt(user(IMAGE, ASK))


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([], InputError),
        ("hello", InputError),
        ([{"role": "user"}], InputError),
        (user(IMAGE, {"type": "text", "text": "  "}), InputError),
        (user(IMAGE), InputError),
        ([*user(ASK), {"role": "assistant", "content": "yes"}], InputError),
        (user({"type": "sound", "sound": "x.wav"}, ASK), InputError),
        (user({"type": "image"}, ASK), InputError),
        (user({"type": "image", "url": "https://example.org/cat.png"}, ASK), InputError),
        (user({"type": "image", "image": 3}, ASK), InputError),
        (user({"type": "video", "video": []}, ASK), MediaError),
        (user({"type": "video", "video": [picture(), picture(64, 64)]}, ASK), InputError),
        (user({"type": "video", "video": clip(3), "times": [0.0]}, ASK), InputError),
        (user({"type": "image", "image": picture(1, 1)}, ASK), MediaError),
        (user({"type": "image", "image": picture(900, 3)}, ASK), MediaError),
        (user(IMAGE, {"type": "text", "text": "what is <|image_pad|>?"}), InputError),
    ],
)
def test_bad_messages(models, messages, error):
    with pytest.raises(error):
        models("qwen2_5_vl").prompt(messages)
