"""Scores and budgets of cache entries by hand, and padded rows against the same rows without padding."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

import foveate
from foveate import Entries
from foveate.cache.adakv import AdaKV
from foveate.cache.chunkkv import ChunkKV
from foveate.cache.compresskv import CompressKV
from foveate.cache.h2o import H2O
from foveate.cache.keydiff import KeyDiff
from foveate.cache.kvzip import KVzip
from foveate.cache.lagkv import LagKV
from foveate.cache.pyramidkv import PyramidKV
from foveate.errors import OptionError, SignalError
from foveate.parts.layer_budgets import layer_budgets
from foveate.parts.pooled_budget import lowest_out
from foveate.parts.replay import recalled
from foveate.parts.rotary import mean_turn, turn
from foveate.parts.semantic_heads import layer_importance, retrieval_scores, voters
from foveate.parts.value_norms import projected_norms

PLANS = (
    "knorm(keep=9)",
    "keydiff(keep=9)",
    "tova(keep=9)",
    "h2o(keep=9)",
    "h2o(keep=9, recent=0.0, average=True)",
    "lagkv(keep=9, sinks=2, lag=5)",
    "lagkv(keep=9, sinks=2, lag=5, across=True)",
    "adakv(keep=9, window=4)",
    "adakv(keep=9, base='odd_keys')",
    "criticalkv(keep=9, window=4)",
    "chunkkv(keep=9, window=4, chunk=4)",
    "chunkkv(keep=9, base='small_keys', chunk=4)",
    "finch(keep=9, window=4)",
    "expectedattention(keep=9)",
    "kvzip(keep=9)",
    "kvzip(keep=9, heads='apart')",
    "compresskv(keep=9, window=4, heads=[0, 3], first=2)",
)


def made(b: int = 2, n: int = 30, d: int = 8) -> Entries:
    g = torch.Generator().manual_seed(3)
    keys, values, raw = (torch.randn(b, h, n, d, generator=g) for h in (2, 2, 4))
    return Entries(
        keys,
        values,
        queries=torch.randn(b, 4, 6, d, generator=g),
        scaling=d**-0.5,
        received=torch.rand(b, 4, n, generator=g),
        raw_queries=raw,
        rotary=(100.0 ** -torch.linspace(0, 1, d // 2)).expand(b, -1),
        output=torch.randn(1, 4, d, 3 * d, generator=g).expand(b, -1, -1, -1),
        recalled=torch.rand(b, 2, n, generator=g),
    )


@pytest.mark.parametrize("plan", PLANS)
def test_a_padded_row_keeps_what_it_keeps_without_padding(plan: str) -> None:
    entries, pads = made(), 7
    (m,) = foveate.parse(plan)
    padded = m.reduce(dataclasses.replace(entries, valid=torch.arange(entries.n).expand(2, -1) >= pads)).kept
    fields = ("keys", "values", "received", "raw_queries", "recalled")
    short = dataclasses.replace(entries, **{f: getattr(entries, f)[:, :, pads:] for f in fields})
    assert not padded[:, :pads].any()
    assert torch.equal(padded[:, pads:], m.reduce(short).kept)


def test_a_signal_that_is_missing_is_named() -> None:
    with pytest.raises(SignalError, match="received"):
        H2O().reduce(Entries(torch.ones(1, 1, 4, 2), torch.ones(1, 1, 4, 2)))


def test_h2o_keeps_heavy_hitters_and_the_latest() -> None:
    received = torch.tensor([[[1.0, 9, 2, 8, 3, 7, 0, 0]]])
    x = torch.ones(1, 1, 8, 2)
    assert H2O(keep=4).reduce(Entries(x, x, received=received)).keep.tolist() == [[1, 3, 6, 7]]
    assert H2O(keep=2, recent=0.0, average=True).reduce(Entries(x, x, received=received)).keep.tolist() == [[3, 5]]


def test_keydiff_by_blocks_is_one_pass_when_a_block_holds_the_rest() -> None:
    entries = made()
    assert KeyDiff(keep=9, block=30).reduce(entries) == KeyDiff(keep=9).reduce(entries)


def test_lagkv_gives_each_part_the_same_and_keeps_both_ends() -> None:
    entries = made(n=32)
    kept = LagKV(keep=2 + 12 + 4, sinks=2, lag=10).reduce(entries).kept
    assert kept[:, :2].all()
    assert kept[:, 22:].all()
    assert (kept[:, 2:12].sum(-1) + kept[:, 12:22].sum(-1) == 6).all()
    assert (kept[:, 2:12].sum(-1) == 3).all()


def test_pyramid_budgets_fall_evenly_and_meet_their_mean() -> None:
    shares = [PyramidKV(keep=0.3, window=4, beta=10).share(1000, i, 10) for i in range(10)]
    assert (shares[0], shares[-1]) == (570, 30)
    assert shares == sorted(shares, reverse=True)
    assert abs(sum(shares) - 3000) <= 5
    assert [PyramidKV(keep=0.9, window=64).share(100, i, 4) for i in range(4)] == [90] * 4


def test_heads_share_a_budget_and_keep_what_is_safe() -> None:
    score = torch.stack([torch.arange(10.0), 100 + torch.arange(10.0)])[None]
    assert lowest_out(score, 10).sum(-1).tolist() == [[0, 10]]
    assert lowest_out(score, 10, safe=2).sum(-1).tolist() == [[2, 8]]
    kept = AdaKV(keep=0.5).reduce(made())
    assert kept.lengths.view(2, 2).sum(1).tolist() == [30, 30]


def test_chunks_are_kept_whole_from_the_best_on() -> None:
    keys = torch.ones(1, 2, 12, 1) * torch.tensor([3.0, 3, 3, 1, 1, 1, 2, 2, 2, 9, 9, 8])[:, None]
    m = ChunkKV(keep=6, chunk=3, base="small_keys")
    assert m.reduce(Entries(keys, keys)).keep.tolist() == [[3, 4, 5, 6, 7, 8]] * 2
    m = ChunkKV(keep=10, chunk=3, base="small_keys")
    assert m.reduce(Entries(keys, keys)).keep.tolist() == [[*range(9), 11]] * 2


def test_recall_in_slices_is_the_maximum_over_whole_attention() -> None:
    g = torch.Generator().manual_seed(5)
    q, own, keys = (torch.randn(1, h, n, 4, generator=g) for h, n in ((4, 9), (2, 9), (2, 7)))
    rows, columns = torch.rand(1, 9, generator=g), torch.rand(1, 4, 5, generator=g)
    both = torch.cat([keys, own], 2).repeat_interleave(2, 1)
    seen = torch.cat([torch.ones(9, 7), torch.ones(9, 9).tril()], 1).bool()
    attention = (q @ both.mT * 0.5).masked_fill(~seen, -torch.inf).softmax(-1)[..., 2:7]

    def want(a: Tensor) -> Tensor:
        return a.amax(2).view(1, 2, 2, 5).amax(2)

    assert torch.allclose(recalled(q, own, keys, 0.5, 2, rows=4), want(attention), atol=1e-6)
    scaled = attention * rows[:, None, :, None] * columns[:, :, None]
    assert torch.allclose(recalled(q, own, keys, 0.5, 2, rows, columns, rows=4), want(scaled), atol=1e-6)


def test_heads_of_all_layers_in_one_call_share_one_budget() -> None:
    score = torch.rand(1, 6, 20, generator=torch.Generator().manual_seed(1))
    x = torch.ones(1, 6, 20, 2)
    out = KVzip(keep=0.5, sinks=0).reduce(Entries(x, x, recalled=score))
    assert int(out.lengths.sum()) == 60
    assert torch.equal(out.kept, score[0] >= score.flatten().sort().values[60])


def test_projected_norms() -> None:
    g = torch.Generator().manual_seed(2)
    values, output = torch.randn(2, 2, 5, 3, generator=g), torch.randn(2, 4, 3, 7, generator=g)
    through = values.repeat_interleave(2, 1) @ output
    assert torch.allclose(projected_norms(values, output, 1, chunk=2), through.abs().sum(-1), atol=1e-5)
    assert torch.allclose(projected_norms(values, output, 2), through.norm(dim=-1), atol=1e-4)


def test_turned_keys_add_up_and_average() -> None:
    keys, rates = torch.randn(1, 1, 3, 6, generator=torch.Generator().manual_seed(4)), torch.tensor([1.0, 0.3, 0.01])
    one = turn(keys, torch.ones(1, 1, 3), rates)
    assert torch.allclose(turn(one, torch.full((1, 1, 3), -1), rates), keys, atol=1e-6)
    mean = mean_turn(torch.tensor([5]), 4, rates[None])
    want = torch.stack([turn(keys, torch.full((1, 1, 3), p), rates) for p in (5, 6, 7, 8)]).mean(0)
    assert torch.allclose(keys @ mean.mT, want, atol=1e-5)


def test_layer_budgets_are_exact_within_bounds() -> None:
    assert layer_budgets((0.5, 0.3, 0.2), 100, 10, 60) == [45, 31, 24]
    assert layer_budgets((0.98, 0.01, 0.01), 90, 10, 40) == [40, 25, 25]
    assert layer_budgets((0.5, 0.5), 100, 10, 20) == [20, 20]  # more than the bounds allow
    assert sum(layer_budgets((0.337, 0.333, 0.33), 101, 3, 90)) == 101


def test_heads_that_attend_to_the_answer_vote() -> None:
    attention = torch.tensor([[[0.1, 0.4, 0.4, 0.1]], [[0.9, 0.1, 0.0, 0.0]], [[0.0, 0.0, 0.9, 0.1]]])
    scores = retrieval_scores(attention, torch.tensor([False, True, True, False]))
    assert torch.allclose(scores, torch.tensor([0.8, 0.1, 0.9]))
    assert voters(scores[None], 2) == (2, 0)
    whole = torch.ones(2, 3, 4)
    assert layer_importance(whole, whole * torch.tensor([0.9, 0.7])[:, None, None]) == pytest.approx((0.25, 0.75))
    with pytest.raises(OptionError, match="heads"):
        CompressKV(heads=(0, 9), first=2).reduce(made())


def test_layers_of_compresskv_share_the_budget_by_importance() -> None:
    m = CompressKV(keep=20, importance=(0.7, 0.3), least=10)
    assert [m.budget(100, i) for i in (0, 1)] == [24, 16]
    assert [m.reduce(dataclasses.replace(made(), layer=i)).m for i in (0, 1)] == [24, 16]
