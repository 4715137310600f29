"""dParallel's training: a model follows its own slow runs and is pushed to be certain early where it is right.

Chen et al., "dParallel: Learnable Parallel Decoding for dLLMs", 2025, arXiv 2509.26488.

A text that the model decoded slowly is masked as it would be on the way: blocks before a random one are there, in that
one a random share of the positions is masked, all later ones are masked. On the masked positions of that block the
cross-entropy to the text keeps the model on its own trajectory (consistency), and where its most likely token is the
text's, the entropy of its distribution, sharpened by a temperature, is lowered (certainty).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..errors import InputError
from .reader import read_with


class Loss(NamedTuple):
    """What is lowered, its two parts, and how many of the masked tokens were right."""

    total: Tensor
    consistency: Tensor
    certainty: Tensor
    right: float


def certainty_loss(
    logits: Tensor, text: Tensor, masked: Tensor, *, weight: float = 2.0, temperature: float = 0.5
) -> Loss:
    """logits (B, n, V), text (B, n) int64, masked (B, n) bool: the positions that count.

    weight: of the certainty. temperature: of the distribution whose entropy is lowered; below 1 the gradient falls on
    positions that are unsure among few tokens.
    """
    said, want = logits[masked].float(), text[masked]
    if not len(want):
        raise InputError("no position is masked, so there is nothing to learn")
    consistency = cross_entropy(said, want)
    right = said.argmax(-1) == want
    log_p = (said / temperature).log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    certainty = (entropy * right).sum() / right.sum().clamp(min=1)
    return Loss(consistency + weight * certainty, consistency, certainty, float(right.float().mean()))


def distil(
    model: Any,
    texts: Sequence[tuple[Tensor, int]],
    *,
    block: int,
    mask_id: int,
    steps: int,
    rate: float = 1e-4,
    weight: float = 2.0,
    shift: bool | None = None,
    seed: int = 0,
    tell: Callable[[int, Loss], None] | None = None,
) -> Any:
    """Train the model's own weights in place; returns the model.

    Args:
        texts: (ids (B, P + length) of :func:`foveate.diffusion.generate`, P) of slow runs; one is taken at a step.
        block: length of the blocks they were decoded in. steps: of AdamW with learning rate ``rate``.
        weight: of the certainty. seed: of the masks. tell: called with each step's number and loss.

    Raises:
        InputError: no texts, or no parameter that learns.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    if not texts or not weights:
        raise InputError(f"give texts and a model with weights that learn. Got {len(texts)} and {len(weights)}.")
    optimiser = torch.optim.AdamW(weights, rate)
    dice = torch.Generator().manual_seed(seed)
    for step in range(steps):
        ids, prompt = texts[int(torch.randint(len(texts), (1,), generator=dice))]
        hidden, counts = _on_the_way(ids, prompt, block, dice)
        with torch.enable_grad():
            logits = read_with(model, None, shift).whole(ids.masked_fill(hidden, mask_id), prompt, ids.shape[1])
            loss = certainty_loss(logits, ids[:, prompt:], counts[:, prompt:], weight=weight)
            optimiser.zero_grad()
            loss.total.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
        if tell is not None:
            tell(step, Loss(loss.total.detach(), loss.consistency.detach(), loss.certainty.detach(), loss.right))
    return model


def _on_the_way(ids: Tensor, prompt: int, block: int, dice: torch.Generator) -> tuple[Tensor, Tensor]:
    """Positions that are masked, and those of them that count, (B, L) bool each: of one block, drawn for all rows."""
    b, length = ids.shape
    blocks = -(-(length - prompt) // block)
    start = prompt + block * int(torch.randint(blocks, (1,), generator=dice))
    at = torch.arange(length)
    inside = (at >= start) & (at < start + block)
    share = 1 - torch.rand(b, 1, generator=dice)  # in (0, 1]
    counts = inside & (torch.rand(b, length, generator=dice) < share)
    first = inside.long().argmax()
    counts[:, first] |= ~counts.any(-1)  # a block with no mask teaches nothing
    return (counts | (at >= start + block)).to(ids.device), counts.to(ids.device)
