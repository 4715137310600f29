"""What sites tell methods about visual tokens, against layouts written by hand: cells, crops, line ends, pixels."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate
from foveate.sites.model import anatomy, attention_of
from foveate.testing.tiny_prompt import IMAGE, Tiny
from site_kit import make
from spies import Spy, watch

Cells = list[tuple[int, int, int]]


def raster(view: int, rows: int, cols: int) -> Cells:
    """Cells of one view, line by line."""
    return [(view, r, c) for r in range(rows) for c in range(cols)]


def look(z: Tiny, *needs: str, stage: str = "inputs", at: Sequence[int] = ()) -> list[Any]:
    """What a method of these needs is shown while the model reads its prompt, call after call."""
    spy = Spy(stage, needs, tuple(at))
    with torch.no_grad(), foveate.apply(z.model, spy):
        z.model(**z.inputs)
    return spy.seen


def cells(tokens: Any, row: int = 0) -> Cells:
    return [(v, r, c) for v, r, c in tokens.grid[row].tolist()]


SQUARES = {"llava": 8, "qwen2_vl": 8, "qwen2_5_vl": 8, "qwen3_vl": 8, "internvl": 6, "gemma3": 6}


@pytest.mark.parametrize("family", SQUARES)
def test_an_image_is_one_square(family: str) -> None:
    (seen,) = look(make(family), "grid", "crop")
    assert cells(seen) == raster(0, SQUARES[family], SQUARES[family])
    assert not seen.crop.any()


@pytest.mark.parametrize("family", ["idefics3", "smolvlm"])
def test_images_of_a_row_are_views(family: str) -> None:
    (seen,) = look(make(family, images=2), "grid", "crop")
    assert cells(seen) == raster(0, 6, 6) + raster(1, 6, 6)


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
def test_crops_are_stitched_after_the_thumbnail(family: str) -> None:
    (seen,) = look(make(family), "grid", "crop")
    assert cells(seen) == raster(0, 4, 4) + raster(1, 4, 8)  # the four newlines are never shown
    assert seen.crop[0].tolist() == [0] * 16 + [1 + c // 4 for _, _, c in raster(1, 4, 8)]


def test_crops_of_a_larger_image_beside_a_small_one() -> None:
    small, large = look(make("llava_next", batch=2, ragged=True), "grid", "crop")
    assert small.x.shape[:2] == (2, 48)
    assert large.x.shape[:2] == (1, 80)
    assert cells(small, 1) == raster(0, 4, 4) + raster(1, 4, 8)
    assert cells(large) == raster(0, 4, 4) + raster(1, 8, 8)
    assert large.crop[0].tolist() == [0] * 16 + [1 + r // 4 * 2 + c // 4 for _, r, c in raster(1, 8, 8)]


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
def test_padding_is_cut_off_an_image_of_another_shape(family: str) -> None:
    z = make(family)
    z.inputs["image_sizes"] = torch.tensor([[16, 24]])  # fills 6 of the 8 columns; one is cut on either side
    places = (z.inputs["input_ids"][0] == IMAGE).nonzero()[:, 0]
    stay = torch.ones(z.inputs["input_ids"].shape[1], dtype=torch.bool)
    stay[places[16 + 4 * 7 :]] = False
    for name in ("input_ids", "attention_mask"):
        z.inputs[name] = z.inputs[name][:, stay]
    (seen,) = look(z, "grid", "crop")
    assert cells(seen) == raster(0, 4, 4) + raster(1, 4, 6)
    assert seen.crop[0].tolist() == [0] * 16 + [1 + c // 3 for _, _, c in raster(1, 4, 6)]


def test_several_images_are_not_cut_into_crops() -> None:
    (seen,) = look(make("llava_onevision", images=2), "grid", "crop")
    assert seen.x.shape[:2] == (2, 16)
    for row in range(2):
        assert cells(seen, row) == raster(0, 4, 4)


@pytest.mark.parametrize(("family", "frames", "side"), [("llava_onevision", 12, 2), ("qwen2_5_vl", 4, 4)])
def test_frames_of_a_video_are_views(family: str, frames: int, side: int) -> None:
    (seen,) = look(make(family, video=True), "grid")
    assert cells(seen) == [c for f in range(frames) for c in raster(f, side, side)]


def test_a_windowed_tower_shows_its_blocks_its_own_order() -> None:
    seen = look(make("qwen2_5_vl"), "grid", "metric", stage="encoder", at=(1,))
    windows = [(0, 2 * r + i, 2 * c + j) for _, r, c in raster(0, 4, 4) for _, i, j in raster(0, 2, 2)]
    assert cells(seen[0]) == windows


def test_class_tokens_have_no_cell() -> None:
    (seen,) = look(make("llava"), "grid", "metric", stage="encoder", at=(0,))
    assert cells(seen) == [(-1, -1, -1), *raster(0, 8, 8)]


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
@pytest.mark.parametrize("plan", ["divprune(keep=1)", "fastv(layer=1, keep=1)"])
def test_line_ends_always_stay(family: str, plan: str) -> None:
    z = make(family)
    lengths: list[int] = []
    with torch.no_grad(), foveate.apply(z.model, plan):
        hook = z.model.get_decoder().layers[-1].register_forward_pre_hook(lambda m, a: lengths.append(a[0].shape[1]))
        z.model(**z.inputs)
        hook.remove()
    assert lengths == [z.inputs["input_ids"].shape[1] - 48 + 1]


def test_pixels_are_those_under_the_token() -> None:
    z = make("llava", batch=2)
    (seen,) = look(z, "pixels")
    values: Tensor = z.inputs["pixel_values"]
    low, high = values.amin((1, 2, 3), keepdim=True), values.amax((1, 2, 3), keepdim=True)
    scaled = (values - low) / (high - low) * 255
    assert seen.pixels.shape == (2, 64, 3, 4, 4)
    for i in (0, 7, 8, 35, 63):
        r, c = divmod(i, 8)
        torch.testing.assert_close(seen.pixels[:, i], scaled[:, :, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4])


def test_pixels_of_a_token_of_several_patches_are_all_of_them() -> None:
    z = make("internvl")
    (seen,) = look(z, "pixels")
    values = z.inputs["pixel_values"]
    scaled = (values - values.min()) / (values.max() - values.min()) * 255
    assert seen.pixels.shape == (1, 36, 3, 16, 4)  # four patches of 4 x 4
    r, c = divmod(20, 6)
    there = scaled[0, :, 8 * r : 8 * r + 8, 8 * c : 8 * c + 8]
    torch.testing.assert_close(seen.pixels[0, 20].flatten(1).sort(-1).values, there.flatten(1).sort(-1).values)


def test_shuffled_patches_are_those_that_the_model_joins() -> None:
    z = make("internvl")
    patches = torch.arange(144.0).view(1, 12, 12, 1)
    joined = z.model.base_model.pixel_shuffle(patches, scale_factor=0.5).reshape(36, 4).sort(-1).values
    wanted = [sorted(12 * (2 * r + i) + 2 * c + j for i in (0, 1) for j in (0, 1)) for _, r, c in raster(0, 6, 6)]
    assert joined.long().tolist() == wanted
    (seen,) = look(z, "keys")
    with watch(z.model.base_model.vision_tower.encoder.layer[-1].attention.k_proj) as keys:
        z.model(**z.inputs)
    direct = keys[0][0, 1:][torch.tensor(wanted)].mean(1)
    torch.testing.assert_close(seen.keys[0], direct, atol=1e-5, rtol=0)


def test_keys_of_a_windowed_tower_come_in_raster_order(monkeypatch: pytest.MonkeyPatch) -> None:
    z = make("qwen2_5_vl", "eager")
    (seen,) = look(z, "keys", "metric", "received_attention")
    calls = eager_calls(monkeypatch, z.model.base_model.visual.blocks[-1].attn)
    with torch.no_grad():
        z.model(**z.inputs)
    ((q, k, scaling),) = calls  # the last block sees all patches at once
    groups = [8 * (2 * r + i) + 2 * c + j for _, r, c in raster(0, 4, 4) for _, i, j in raster(0, 2, 2)]
    order = torch.tensor(groups).argsort()  # where each raster cell stands in window order
    direct = k[0].transpose(0, 1).unflatten(0, (64, 4)).mean(1)[order]  # (64, H, d)
    torch.testing.assert_close(seen.keys[0], direct.flatten(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.metric[0], direct.mean(1), atol=1e-5, rtol=0)
    paid = (q @ k.mT * scaling).softmax(-1).mean((0, 1, 2)).view(64, 4).mean(1)[order]
    torch.testing.assert_close(seen.received_attention[0], paid, atol=1e-6, rtol=0)


def test_rows_of_the_class_token_block_by_block() -> None:
    z = make("llava", "eager", batch=2)
    needs = ("cls_attention", "cls_logits", "wide_attention", "cls_layers", "received_layers", "keys", "metric")
    (seen,) = look(z, *needs)
    tower = z.model.base_model.vision_tower
    with torch.no_grad():
        maps = tower(z.inputs["pixel_values"], output_attentions=True).attentions[:2]  # features are those of block 1
    torch.testing.assert_close(seen.cls_attention, maps[1][:, :, 0, 1:], atol=1e-6, rtol=0)
    layers = torch.stack([a[:, :, 0, 1:].mean(1) for a in maps], 1)
    torch.testing.assert_close(seen.cls_layers, layers, atol=1e-6, rtol=0)
    received = torch.stack([a.mean((1, 2))[:, 1:] for a in maps], 1)
    torch.testing.assert_close(seen.received_layers, received, atol=1e-6, rtol=0)
    attention = attention_of(anatomy(z.model).blocks[1])
    with watch(attention.k_proj) as keys, watch(attention.q_proj) as queries:
        z.model(**z.inputs)
    torch.testing.assert_close(seen.keys, keys[0][:, 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.metric, keys[0][:, 1:].unflatten(-1, (4, 8)).mean(2), atol=1e-5, rtol=0)
    logits = (queries[0][:, :1] * keys[0]).unflatten(-1, (4, 8)).sum(-1) * 8**-0.5  # (B, 65, H)
    torch.testing.assert_close(seen.cls_logits, logits.mean(-1)[:, 1:], atol=1e-5, rtol=0)
    wide = ((queries[0][:, :1] * keys[0]).sum(-1) * 32**-0.5).softmax(-1)[:, 1:]
    torch.testing.assert_close(seen.wide_attention, wide, atol=1e-6, rtol=0)


def eager_calls(monkeypatch: pytest.MonkeyPatch, attention: Any) -> list[tuple[Tensor, Tensor, float]]:
    """Queries, keys and scaling of every eager attention call of the modules of one file."""
    module = sys.modules[type(attention).__module__]
    real, calls = module.eager_attention_forward, []

    def attend(owner: Any, q: Tensor, k: Tensor, *args: Any, **kwargs: Any) -> Any:
        if owner is attention:
            calls.append((q, k, kwargs.get("scaling")))
        return real(owner, q, k, *args, **kwargs)

    monkeypatch.setattr(module, "eager_attention_forward", attend)
    return calls
