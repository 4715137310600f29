"""Declining a reduction that would cost more time than it saves."""

from __future__ import annotations

from typing import Any

from ..parts.budget import budget
from ..tokens import Tokens
from .cost import block_flops
from .model import Anatomy

#: Deciding is small operations: this many FLOPs could have run in the time one of them takes, measured on two cores.
STEP = 3e6
#: A plan pays only if it saves this many times what deciding costs.
MARGIN = 2.0


def too_little(anatomy: Anatomy, method: Any, tokens: Tokens, prompt: int) -> str | None:
    """Why ``method`` would not pay for these tokens (B, n, D) of a prompt of ``prompt`` tokens, or None if it would."""
    keep = getattr(method, "keep", None)
    if keep is None:
        return None
    n, d = tokens.n, tokens.x.shape[-1]
    m = budget(keep, n)
    saved = sum(
        block_flops(b, prompt, prompt) - block_flops(b, left, left) for b in anatomy.layers for left in [prompt - n + m]
    )
    quadratic = "n x n" in method.card.cost
    spent = (2.0 * n * n * d if quadratic else 4.0 * n * d) + STEP * (
        20 + (4 * m if "m steps" in method.card.cost else 0)
    )
    if saved >= MARGIN * spent:
        return None
    return (
        f"{method.name}: dropping {n - m} of {n} visual tokens would save {saved / 1e9:.2f} GFLOPs "
        f"but deciding costs about as much as {spent / 1e9:.2f}; the prompt is kept whole"
    )
