"""What cache methods keep, on caches small enough to see through."""

from __future__ import annotations

import math

import pytest
import torch

from foveate.cache.duoattention import DuoAttention
from foveate.cache.lococo import LoCoCo
from foveate.cache.lookm import LOOKM
from foveate.cache.prefixkv import PrefixKV
from foveate.cache.razorattention import RazorAttention
from foveate.cache.scissorhands import Scissorhands
from foveate.cache.uncomp import UNComp
from foveate.cache.videoxl2 import VideoXL2
from foveate.errors import InputError
from foveate.parts.allocate_prefix import prefix_forget
from foveate.parts.recurrence import Recurrence, observed
from foveate.parts.retaining import RetainingHead
from foveate.parts.retrieval_heads import repeated
from foveate.tokens import Entries


def cache(g: int = 2, n: int = 12, b: int = 1, d: int = 4, seed: int = 0, **given: object) -> Entries:
    draw = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(b, g, n, d, generator=draw) for _ in range(2))
    return Entries(keys, values, **given)


def looks(rows: torch.Tensor) -> Entries:
    """A cache whose last queries pay the given attention: rows (B, H, w, n)."""
    b, h, _, n = rows.shape
    keys = torch.eye(n).expand(b, h, n, n)
    return Entries(keys, keys, queries=rows.clamp(min=1e-30).log())


def test_duoattention_full_heads_keep_all_and_the_others_both_ends() -> None:
    method = DuoAttention(full=0.5, sinks=2, recent=3, gates=(0.1, 0.9, 0.8, 0.2))
    first, second = (method.reduce(cache(layer=i, layers=2)) for i in range(2))
    ends = [0, 1, 9, 10, 11]
    assert first.kept[0].nonzero()[:, 0].tolist() == second.kept[1].nonzero()[:, 0].tolist() == ends
    assert first.lengths.tolist() == [5, 12]
    assert second.lengths.tolist() == [12, 5]
    with pytest.raises(InputError, match="4 gates"):
        method.reduce(cache(layers=3))


def test_duoattention_without_gates_finds_the_head_that_looks_far_back() -> None:
    rows = torch.zeros(1, 2, 1, 12)
    rows[0, 0, 0, 11], rows[0, 1, 0, 5] = 1, 1
    assert DuoAttention(full=0.5, sinks=2, recent=3).reduce(looks(rows)).lengths.tolist() == [5, 12]


def test_padding_is_neither_a_sink_nor_averaged() -> None:
    valid = torch.arange(12)[None] >= 4
    entries = cache(valid=valid)
    duo = DuoAttention(full=0.0, sinks=2, recent=3, gates=(0.0, 0.0)).reduce(entries)
    assert duo.keep[0].tolist() == [4, 5, 9, 10, 11]
    razor = RazorAttention(full=0.0, local=5, sinks=2, gates=(0.0, 0.0)).reduce(entries)
    assert razor.keep[0].tolist() == [4, 5, 6, 10, 11]
    torch.testing.assert_close(razor(entries.keys[0])[:, 2], entries.keys[0, :, 6:10].mean(1))


def test_razorattention_averages_what_it_drops() -> None:
    entries = cache()
    out = RazorAttention(full=0.5, local=6, sinks=2, gates=(0.0, 1.0)).reduce(entries)
    x = entries.values[0]
    assert out.lengths.tolist() == [6, 12]
    assert torch.equal(out(x)[1], x[1])
    want = torch.cat([x[0, :2], x[0, 2:9].mean(0, keepdim=True), x[0, 9:]])
    torch.testing.assert_close(out(x)[0, :6], want)


def test_echo_and_induction_scores() -> None:
    n, period = 9, 4
    echo, induction = torch.zeros(2, n, n)
    for i in range(period, n):
        echo[i, i - period] = induction[i, i - period + 1] = 1
    scores = repeated(torch.stack([echo, induction]), period)
    share = (n - period) / n**2
    torch.testing.assert_close(scores[0], torch.tensor([share, 0.0]))
    torch.testing.assert_close(scores[1], torch.tensor([0.0, share]))


def test_prefixkv_flat_layers_keep_more_than_peaked_ones() -> None:
    flat, peaked = torch.ones(100) + torch.arange(100) * 1e-3, 0.8 ** torch.arange(100.0)
    few, many = prefix_forget(torch.stack([flat, peaked]), 0.5)
    assert few < many
    assert abs(few + many - 100) <= 2
    shares = ((100 - few), (100 - many))
    rows = torch.rand(1, 2, 100, generator=torch.Generator().manual_seed(0))
    out = [PrefixKV(shares=shares).reduce(cache(n=100, received=rows, layer=i, layers=2)) for i in range(2)]
    assert [o.m for o in out] == list(shares)
    assert all(torch.equal(o.keep[0], o.keep[1]) and {0, 99} <= set(o.keep[0].tolist()) for o in out)


def test_prefix_search_ends_where_all_entries_are_equal() -> None:
    assert all(0 <= f <= 50 for f in prefix_forget(torch.ones(3, 50), 0.37))


def test_lookm_text_stays_before_images_within_the_budget() -> None:
    visual = torch.tensor([[i in range(3, 9) for i in range(12)]])
    rows = torch.where(visual, 5.0, 1.0)[:, None].expand(1, 2, 12)
    entries = cache(visual=visual, received=rows)
    assert LOOKM(keep=6, recent=2, merge="none").reduce(entries).keep[0].tolist() == [0, 1, 2, 9, 10, 11]
    assert LOOKM(keep=4, recent=2, merge="none").reduce(entries).m == 4


@pytest.mark.parametrize("merge", ["pivot", "weighted", "mean"])
def test_lookm_folds_into_the_most_similar_key(merge: str) -> None:
    entries = cache(g=2, n=10, received=torch.arange(20.0).view(1, 2, 10))
    out = LOOKM(keep=6, recent=2, sinks=0, text_first=False, merge=merge).reduce(entries)
    near, gone = torch.zeros(2, 4), range(4)
    into = torch.zeros(2, 4, dtype=torch.int64)
    for h in range(2):
        cos = torch.nn.functional.cosine_similarity(entries.keys[0, h, :4, None], entries.keys[0, h, None, 4:], dim=-1)
        near[h], into[h] = cos.max(-1)
    merged = near.mean(0) >= near.mean() if merge == "weighted" else torch.ones(4, dtype=torch.bool)
    for h in range(2):
        x = entries.values[0, h]
        for slot in range(6):
            target, given = x[4 + slot], []
            for i in gone:
                if into[h, i] == slot and merged[i]:
                    pivot = (x[i] + target) / 2
                    given.append({"pivot": pivot, "weighted": near[h, i] * x[i], "mean": x[i]}[merge])
            torch.testing.assert_close(out(entries.values[0])[h, slot], torch.stack([target, *given]).mean(0))


def test_scissorhands_counts_rows_above_an_even_spread() -> None:
    rows = torch.full((1, 1, 4, 10), 0.01)
    rows[..., 2] = 0.12  # a little in every row
    rows[0, 0, 0, 5] = 0.9  # much, once
    rows = rows / rows.sum(-1, keepdim=True)
    rows[..., 1:, 2] = 0.2
    entries = looks(rows / rows.sum(-1, keepdim=True))
    assert Scissorhands(keep=3, recent=2).reduce(entries).keep[0].tolist() == [2, 8, 9]


def test_uncomp_head_of_many_directions_keeps_twice_as_much() -> None:
    draw = torch.Generator().manual_seed(0)
    many = torch.randn(1, 1, 60, 8, generator=draw)
    few = torch.randn(1, 1, 60, 1, generator=draw) * torch.ones(8)
    entries = cache(n=60, d=8)
    for queries, want in ((torch.cat([many, few], 1), [24, 12]), (torch.cat([few, many], 1), [12, 24])):
        out = UNComp(keep=18).reduce(Entries(entries.keys, entries.values, queries=queries))
        assert out.lengths.tolist() == want


def test_recurrence_step_by_step_and_at_once() -> None:
    draw = torch.Generator().manual_seed(1)
    rows = torch.rand(5, 2, 7, generator=draw)
    state = Recurrence.start(rows[0])
    for row in rows:
        state = state.see(row, 0.6)
    at_once = observed((rows >= 0.6).transpose(0, 1))
    assert state.step == at_once.step
    assert torch.equal(state.last, at_once.last)
    assert torch.equal(state.period, at_once.period)
    back = Recurrence(10, torch.tensor([9.0, 9.0]), torch.tensor([3.0, 0.0])).score()
    want = 2 / (1 + math.exp(1 + 1 / (3 + 1e-5))) + 2 / (1 + math.exp(2))
    torch.testing.assert_close(back, torch.tensor([want, 0.0]))


def test_retaining_head_shapes() -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, h, 5, 3, generator=draw) for h in (4, 2, 2))
    head = RetainingHead(torch.randn(6, 24, generator=draw), torch.randn(2, 6, generator=draw))
    x = torch.cat([q[1, :, 4].flatten(), k[1, :, 4].flatten(), v[1, :, 4].flatten()])
    want = head.fc2 @ torch.nn.functional.silu(head.fc1 @ x)
    torch.testing.assert_close(head.score(q, k, v)[1, :, 4], want)


def test_lococo_slots_are_averages_and_take_over_from_eviction() -> None:
    entries = cache(n=20, received=torch.rand(1, 2, 20, generator=torch.Generator().manual_seed(0)))
    method = LoCoCo(keep=8, local=2)
    convs = [(torch.randn(4, 8, 3, generator=torch.Generator().manual_seed(1)), None)]
    out = method.blended(entries, convs, 0.3)
    assert torch.equal(out.keep, method.reduce(entries).keep)
    torch.testing.assert_close(out.to_dense().sum(-1), torch.ones(2, 8))
    assert torch.equal(method.blended(entries, convs, 0.0)(entries.keys[0]), method.reduce(entries)(entries.keys[0]))


def test_videoxl2_averages_chunks_that_are_not_asked_for() -> None:
    visual = torch.tensor([[i not in (0, 5, 10) for i in range(14)]])  # text at 0, 5, 10
    entries = cache(n=14, visual=visual)
    out = VideoXL2(chunk=4, pool=3, dense=(2,)).reduce(entries)  # 11 visual tokens: chunks of 4, 4, 3
    assert out.keep[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 13]
    torch.testing.assert_close(out(entries.keys[0])[:, 6], entries.keys[0, :, 6:9].mean(1))
    short = VideoXL2(chunk=4, pool=3, dense=(2,), variant="code").reduce(entries)
    assert 9 not in short.keep[0].tolist()
    assert short.m == out.m - 1


def test_videoxl2_the_question_picks_the_dense_chunk() -> None:
    rows = torch.full((1, 1, 2, 20), 0.01)
    rows[..., 8:12] = 0.2
    out = VideoXL2(chunk=4, pool=4, best=0.2).reduce(looks(rows / rows.sum(-1, keepdim=True)))
    assert out.keep[0].tolist() == [0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 16, 17, 18, 19]
