"""Rules inside the LLM that no vector covers: focus, withdrawal, schedules, and sums taken in slices."""

from __future__ import annotations

import pytest
import torch

from foveate import Tokens
from foveate.errors import InputError, OptionError
from foveate.inputs.aim import AIM
from foveate.inputs.vflowopt import VFlowOpt
from foveate.layers.aim_prune import AIMPrune
from foveate.layers.cmai import CMAI
from foveate.layers.fitprune import FitPrune, fit, work
from foveate.layers.llavolta import LLaVolta
from foveate.layers.sparsevlm import SparseVLM
from foveate.layers.todre_stop import ToDREStop
from foveate.layers.vtw import VTW, find_layer
from foveate.parts.chunks import page_rank, strongest_head
from foveate.parts.density_peaks import density_peaks
from foveate.parts.score import text_rows
from foveate.parts.stages import due, even, starts


def test_focus_reaches_the_image_through_another_word():
    # the second word reads only the first, and the first looks at visual token 2
    to_text = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    to_image = torch.tensor([[[0.0, 0.1, 0.9], [0.0, 0.0, 0.0]]])
    assert torch.equal(CMAI().focus(to_text, to_image)[0, 1], to_image[0, 0])


def test_cmai_keeps_what_one_word_focuses_on():
    rows = torch.full((1, 1, 6, 6), -1e4)
    rows[0, 0, 4, 1] = 0.0  # the first word looks at visual token 1
    rows[0, 0, 5, 3] = 0.0  # the second at visual token 3
    tokens = Tokens(
        torch.zeros(1, 4, 2), layer=2, q=rows, k=torch.eye(6)[None, None], where=torch.arange(4)[None],
        asks=torch.tensor([[4, 5]]),
    )  # fmt: skip
    rows[0, 0, 4, 4] = rows[0, 0, 5, 5] = 0.0  # and each reads itself
    assert CMAI(keep=2).reduce(tokens).keep.tolist() == [[1, 3]]


def test_visual_tokens_leave_together_once_attention_fades():
    attention = torch.full((2, 4, 10), 0.02)
    attention[1] /= 10
    out = ToDREStop(threshold=0.05).reduce(Tokens(torch.zeros(2, 10, 3), last_attention=attention))
    assert out.lengths.tolist() == [10, 0]
    assert ToDREStop(start=0.75).at(8) == (6, 7)


def test_withdrawal_starts_where_the_answer_hardly_changes():
    full = torch.randn(3, 11, generator=torch.Generator().manual_seed(0))
    near = torch.stack([-full, full + 0.5, full])  # a constant changes no distribution
    assert find_layer(full, near, 1e-4, first=5) == 6
    with pytest.raises(InputError, match="no layer from 5"):
        find_layer(full, near[:1], 1e-4)
    assert VTW().at(24) == (12,)


def test_a_fitted_schedule_meets_its_budget_and_spares_heavy_tokens():
    g = torch.Generator().manual_seed(0)
    cross, own = (torch.rand(4, 8, 50, generator=g) ** 4 for _ in range(2))
    counts = fit(cross, own, target=0.6)
    assert work(counts, 50) <= 0.6 < work(fit(cross, own, target=0.9), 50) <= 0.9
    method = FitPrune.of([0, 20, 0, 10], 50)
    assert method.layers == (2, 4)
    assert method.keeps == (0.6, 0.4)
    assert method.at(4) == (2,)  # a deletion after the last layer is none


def test_sums_in_slices_are_those_of_the_whole_map():
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 4, 30, 8, generator=g), torch.randn(2, 2, 30, 8, generator=g)
    every = torch.arange(30).expand(2, -1)
    whole = text_rows(q, k, every)  # (B, H, L, L)
    where, rows = every[:, 3:20], every[:, 5:29]
    want = whole.amax(1)[:, 5:29, 3:20].sum(1)
    torch.testing.assert_close(strongest_head(q, k, rows, where, chunk=7), want)
    walk = torch.full((2, 4, 1, 30), 1 / 30)
    for _ in range(5):
        walk = 0.9 * walk @ whole + 0.1 / 30
    torch.testing.assert_close(page_rank(q, k, 5, damping=0.1, chunk=7), walk[:, :, 0])


def test_density_peaks_finds_the_groups():
    g = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(3, 8, generator=g)
    x = centres.repeat_interleave(5, 0) + 0.1 * torch.randn(15, 8, generator=g)
    found = density_peaks(x[None], 3, 3)
    assert len(set((found.centres[0] // 5).tolist())) == 3
    assert all(len(set(found.label[0, i : i + 5].tolist())) == 1 for i in (0, 5, 10))


def test_recycled_clusters_count_within_the_budget():
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 2, 60, 8, generator=g), torch.randn(1, 2, 60, 8, generator=g)
    tokens = Tokens(
        torch.randn(1, 50, 6, generator=g), layer=3, layers=32, q=q, k=k, where=torch.arange(2, 52)[None],
        asks=torch.arange(52, 60)[None], text=torch.randn(1, 8, 6, generator=g),
    )  # fmt: skip
    for keep in (0.04, 0.1, 0.5, 0.98):
        out = SparseVLM(layers=(3,), keeps=(keep,)).reduce(tokens)
        assert out.m == round(keep * 50)
        assert bool((out.size() > 1).any()) == (keep < 0.98)
    # full rank of the raters' attention: every token that is not explained by it may go
    fewer = SparseVLM(adaptive=1.0, variant="plus").reduce(tokens)
    assert fewer.m == int(SparseVLM().raters(tokens.x, tokens.text).sum())


def test_frames_merge_apart_and_share_the_budget():
    grid = torch.tensor([[f, 0, c] for f in range(3) for c in range(8)])[None]
    out = AIM(keep=10).reduce(Tokens(torch.randn(1, 24, 4), grid=grid))
    assert (out.keep // 8).tolist() == [[0] * 4 + [1] * 3 + [2] * 3]
    frame = torch.arange(24) // 8
    assert torch.equal(frame[out.keep[0]][out.assign[0]], frame)
    assert AIM().rates(49, 12) == [24, 12, 1]


def test_recycling_meets_every_budget_that_the_cells_allow():
    g = torch.Generator().manual_seed(0)
    grid = torch.tensor([[0, r, c] for r in range(10) for c in range(10)])[None].expand(2, -1, -1)
    attention = torch.rand(2, 100, generator=g)
    pixels = torch.randint(256, (2, 100, 3, 4, 4), generator=g).float()
    tokens = Tokens(torch.randn(2, 100, 4, generator=g), received_attention=attention, pixels=pixels, grid=grid)
    for keep in range(1, 101):
        out = VFlowOpt(keep=keep).reduce(tokens)
        assert out.lengths.tolist() == [keep, keep]
        if keep >= 4:  # cells of 5 x 5: every token is kept or part of its cell's mean
            assert bool((out.assign >= 0).all())
    heir = out.assign.gather(1, out.keep)
    assert torch.equal(heir, torch.arange(out.m).expand(2, -1))


def test_pooled_tokens_take_the_middle_and_the_remainder_is_a_shorter_run():
    x = torch.arange(10.0)[None, :, None]
    out = LLaVolta(stride=4).reduce(Tokens(x))
    assert out.keep.tolist() == [[1, 5, 8]]
    assert out(x)[0, :, 0].tolist() == [1.5, 5.5, 8.5]
    assert LLaVolta(stride=4, variant="code").reduce(Tokens(x)).keep.tolist() == [[1, 5]]


def test_stages_fit_any_depth():
    assert AIMPrune().at(28) == tuple(range(15, 23))
    assert AIMPrune().at(2) == (1,)
    assert starts(None, even(3), 24) == (6, 12, 18)
    assert starts((4,), even(1), 24) == (4,)
    assert due((1, 1, 2), (0.5, 0.4, 0.3), 1) == 0.4
    with pytest.raises(OptionError, match="'layers' and 'keeps' of aim_prune must be equally long"):
        AIMPrune(layers=(3,))
