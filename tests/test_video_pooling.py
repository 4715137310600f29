"""Methods that pool, sample, fold and choose frames of a clip, on clips small enough to see what they do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from foveate import Tokens
from foveate.inputs.bvllm import BVLLM
from foveate.inputs.dcode import DCoDe
from foveate.inputs.longvlm import LongVLM
from foveate.inputs.quota import QuoTA, assigned, evenly, rectangle
from foveate.inputs.slowfast import SlowFastLLaVA
from foveate.inputs.tsllava import TSLLaVA
from foveate.media.bolt import BOLT
from foveate.media.dcode_frames import DCoDeFrames
from foveate.parts.areas import areas, members, pooled, seats
from foveate.parts.film import Film
from foveate.parts.spaced import apart
from foveate.parts.stepwise import halvings, long_halvings


def grid(frames: int, side: int) -> Tensor:
    at = torch.arange(frames * side * side)
    return torch.stack([at // side**2, at // side % side, at % side], -1)[None]


def clip(frames: int, side: int = 4, d: int = 8, **signals: Tensor) -> Tokens:
    g = torch.Generator().manual_seed(frames)
    return Tokens(torch.randn(1, frames * side**2, d, generator=g), grid=grid(frames, side), **signals)


def per_frame(kept: Tensor, frames: int) -> list[int]:
    return kept[0].view(frames, -1).sum(-1).tolist()


def test_areas_that_divide_evenly_are_plain_pooling() -> None:
    t = clip(3)
    out = pooled(t, Film(t), torch.ones(1, 3), 12)
    plain = avg_pool2d(t.x.view(3, 4, 4, 8).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1).reshape(1, 12, 8)
    assert torch.allclose(out(t.x), plain, atol=1e-6)


@pytest.mark.parametrize("count", range(1, 26))
def test_no_area_is_empty_and_none_spreads_over_the_frame(count: int) -> None:
    view = torch.zeros(1, 25, dtype=torch.long)
    cell = areas(grid(1, 5), view, torch.tensor([[count]]))
    sizes = members(cell, count)
    assert sizes.min() >= 1
    assert sizes.sum() == 25
    assert cell.max() == count - 1
    if count >= 9:
        for c in range(count):
            of = grid(1, 5)[cell == c]
            assert int((of.amax(0) - of.amin(0)).max()) <= 2


def test_line_ends_are_pooled_among_themselves() -> None:
    t = clip(2, side=3)
    ends = t.grid.clone()
    ends[:, 2::3, 2] = -1
    t = t.with_(grid=ends)
    out = pooled(t, Film(t), torch.ones(1, 2), 6)
    mixed = out.to_dense()[0] > 0
    end = ends[0, :, 2] < 0
    assert not (mixed[:, end].any(-1) & mixed[:, ~end].any(-1)).any()


def test_places_go_by_claim_and_what_a_full_group_leaves_goes_on() -> None:
    group = torch.tensor([[0] * 2 + [1] * 6 + [2] * 6])
    assert seats(group, torch.tensor([[8.0, 1.0, 1.0]]), 6).tolist() == [[2, 2, 2]]
    assert seats(group, torch.tensor([[0.0, 3.0, 1.0]]), 4).tolist() == [[0, 3, 1]]
    assert seats(group, torch.tensor([[0.0, 0.0, 0.0]]), 14).tolist() == [[2, 6, 6]]


def test_even_positions_never_meet() -> None:
    for n, m in ((6272, 6271), (7, 7), (9, 1), (10, 3), (8192, 5000)):
        at = apart(n, m)
        assert len(at.unique()) == m
        assert at[0] == 0
        assert at[-1] == (n - 1 if m > 1 else 0)


def test_steps_halve_until_the_rest_fits() -> None:
    assert halvings(2560, 30) == [1280, 640, 320, 160, 80, 40, 10]  # the schedule that LongVLM publishes
    assert halvings(5, 2) == [2, 1]
    assert long_halvings(5, 2) == [3]
    assert halvings(3, 3) == [] == long_halvings(3, 5)


def test_tsllava_samples_everywhere_and_pools_the_frames_it_shows() -> None:
    t = clip(8)
    out = TSLLaVA(keep=24, frames=2, share=1 / 3).reduce(t)
    alone = (out.to_dense()[0] > 0).sum(-1) == 1
    assert out.m == 24
    assert torch.equal(out(t.x)[0, alone], t.x[0, out.keep[0, alone]])
    means = out.keep[0, ~alone]
    assert set((means // 16).tolist()) == {0, 7}
    counts = per_frame(out.kept, 8)
    assert min(counts) >= 1
    assert counts[0] > counts[3]
    assert counts[7] > counts[3]


def test_slowfast_gives_slow_frames_the_larger_part() -> None:
    t = clip(8)
    assert per_frame(SlowFastLLaVA(keep=44, frames=2, share=32 / 44).reduce(t).kept, 8) == [16, 2, 2, 2, 16, 2, 2, 2]
    assert per_frame(SlowFastLLaVA(keep=8, frames=8).reduce(t).kept, 8) == [1] * 8


def test_quota_follows_the_question() -> None:
    t = clip(4)
    x = t.x.clone()
    x[:, 32:48] = torch.eye(8)[0] * 3
    t = t.with_(x=x, text=torch.eye(8)[None, :1])
    for how in ("pool", "sample", "merge"):
        counts = per_frame(QuoTA(keep=24, how=how).reduce(t).kept, 4)
        assert counts[2] == max(counts) > 6
        assert sum(counts) == 24
        assert per_frame(QuoTA(keep=24, how=how, power=0).reduce(t).kept, 4) == [6] * 4


def test_quota_samples_the_ends_and_counts_as_published() -> None:
    assert evenly(torch.zeros(1, 7, dtype=torch.long), torch.tensor([[3]])).nonzero()[:, 1].tolist() == [0, 3, 6]
    assert assigned(torch.tensor([1.0, 2.0, 1.0]), 10) == [2, 5, 2]
    assert assigned(torch.tensor([1.0, 8.0, 1.0]), 10, most=4) == [1, 4, 1]  # 4 too many, each gets 1/6 of them
    assert rectangle(6) == (3, 2)
    assert rectangle(8) == (3, 2)
    assert rectangle(3) == (2, 1)
    assert rectangle(9) == (3, 3)


def test_bvllm_folds_chains_into_their_root() -> None:
    turn = torch.tensor([0.0, 0.9, 1.8, 1.8 + torch.pi])  # (cos + 1) / 2: 0.81 between neighbours, 0.39 over two
    metric = torch.stack([turn.cos(), turn.sin()], -1)[None]
    sizes = torch.full((1, 4), 5)
    assert BVLLM().fold(metric, sizes).tolist() == [[0, 0, 0, 3]]
    assert BVLLM(variant="code").fold(metric, sizes).tolist() == [[0, 0, -1, 3]]
    assert BVLLM().fold(metric, sizes, room=9).tolist() == [[0, 0, 2, 3]]


def test_bvllm_averages_what_repeats_and_keeps_to_its_budget() -> None:
    t = clip(3)
    x = t.x.clone()
    x[:, 16:32] = x[:, :16] + 0.01
    t = t.with_(x=x)
    out = BVLLM(keep=32, threshold=0.99).reduce(t)
    assert out.m == 32
    assert per_frame(out.kept, 3) == [16, 0, 16]
    assert torch.allclose(out(x)[:, :16], (x[:, :16] + x[:, 16:32]) / 2, atol=1e-6)


def test_longvlm_merges_inside_segments() -> None:
    t = clip(5)
    out = LongVLM(keep=10, frames=2, heads=2).reduce(t)
    segment = torch.arange(80) // 32
    for row in out.to_dense()[0] > 0:
        assert len(segment[row].unique()) == 1
    assert members(segment[out.keep], 3).tolist() == [[4, 4, 2]]


def test_dcode_gives_each_token_to_the_longest_that_is_like_it() -> None:
    turn = torch.tensor([0.0, 0.5, 1.0, 3.0])
    x = torch.stack([turn.cos(), turn.sin()], -1) * torch.tensor([4.0, 3.0, 2.0, 1.0])[:, None]
    t = Tokens(x[None], grid=grid(1, 2))
    out = DCoDe(top=1.0, threshold=0.8).reduce(t)  # 0.5 apart: cosine 0.88; 1.0 apart: 0.54
    assert out.keep.tolist() == [[0, 2, 3]]
    assert out.assign.tolist() == [[0, 0, 1, 2]]
    code = DCoDe(top=1.0, threshold=0.8, variant="code").reduce(t)
    assert code.keep.tolist() == [[0, 3]]  # the third is like the second, which is gone
    assert DCoDe(top=2).reduce(t).assign.tolist() == [[0, 0, -1, -1]]


def test_dcode_as_the_code_does_it_replaces_values_as_it_goes() -> None:
    turn = torch.tensor([0.0, 1.0, 0.5])
    x = torch.stack([turn.cos(), turn.sin()], -1) * torch.tensor([4.0, 3.0, 2.0])[:, None]
    t = Tokens(x[None], grid=grid(1, 2)[:, :3])
    out = DCoDe(top=1.0, threshold=0.8, variant="code").reduce(t)  # the third joins the first, and then the second
    want = torch.stack([(x[0] + x[2]) / 2, (x[1] + x[2]) / 2])[None]
    assert out.keep.tolist() == [[0, 1]]
    assert torch.allclose(out(t.x), want, atol=1e-6)


def test_bolt_samples_by_score() -> None:
    score = torch.tensor([[0.0, 1.0, 0.0, 3.0]])
    assert BOLT().pick(score, 4).tolist() == [[1, 3, 3, 3]]
    assert BOLT().pick(torch.full((1, 8), 0.3), 4).tolist() == [[1, 3, 4, 5]]
    assert BOLT(variant="code").pick(torch.full((1, 8), 0.3), 4).tolist() == [[0, 0, 0, 0]]
    frames = Tokens(torch.eye(4)[None], text=torch.eye(4)[None, 2:3])
    assert BOLT(frames=3).reduce(frames).keep.tolist() == [[2]]


def test_dcode_frames_adds_the_frame_unlike_the_others() -> None:
    x = torch.tensor([[1.0, 0.0]]).repeat(9, 1)
    x[6] = torch.tensor([0.0, 1.0])
    assert DCoDeFrames(uniform=0.5).pick(x, 4).tolist() == [0, 1, 6, 8]
    assert DCoDeFrames(frames=9).reduce(Tokens(x[None])).m == 9
