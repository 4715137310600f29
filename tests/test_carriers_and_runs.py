"""Hand-made clips: key frames and runs (TDC), carriers (VideoScan), groups of cache entries (QuickVideo)."""

from __future__ import annotations

import torch

from foveate import Entries
from foveate.cache.quickvideo import QuickVideo
from foveate.inputs.tdc import TDC
from foveate.inputs.videoscan import VideoScan
from foveate.parts.carriers import remember
from foveate.parts.runs import run_means, shares
from foveate.parts.slow_fast import readers
from foveate.tokens import Tokens


def clip(frames: int, places: int) -> Tokens:
    at = torch.arange(frames * places)
    x = torch.randn(1, frames * places, 8, generator=torch.Generator().manual_seed(0))
    return Tokens(x, grid=torch.stack([at // places, at * 0, at % places], -1)[None])


def test_runs_are_nearly_equal_and_shares_exact() -> None:
    group = torch.tensor([[0, 0, 0, 0, 1, 1, 1]])
    assert run_means(group, torch.tensor([[2, 1]])).tolist() == [[0, 0, 2, 2, 4, 4, 4]]
    assert run_means(group, torch.tensor([[0, 2]])).tolist() == [[-1, -1, -1, -1, 4, 4, 6]]
    assert shares(torch.tensor([[6, 3, 0], [1, 1, 1]]), torch.tensor([3, 9])).tolist() == [[2, 1, 0], [1, 1, 1]]


def test_key_frames_stay_whole_where_the_budget_allows() -> None:
    tokens = clip(8, 4)  # one scene of one chunk: a key frame of 4 tokens, and 28 after it
    out = TDC(keep=8, cuts=0).reduce(tokens)
    assert out.keep.tolist() == [[0, 1, 2, 3, 4, 11, 18, 25]]
    assert torch.allclose(out(tokens.x)[0, 4], tokens.x[0, 4:11].mean(0), atol=1e-6)


def test_context_takes_no_more_than_its_share() -> None:
    out = TDC(keep=4, cuts=0, context=0.25).reduce(clip(8, 4))
    assert out.keep.tolist() == [[0, 2, 3, 4]]  # runs of 2, 1, 1 and, in the frames after, 28


def test_the_most_alike_neighbours_lose_the_earlier_one() -> None:
    x = torch.tensor([[1.0, 0], [0, 1], [0, 2], [1, 1]])
    assert remember(x, 3) == ([0, 3], [-1, -1, 1, 1])


def test_extra_tokens_stay_beside_their_carrier() -> None:
    x = torch.tensor([[[1.0, 0], [3, 0.1], [0, 1], [0, 1], [4, 4], [1, 0]]])
    at = torch.arange(6)
    tokens = Tokens(x, grid=torch.stack([at // 3, at * 0, at % 3], -1)[None])
    out = VideoScan(extra=1).reduce(tokens)
    assert out.keep.tolist() == [[1, 2, 4, 5]]
    assert torch.allclose(out(x)[0, 1], x[0, :3].mean(0))
    assert torch.equal(out(x)[0, 0], x[0, 1])


def test_quickvideo_keeps_text_and_cuts_each_group() -> None:
    keys = torch.arange(1.0, 11).view(1, 1, 10, 1)
    visual = torch.tensor([[False, *[True] * 8, False]])
    entries = Entries(keys, keys, visual=visual)
    assert QuickVideo(keep=0.5, group=4).reduce(entries).keep.tolist() == [[0, 1, 2, 5, 6, 9]]
    assert QuickVideo(keep=2, group=4, score="large_values").reduce(entries).keep.tolist() == [[0, 4, 8, 9]]


def test_later_layers_keep_fewer_if_the_budget_decays() -> None:
    assert [QuickVideo(decay="linear").decayed(10, layer, 4) for layer in range(4)] == [10, 8, 5, 3]
    assert [QuickVideo(decay="exponential").decayed(10, layer, 4) for layer in range(3)] == [10, 8, 6]


def test_text_without_anything_visual_reads_nothing() -> None:
    visual = torch.tensor([[False, True, False], [False, False, False]])
    assert readers(visual, ~visual).tolist() == [[True, False, True], [False, False, False]]
    assert readers(visual, ~visual, after=True).tolist() == [[False, False, True], [False, False, False]]
