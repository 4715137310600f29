"""Pieces of a prompt that see only those near them: Video-XL-2's prefill, against one mask over the whole prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate
from foveate.errors import OptionError, UnsupportedCallError, UnsupportedModelError
from foveate.parts.bilevel import block_mask
from foveate.parts.sparse_attention import grouped
from foveate.sites import near
from site_kit import make

CLOSE = {"atol": 2e-5, "rtol": 0.0}


def visual_of(z: Any) -> torch.Tensor:
    return torch.isin(
        z.inputs["input_ids"], torch.tensor([z.model.config.video_token_id, z.model.config.image_token_id])
    )


def masked(z: Any, masks: list[torch.Tensor]) -> torch.Tensor:
    """Logits of the bare model under masks (n, n) bool, one for each row."""

    def hide(module: Any, args: Any, kwargs: Any) -> Any:
        mask = torch.stack(masks)[:, None]
        if z.model.get_decoder().config._attn_implementation == "eager":
            mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        return args, {**kwargs, "attention_mask": mask}

    hook = z.model.get_decoder().register_forward_pre_hook(hide, with_kwargs=True)
    try:
        with torch.no_grad():
            out: torch.Tensor = z.model(**z.inputs).logits
            return out
    finally:
        hook.remove()


@pytest.mark.parametrize("reach", [0, 1, 2])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_a_piece_sees_itself_and_its_neighbours(attn: str, reach: int, monkeypatch: pytest.MonkeyPatch) -> None:
    z, chunk = make("qwen2_5_vl", attn=attn, video=True), 8
    visual = visual_of(z)[0]
    n = len(visual)
    piece = torch.arange(n) // chunk
    start, end = int(visual.nonzero()[0]), int(visual.nonzero()[-1]) + 1
    mask = block_mask(n, start, end, piece[start:end], ~visual, reach)
    read = []
    plain = near.grouped

    def spied(q: Any, k: Any, *more: Any) -> Any:
        read.append(k.shape[2])
        return plain(q, k, *more)

    monkeypatch.setattr(near, "grouped", spied)
    with torch.no_grad(), foveate.apply(z.model, "", chunk=chunk, reach=reach):
        out = z.model(**z.inputs)
    torch.testing.assert_close(out.logits, masked(z, [mask])[:, -out.logits.shape[1] :], **CLOSE)
    words = int((~visual).sum())
    assert min(read) <= words + (reach + 1) * chunk < n  # what is too far back is not even read


def test_rows_of_a_batch_each_see_their_own() -> None:
    z, chunk = make("qwen2_vl", video=True, batch=2, ragged=True), 7
    visual, real = visual_of(z), z.inputs["attention_mask"].bool()
    n = visual.shape[1]
    piece = torch.arange(n) // chunk
    masks = []
    for row, valid in zip(visual, real):
        start, end = int(row.nonzero()[0]), int(row.nonzero()[-1]) + 1
        mask = block_mask(n, start, end, piece[start:end], ~row, 1) & valid
        masks.append(mask | torch.eye(n, dtype=torch.bool))
    want = masked(z, masks)
    with torch.no_grad(), foveate.apply(z.model, "", chunk=chunk, reach=1):
        out = z.model(**z.inputs).logits
    torch.testing.assert_close(out[real], want[real], **CLOSE)


def test_enough_reach_is_plain_attention_bit_for_bit() -> None:
    z = make("qwen3_vl", video=True)
    with torch.no_grad():
        with foveate.apply(z.model, "", chunk=8):
            want = z.model(**z.inputs).logits
        with foveate.apply(z.model, "", chunk=8, reach=100):
            out = z.model(**z.inputs).logits
        assert torch.equal(out, want)
        with foveate.apply(z.model, "", chunk=8, reach=0):
            assert not torch.equal(z.model(**z.inputs).logits, want)


@pytest.mark.parametrize("plan", ["snapkv(keep=20, window=4)", "videoxl2(chunk=8, pool=4)", "divprune(keep=0.5)"])
def test_with_what_evicts_and_merges(plan: str) -> None:
    z = make("qwen2_5_vl", video=True)
    asked = {"max_new_tokens": 3, "do_sample": False}
    with torch.no_grad(), foveate.apply(z.model, plan, chunk=8, reach=1) as report:
        out = z.model.generate(**z.inputs, **asked)
    assert out.shape[1] == z.inputs["input_ids"].shape[1] + 3
    assert report.rows


def test_what_does_not_go_together_is_refused() -> None:
    z = make("qwen2_5_vl", video=True)
    for reach in (-1, True, 1.5):
        with pytest.raises(OptionError, match="'reach' must be"), foveate.apply(z.model, "", chunk=8, reach=reach):
            pass
    with pytest.raises(OptionError, match="give their length too"), foveate.apply(z.model, "", reach=1):
        pass
    with (
        torch.no_grad(),
        foveate.apply(z.model, "adakv(keep=0.3, window=4)", chunk=8, reach=0),
        pytest.raises(UnsupportedCallError, match="different numbers of entries"),
    ):
        z.model(**z.inputs)
    z.model.get_decoder().config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(UnsupportedModelError, match="'sdpa'"), foveate.apply(z.model, "", chunk=8, reach=1):
        pass


@pytest.mark.parametrize("additive", [False, True])
def test_attention_of_groups(additive: bool) -> None:
    q, k, v = torch.randn(2, 6, 3, 8), torch.randn(2, 2, 11, 8), torch.randn(2, 2, 11, 5)
    mask = torch.rand(2, 1, 3, 11) < 0.5
    mask[0, 0, 0] = False  # a query that sees nothing
    given = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf) if additive else mask
    wide = [t.repeat_interleave(3, 1) for t in (k, v)]
    want = ((q @ wide[0].mT * 0.4).masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num(0.0) @ wide[1]).transpose(1, 2)
    torch.testing.assert_close(grouped(q, k, v, 0.4, given), want)
    whole = ((q @ wide[0].mT * 0.4).softmax(-1) @ wide[1]).transpose(1, 2)
    torch.testing.assert_close(grouped(q, k, v, 0.4), whole)
