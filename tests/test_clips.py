"""What the segmentations and merges of whole clips rest on, by examples worked out by hand or by plain loops."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from foveate.inputs.fastvid import FastVID
from foveate.inputs.holitom import HoliTom
from foveate.inputs.prunevid import PruneVid
from foveate.layers.holitom_merge import folded
from foveate.layers.prunevid_prune import PruneVidPrune
from foveate.parts.clip import Averaged, Clip, blend
from foveate.parts.density_peaks import density_peaks, grouped_peaks
from foveate.parts.entries import from_entries
from foveate.parts.quota import seats
from foveate.parts.scenes import best_windows, breaks, lasting, steady_runs
from foveate.tokens import Tokens


def saved(same: Tensor, segment: list[int]) -> int:
    """What windows save, counted one by one."""
    total = 0
    for s in set(segment):
        frames = [f for f, k in enumerate(segment) if k == s]
        if len(frames) > 1:
            total += int(same[frames[1:]].all(0).sum()) * (len(frames) - 1)
    return total


@pytest.mark.parametrize(("longest", "seed"), product((1, 2, 3, 99), range(4)))
def test_windows_save_as_much_as_any_cut_can(longest: int, seed: int) -> None:
    same = torch.rand(7, 5, generator=torch.Generator().manual_seed(seed)) < 0.6
    same[0] = False
    found = best_windows(same, longest).tolist()
    best = 0
    for cuts in product((0, 1), repeat=6):
        segment = [sum(cuts[:f]) for f in range(7)]
        if max(segment.count(s) for s in segment) <= longest:
            best = max(best, saved(same, segment))
    assert saved(same, found) == best
    assert max(found.count(s) for s in found) <= longest


def test_frames_that_save_nothing_stand_alone() -> None:
    same = torch.tensor([[0, 0], [1, 1], [0, 0], [1, 0]]).bool()
    segment = best_windows(same, 9)
    assert segment.tolist() == [0, 0, 1, 1]
    assert lasting(same, segment).tolist() == [[True, True], [True, True], [True, False], [True, False]]


@pytest.mark.parametrize(
    ("label", "lengths"),
    [
        ([3, 3, 3, 1, 1], [3, 2]),
        ([0, 0, 1, 0, 0, 0], [6]),  # both runs beside the single frame are of one cluster; the longer is the survivor
        ([0, 0, 1, 1, 1, 2, 1, 1], [2, 6]),  # what is left over at the end joins the left
        ([2, 0, 0, 1, 1], [3, 2]),  # a single frame at the start joins the right
        ([0, 0, 2, 1, 1], [3, 2]),  # equally long on both sides: the left
        ([0, 0, 2, 1, 1, 1], [2, 4]),
        ([0, 0, 1, 1, 1, 0, 0], [2, 3, 2]),  # equally long runs of one cluster all stay
        ([0, 1, 0, 1], [4]),  # nothing is steady
        ([5], [1]),
    ],
)
def test_runs_are_tidied(label: list[int], lengths: list[int]) -> None:
    assert steady_runs(label).bincount().tolist() == lengths


def test_breaks_are_the_weakest_links_and_all_below_the_threshold() -> None:
    frames = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.0, 1.0], [0.2, 1.0]])
    assert breaks(frames, 0, 0.5).tolist() == [0, 0, 1, 1, 1]
    assert breaks(frames, 2, 0.5).tolist() == [0, 0, 1, 1, 2]
    assert breaks(frames, 9, -1.0).tolist() == [0, 1, 2, 3, 4]


def test_seats_go_by_claim_and_never_beyond_the_room() -> None:
    assert seats(torch.tensor([10, 20, 10]), torch.tensor([10, 20, 10]), 8).tolist() == [2, 4, 2]
    assert seats(torch.tensor([1, 1]), torch.tensor([1, 9]), 6).tolist() == [1, 5]
    assert seats(torch.tensor([4, 0]), torch.tensor([4, 0]), 4).tolist() == [4, 0]


def test_rows_of_different_lengths_cluster_as_if_alone() -> None:
    x = torch.randn(2, 12, 6, generator=torch.Generator().manual_seed(0))
    there = torch.arange(12) < torch.tensor([[12], [7]])
    found = grouped_peaks(x, there, torch.tensor([4, 3]), 3)
    for row, (n, count) in enumerate(((12, 4), (7, 3))):
        alone = density_peaks(x[row : row + 1, :n], count, 3)
        assert found.into[row, :n].tolist() == alone.centres[0, alone.label[0]].tolist()
        assert found.rank[row, alone.centres[0]].tolist() == list(range(count))
    assert found.into[1, 7:].tolist() == [-1] * 5


def test_newcomers_halve_what_was_there() -> None:
    assert folded(torch.tensor([[1, 1, 1, 3, 1]])).tolist() == [[1 / 8, 1 / 8, 1 / 4, 1.0, 1 / 2]]


def test_clusters_weigh_their_centre() -> None:
    into = torch.tensor([[1, 1, 1, 3, -1]])
    assert torch.allclose(blend(into, 0.6)[0, :4], torch.tensor([0.2, 0.6, 0.2, 1.0]))
    assert torch.allclose(blend(into)[0, :4], torch.tensor([1 / 3, 1 / 3, 1 / 3, 1.0]))


def test_entries_make_a_matrix_only_where_a_token_serves_twice() -> None:
    keep, token = torch.tensor([1, 4]), torch.tensor([1, 1, 0, 4])
    once = from_entries(5, keep, torch.tensor([1, 1, 1, 4]), token, torch.tensor([0.5, 0.25, 0.25, 1.0]))
    assert once.matrix is None
    assert once.to_dense().tolist() == [[[0.25, 0.75, 0, 0, 0], [0, 0, 0, 0, 1]]]
    twice = from_entries(5, keep, torch.tensor([1, 1, 4, 4]), torch.tensor([1, 0, 0, 4]), torch.full((4,), 0.5))
    assert twice.to_dense().tolist() == [[[0.5, 0.5, 0, 0, 0], [0.5, 0, 0, 0, 0.5]]]


def clip(frames: list[list[float]], size: int = 4) -> Tokens:
    """Frames given by one number for each place; tokens are unit vectors at that angle."""
    angle = torch.tensor(frames)
    x = torch.stack([angle.cos(), angle.sin()], -1).flatten(0, 1)
    cell = torch.arange(len(x))
    grid = torch.stack([cell // size, cell % size // 2, cell % 2], -1)
    return Tokens(x[None], grid=grid[None], received_attention=(cell % size).float()[None])


def test_still_places_are_averaged_over_their_segment() -> None:
    t = clip([[0.0, 1.0, 2.0, 3.0], [0.1, 1.0, 9.0, 3.0]])
    c = Clip(t.x[0], t.grid[0])
    groups = Averaged(c, torch.tensor([0, 0]), c.likeness().gt(0.9).any(0).expand(2, 4))
    assert groups.sizes.tolist() == [3, 1, 1]
    out = groups.joined(torch.arange(4).expand(3, 4), torch.ones(3, 4))
    assert out.keep.tolist() == [[0, 1, 2, 3, 6]]
    assert torch.allclose(out(t.x)[0, 0], t.x[0, [0, 4]].mean(0))
    assert torch.equal(out(t.x)[0, 2], t.x[0, 2])


def test_a_still_clip_needs_one_frame() -> None:
    t = clip([[0.0, 1.0, 2.0, 3.0]] * 5)
    assert HoliTom(keep=4).reduce(t).keep.tolist() == [[0, 1, 2, 3]]
    assert PruneVid().reduce(t).keep.tolist() == [[0, 1, 2, 3]]
    assert HoliTom(keep=7).reduce(t).m == PruneVid(keep=7).reduce(t).m == 7


def test_what_is_looked_at_stays_in_moving_frames() -> None:
    t = clip([[0.0, 1.0, 2.0, 3.0], [2.0, 3.0, 4.0, 5.0]])
    assert HoliTom(keep=0.5).reduce(t).keep.tolist() == [[2, 3, 6, 7]]


def test_anchors_serve_their_whole_segment() -> None:
    t = clip([[0.0, 1.0, 2.0, 3.0]] * 4)
    out = FastVID(keep=8, segments=1, tau=-1.0, anchors=0.5, step=4).reduce(t)
    assert out.keep.tolist() == [[2, 3, 7, 11, 12, 13, 14, 15]]  # 12 to 14 are anchors, and 2 had no room beside them
    joined = (out.to_dense()[0, 4:7] > 0).sum(0)
    assert joined.tolist() == [1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0]
    assert torch.allclose(out(t.x)[0, 4:7], t.x[0, 12:15], atol=1e-6)


def test_each_frame_keeps_what_some_word_looks_at() -> None:
    score = torch.tensor([[9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 3.0, 4.0]])
    group = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
    assert PruneVidPrune(keep=0.5).chosen(score, group)[0].nonzero()[:, 0].tolist() == [0, 1, 6, 7]
    assert PruneVidPrune(keep=0.4, variant="code").chosen(score, group)[0].nonzero()[:, 0].tolist() == [0, 7]
    assert PruneVidPrune().score(torch.tensor([[[[0.1, 0.9]], [[0.3, 0.2]]]])).tolist() == [pytest.approx([0.3, 0.9])]
