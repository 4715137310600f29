"""Images cut into crops: regions of the thumbnail, budgets of the crops, line ends, and images without crops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from foveate import Tokens
from foveate.inputs.globalcom2 import GlobalCom2
from foveate.inputs.hired import HiRED
from foveate.parts.regions import best_in_groups, blocks, crop_grid, runs, upsampled
from foveate.parts.select import top

SIDE, HIGH, WIDE = 6, 2, 3


def image(side: int = SIDE, high: int = HIGH, wide: int = WIDE) -> tuple[Tensor, Tensor]:
    """crop (1, n) and grid (1, n, 3) of a thumbnail and high x wide crops stitched row by row, with line ends."""
    crop, grid = [], []
    for r in range(side):
        for c in range(side):
            crop.append(0)
            grid.append((0, r, c))
    for r in range(side * high):
        for c in range(side * wide):
            crop.append(1 + r // side * wide + c // side)
            grid.append((1, r, c))
        crop.append(-1)
        grid.append((1, r, -1))
    return torch.tensor(crop)[None], torch.tensor(grid)[None]


def test_blocks_and_runs() -> None:
    crop, grid = image()
    assert [int(v) for v in crop_grid(grid, crop)] == [HIGH, WIDE]
    block = blocks(grid, crop)[0]
    assert block[:36].view(6, 6).tolist() == [[1, 1, 2, 2, 3, 3]] * 3 + [[4, 4, 5, 5, 6, 6]] * 3
    assert (block[36:] == 0).all()
    assert runs(crop)[0, :36].view(6, 6).tolist() == [[c] * 6 for c in range(1, 7)]


def test_a_remainder_goes_to_the_last_block() -> None:
    crop, grid = image(side=5, high=1, wide=2)
    assert blocks(grid, crop)[0, :5].tolist() == [1, 1, 2, 2, 2]


def test_upsampling_is_bilinear() -> None:
    crop, grid = image()
    score = torch.randn(crop.shape, generator=torch.Generator().manual_seed(0))
    size = (SIDE * HIGH, SIDE * WIDE)
    want = interpolate(score[:, :36].view(1, 1, 6, 6), size=size, mode="bilinear", align_corners=False)
    got = upsampled(score, grid, crop)
    assert torch.allclose(got[crop > 0], want.flatten(), atol=1e-6)
    assert (got[crop <= 0] == 0).all()


def test_best_in_groups() -> None:
    score, group = torch.tensor([[1.0, 5, 3, 3, 4, 9]]), torch.tensor([[0, 0, 1, 1, 1, 2]])
    kept = best_in_groups(score, group, torch.tensor([[1, 2, 0]]))
    assert kept.tolist() == [[False, True, True, False, True, False]]


@pytest.mark.parametrize("keep", [0.2, 0.5, 100])
def test_line_ends_stay_within_the_budget(keep: float | int) -> None:
    crop, grid = image()
    n, g = crop.shape[1], torch.Generator().manual_seed(1)
    tokens = Tokens(
        torch.zeros(1, n, 4),
        crop=crop,
        grid=grid,
        cls_layers=torch.rand(1, 4, n, generator=g),
        cls_logits=torch.randn(1, n, generator=g),
    )
    for method in (HiRED(keep=keep), GlobalCom2(keep=keep)):
        out = method.reduce(tokens)
        assert out.m == (keep if isinstance(keep, int) else round(keep * n))
        assert out.kept[crop < 0].all()


def test_a_crop_that_the_thumbnail_looks_at_keeps_more() -> None:
    crop, grid = image()
    n = crop.shape[1]
    bright = (blocks(grid, crop) == 5).float()
    noise = torch.rand(1, n, generator=torch.Generator().manual_seed(2))
    tokens = Tokens(
        torch.zeros(1, n, 4),
        crop=crop,
        grid=grid,
        cls_layers=torch.stack([bright + 0.1 * noise, noise], 1),
        cls_logits=3 * bright + noise,
    )
    for method in (HiRED(keep=0.3), GlobalCom2(keep=0.3)):
        kept = method.reduce(tokens).kept
        counts = [int(kept[crop == c].sum()) for c in range(1, 7)]
        assert max(counts) == counts[4] > sorted(counts)[-2]


def test_an_image_without_crops_is_one_ranking() -> None:
    score = torch.randn(2, 30, generator=torch.Generator().manual_seed(3))
    at = torch.arange(30)
    grid = torch.stack([at * 0, at // 6, at % 6], -1).expand(2, -1, -1)
    tokens = Tokens(
        torch.zeros(2, 30, 4),
        crop=torch.zeros(2, 30, dtype=torch.long),
        grid=grid,
        cls_layers=score[:, None].expand(-1, 3, -1),
        cls_logits=score,
    )
    for method in (HiRED(keep=0.3), GlobalCom2(keep=0.3), GlobalCom2(keep=0.3, variant="code")):
        assert torch.equal(method.reduce(tokens).keep, top(score, 9))
