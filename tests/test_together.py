"""Several images of one scene under one plan: methods see all views at once and share one budget."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import foveate
from foveate.method import method
from foveate.reduction import Reduction
from foveate.sites.geometry import apart
from foveate.tokens import Tokens
from site_kit import make

SEEN: list[Tensor] = []


@method(title="Views", url="https://arxiv.org/abs/2502.11494", needs=("grid",), cost="none")
class Views:
    """Keeps everything and remembers the grid."""

    def reduce(self, tokens: Tokens) -> Reduction:
        """All tokens."""
        SEEN.append(tokens.need("grid"))
        return Reduction.identity(tokens.x.shape[0], tokens.n)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl"])
def test_every_token_has_a_place_of_its_own(family: str) -> None:
    z = make(family, images=2, batch=2)
    SEEN.clear()
    with foveate.apply(z.model, [Views()], together=True), torch.inference_mode():
        z.model(**z.inputs)
    seen = torch.cat(SEEN)
    assert len(seen) == 2
    for row in seen:
        cells = [tuple(c) for c in row.tolist() if c[2] >= 0]
        assert len(set(cells)) == len(cells)
        assert row[0, 0] == 0
        assert bool((row[1:, 0] >= row[:-1, 0]).all())


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_the_budget_is_shared(family: str) -> None:
    z = make(family, images=2)
    with foveate.apply(z.model, "divprune(keep=10)", together=True) as report, torch.inference_mode():
        z.model(**z.inputs)
    (row,) = report.rows
    assert row.tokens_out == 10 * len(z.inputs["input_ids"])
    with foveate.apply(z.model, "divprune(keep=10)") as report, torch.inference_mode():
        z.model(**z.inputs)
    assert report.rows[0].tokens_out == 20 * len(z.inputs["input_ids"])


def test_cells_of_two_images() -> None:
    grid = torch.tensor([[[0, 0, 0], [1, 0, 0], [0, 0, 0], [1, 2, 0]]])
    run = torch.tensor([[1, 1, 2, 2]])
    assert apart(grid, run).tolist() == [[[0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 2, 0]]]
