"""The signal ``times``: seconds where the model is told them, frames counted where it is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foveate
from foveate.method import method
from foveate.reduction import Reduction
from foveate.tokens import Tokens
from site_kit import generate, make

SEEN: list[Tensor] = []


@method(title="Looks", url="https://arxiv.org/abs/2502.11494", needs=("times",), cost="none")
class Looks:
    """Keeps everything and remembers the times it was given."""

    def reduce(self, tokens: Tokens) -> Reduction:
        """All tokens."""
        SEEN.append(tokens.need("times"))
        return Reduction.identity(tokens.x.shape[0], tokens.n)


def seen(family: str, **more: Any) -> Tensor:
    z = make(family, video=True, batch=2)
    z.inputs.update(more)
    SEEN.clear()
    generate(z, [Looks()])
    return torch.cat(SEEN)


def test_seconds_come_from_the_call() -> None:
    times = seen("qwen2_5_vl", second_per_grid_ts=torch.tensor([0.5, 2.0]))
    assert [row.unique().tolist() for row in times] == [[0, 0.5, 1, 1.5], [0, 2, 4, 6]]


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "llava_onevision"])
def test_frames_are_counted_otherwise(family: str) -> None:
    for row in seen(family):
        assert row.unique().tolist() == list(range(int(row.max()) + 1))


def test_frames_without_a_video_are_one() -> None:
    z = make("qwen2_5_vl")
    SEEN.clear()
    with foveate.apply(z.model, [Looks()]):
        z.model(**z.inputs)
    assert all(not s.any() for s in SEEN)
