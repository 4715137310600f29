"""How far a module moves a token: in length, and in direction against all others of its sequence."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity


def transition(given: Tensor, made: Tensor, valid: Tensor | None = None) -> Tensor:
    """|made| / |given| times the softmax over the sequence of 1 - cos(given, made). Both (B, L, D) -> (B, L) float32.

    given and made are what a module took and what it returned, before the residual is added. valid (B, L) bool: False
    at padding, which takes no part in the softmax.
    """
    given, made = given.float(), made.float()
    turned = 1 - cosine_similarity(given, made, dim=-1)
    if valid is not None:
        turned = turned.masked_fill(~valid, -torch.inf)
    moved: Tensor = made.norm(dim=-1) / given.norm(dim=-1).clamp(min=1e-12) * turned.softmax(-1)
    return moved
