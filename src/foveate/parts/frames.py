"""Frames as rows of their own, and their maps side by side again."""

from __future__ import annotations

import torch
from torch import Tensor

from ..reduction import Reduction


def even_frames(view: Tensor) -> int:
    """How many equally long runs the views of the tokens form, the same in all rows; 1 if they do not.

    view (B, n) int64: the frame of each token.
    """
    b, n = view.shape
    new = view[:, 1:] != view[:, :-1]
    count = int(new[0].sum()) + 1 if b and n else 1
    if count < 2 or n % count:
        return 1
    edges = torch.arange(1, n, device=view.device) % (n // count) == 0
    return count if bool((new == edges).all()) else 1


def joined(r: Reduction, b: int) -> Reduction:
    """A map of b * f rows (b, f frames each) without padding -> the map of b rows, frames one after another."""
    f = r.b // max(1, b)
    if f == 1:
        return r
    at = torch.arange(f, device=r.keep.device)[:, None]
    keep = (r.keep.view(b, f, r.m) + at * r.n).flatten(1)
    assign = r.assign.view(b, f, r.n)
    assign = torch.where(assign >= 0, assign + at * r.m, -1).flatten(1)
    return Reduction(keep, assign, r.weight.reshape(b, -1), None, r.selects)
