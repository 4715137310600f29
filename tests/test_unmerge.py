"""Virtual unmerging against attention of the expanded sequence, and its cheap form where that is exact."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from foveate.encoder.dymu import DyMU, calibrate
from foveate.parts.edges import pooled
from foveate.parts.unmerge import counted_attention, turn, virtual_attention, virtual_logits
from foveate.tokens import Tokens

M, FULL, D = 9, 20, 8


def inputs(groups: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, h, M, D, generator=g) for h in (4, groups, groups))
    where = torch.randint(3, M, (FULL,), generator=g)
    where[:3], where[3:9], where[-1] = torch.arange(3), torch.arange(3, 9), M - 1
    return q, k, v, where


def rotary(n: int) -> tuple[Tensor, Tensor]:
    angles = torch.arange(n)[:, None] * 100.0 ** (-torch.arange(0, D, 2) / D)
    return torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()


def expanded(q: Tensor, k: Tensor, v: Tensor, where: Tensor) -> Tensor:
    """Full attention, then the mean over the places of each token: (B, H, M, D)."""
    logits = virtual_logits(q, k, where, *rotary(FULL), D**-0.5)
    logits = logits.masked_fill(torch.ones(FULL, FULL).triu(1).bool(), -torch.inf)
    full = logits.softmax(-1) @ v[:, :, where].repeat_interleave(q.shape[1] // v.shape[1], 1)
    return torch.stack([full[:, :, where == a].mean(2) for a in range(M)], 2)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_virtual_attention_is_that_of_the_whole_sequence(groups: int, chunk: int) -> None:
    q, k, v, where = inputs(groups)
    got = virtual_attention(q, k, v, where, *rotary(FULL), D**-0.5, chunk=chunk)
    assert torch.allclose(got, expanded(q, k, v, where), atol=1e-5)


def test_some_places_alone() -> None:
    q, k, v, where = inputs()
    whole = virtual_attention(q, k, v, where, *rotary(FULL), D**-0.5)
    at = torch.arange(3)  # tokens 0 to 2 stand in one place each
    some = virtual_attention(q, k, v, where, *rotary(FULL), D**-0.5, at=at)
    assert torch.allclose(some[:, :, :3], whole[:, :, :3], atol=1e-6)
    assert not some[:, :, 3:].any()


def test_counting_is_exact_without_positions() -> None:
    q, k, v, where = inputs()
    still = torch.ones(FULL, D), torch.zeros(FULL, D)
    logits = virtual_logits(q, k, where, *still, D**-0.5)
    full = logits.softmax(-1) @ v[:, :, where].repeat_interleave(2, 1)
    want = torch.stack([full[:, :, where == a].mean(2) for a in range(M)], 2)
    count = torch.bincount(where, minlength=M).float().expand(2, -1)
    got = counted_attention(q, k, v, count, D**-0.5, torch.ones(M, M).bool())
    assert torch.allclose(got, want, atol=1e-5)


def test_nothing_merged_is_plain_attention() -> None:
    q, k, v, _ = inputs(4)
    cos, sin = rotary(M)
    got = virtual_attention(q, k, v, torch.arange(M), cos, sin, D**-0.5)
    turned = turn(q, cos, sin), turn(k, cos, sin)
    want = torch.nn.functional.scaled_dot_product_attention(*turned, v, is_causal=True)
    assert torch.allclose(got, want, atol=1e-5)


def test_calibration_merges_r_a_row_on_average_and_its_threshold_repeats_that() -> None:
    g = torch.Generator().manual_seed(1)
    metric = torch.randn(4, 33, 8, generator=g)
    chosen, cut = pooled(DyMU().edges(Tokens(metric, prefix=1, metric=metric)).best, 6)
    assert int(chosen.sum()) == 4 * 6
    assert calibrate([metric, metric], 6, prefix=1) == pytest.approx(cut)
    out = DyMU(thresholds=(cut,)).reduce(Tokens(metric, prefix=1, metric=metric))
    assert int((33 - out.lengths).sum()) == 4 * 6
    assert len(set(out.lengths.tolist())) > 1  # each row to a number of its own


def test_empty_places_of_a_short_row_stay_empty() -> None:
    g = torch.Generator().manual_seed(2)
    x = torch.randn(2, 12, 8, generator=g)
    x[:, -3:] = x[:, 2:3]  # would merge with token 2, were they there
    size = torch.ones(2, 12)
    size[1, -3:] = 0
    out = DyMU(thresholds=(0.99,)).reduce(Tokens(x, metric=x, size=size))
    assert bool((out.assign[1, -3:] == -1).all())
    assert torch.equal(out.size(size).sum(-1), size.sum(-1))
