"""DHSA while a prompt is read: blocks attend to what they pick and to nothing else, and nothing leaves the cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate
from foveate.cache.dhsa import DHSA
from foveate.errors import PlanError
from foveate.sites import sparse
from site_kit import check_same, generate, logits_of, make

CLOSE = {"atol": 2e-5, "rtol": 0.0}
PLAN = "dhsa(attend=12, block=4, chunk=4, local=4)"


class Masked(sparse.Sparse):
    """The same picks as a mask over the whole attention."""

    def instead(self, seen: Any) -> None:
        return None

    def before(self, seen: Any) -> Any:
        call, n = self.current.get(), seen.k.shape[2]
        if call is None or not call.first or seen.q.shape[2] != n:
            return seen.mask
        mask = torch.zeros(len(seen.q), 1, n, n, dtype=torch.bool)
        for b in range(len(seen.q)):
            start = int(call.kept[b].to(torch.uint8).argmax())
            picked = self.method.picks(seen.q[b, :, start:], seen.k[b, :, start:])
            for i, columns in enumerate(picked):
                first = start + i * self.method.block
                mask[b, 0, first : min(n, first + self.method.block), columns + start] = True
            mask[b, 0, :start, 0] = True  # rows of padding must see something
        mask &= torch.ones(n, n, dtype=torch.bool).tril()
        return mask


@pytest.mark.parametrize("options", ["", ", cut='fixed'", ", pooling='maxpool'"])
@pytest.mark.parametrize(
    ("name", "more"),
    [("llama", {}), ("qwen2_5_vl", {"video": True}), ("qwen2_5_vl", {"batch": 2, "ragged": True}), ("llava", {})],
)
def test_blocks_attend_to_what_they_pick(name: str, more: Any, options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    z, plan = make(name, **more), PLAN[:-1] + options + ")"
    out, report = generate(z, plan)
    monkeypatch.setattr("foveate.sites.cache.Sparse", Masked)
    want, _ = generate(z, plan)
    torch.testing.assert_close(logits_of(out), logits_of(want), **CLOSE)
    bare, _ = generate(z)
    assert not torch.equal(logits_of(out)[:, 0], logits_of(bare)[:, 0])
    (row,) = report.rows
    assert row.tokens_in == row.tokens_out > 0
    assert "attend to" in row.note
    assert all(x.held == y.keys.shape[2] for x, y in zip(out.past_key_values.layers, bare.past_key_values.layers))


def test_a_prompt_that_fits_is_read_as_always() -> None:
    check_same(make("llama"), "dhsa(attend=1.0)")
    check_same(make("qwen2_5_vl", batch=2, ragged=True), "dhsa(attend=10000)")


def test_eviction_after_it_frees_the_cache() -> None:
    z = make("qwen2_5_vl", video=True)
    out, _ = generate(z, PLAN + " + snapkv(keep=10, window=4)")
    assert {x.held for x in out.past_key_values.layers} == {10 + 3}


def test_layers_with_a_window_read_as_always() -> None:
    z = make("gemma3")
    out, report = generate(z, PLAN)
    bare, _ = generate(z)
    assert logits_of(out).shape == logits_of(bare).shape
    assert report.rows


def test_chunks_end_where_keys_change() -> None:
    k = torch.zeros(2, 40, 8)
    k[:, :13, 0] = k[:, 13:29, 1] = k[:, 29:, 2] = 1.0
    assert DHSA(chunk=14).bounds(k).tolist() == [0, 13, 29, 40]
    assert DHSA(chunk=16, cut="fixed").bounds(k).tolist() == [0, 16, 32, 40]


def test_a_block_picks_the_chunk_that_is_like_it() -> None:
    k = torch.zeros(1, 64, 4)
    k[:, :16, 0] = k[:, 16:32, 1] = k[:, 32:, 2] = 1.0
    q = torch.zeros(2, 64, 4)
    q[:, :, 2], q[:, 56:, 1], q[:, 56:, 2] = 1.0, 1.0, 0.0  # the last block asks for the second chunk
    picked = DHSA(attend=24, block=8, chunk=20, local=8).picks(q, k)
    assert picked is not None
    assert picked[-1].tolist() == [*range(16, 32), *range(56, 64)]
    assert DHSA(attend=64, block=8).picks(q, k) is None


def test_pieces_are_refused() -> None:
    with pytest.raises(PlanError, match="dhsa chooses"), foveate.apply(make("llama").model, PLAN, chunk=4):
        pass
