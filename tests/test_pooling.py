"""Pooling over a grid: any number of cells, several views, line ends, grids that do not divide."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from foveate import Tokens
from foveate.inputs.adaptivepool import AdaptivePool
from foveate.inputs.m3 import M3
from foveate.inputs.oryx_compressor import OryxCompressor


def grid_of(high: int, wide: int, views: int = 1, ends: bool = False) -> Tensor:
    cells = [(v, r, c) for v in range(views) for r in range(high) for c in [*range(wide), *([-1] if ends else [])]]
    return torch.tensor(cells)[None]


def tokens_on(grid: Tensor, d: int = 3) -> Tokens:
    return Tokens(torch.randn(1, grid.shape[1], d, generator=torch.Generator().manual_seed(0)), grid=grid)


@pytest.mark.parametrize(("high", "wide", "m"), [(12, 12, 36), (12, 12, 9), (6, 9, 6), (4, 8, 8)])
def test_adaptive_pooling_agrees_with_torch_where_the_grid_divides(high: int, wide: int, m: int) -> None:
    tokens = tokens_on(grid_of(high, wide))
    rows = round((m * high / wide) ** 0.5)
    want = adaptive_avg_pool2d(tokens.x[0].T.view(3, high, wide), (rows, m // rows))
    assert torch.allclose(AdaptivePool(keep=m).reduce(tokens)(tokens.x)[0], want.flatten(1).T, atol=1e-6)


@pytest.mark.parametrize(("high", "wide"), [(1, 1), (1, 7), (5, 1), (5, 7), (13, 4)])
@pytest.mark.parametrize("views", [1, 3])
def test_every_number_of_cells_can_be_met(high: int, wide: int, views: int) -> None:
    tokens = tokens_on(grid_of(high, wide, views))
    for m in range(1, tokens.n + 1):
        method = AdaptivePool(keep=m)
        assert method.reduce(tokens).m == m
        cell = method.cells(tokens)[0]
        for c in cell[cell >= 0].unique():
            block = tokens.grid[0, cell == c]
            spans = (block.amax(0) - block.amin(0) + 1).tolist()
            assert spans[0] == 1  # one view
            assert spans[1] * spans[2] == len(block)  # a full rectangle


def test_line_ends_are_pooled_among_themselves() -> None:
    tokens = tokens_on(grid_of(6, 6, ends=True))
    ends = tokens.grid[0, :, 2] < 0
    for method in (AdaptivePool(keep=0.5), M3(scale=9), OryxCompressor()):
        mixed = method.reduce(tokens).to_dense()[0] != 0
        assert not (mixed[:, ends].any(1) & mixed[:, ~ends].any(1)).any()
    assert M3(scale=9).reduce(tokens).m == 9 + 3


def test_m3_of_a_grid_that_does_not_divide() -> None:
    tokens = tokens_on(grid_of(5, 5))
    whole, code = M3(scale=4).reduce(tokens), M3(scale=4, variant="code").reduce(tokens)
    assert whole.m == 9
    assert (whole.assign >= 0).all()
    assert code.m == 4
    assert torch.allclose(code(tokens.x)[0, 0], tokens.x[0, [0, 1, 5, 6]].mean(0))


def test_m3_pools_every_view_for_itself() -> None:
    tokens = tokens_on(grid_of(4, 4, views=3))
    assert M3(scale=4).reduce(tokens).m == 12


def test_oryx_attends_inside_a_cell() -> None:
    tokens = tokens_on(grid_of(4, 4))
    got = OryxCompressor(variant="code").reduce(tokens)(tokens.x)[0, 0]
    cell = tokens.x[0, [0, 1, 4, 5]]
    share = (cell @ cell.mean(0) * 3**-0.5).softmax(0)
    assert torch.allclose(got, cell.mean(0) + share @ cell, atol=1e-6)
    half = OryxCompressor().reduce(tokens)(tokens.x)[0, 0]
    assert torch.allclose(2 * half, got, atol=1e-6)
    assert torch.allclose(OryxCompressor(stride=1, variant="code").reduce(tokens)(tokens.x), 2 * tokens.x)
