"""From logits to the tokens that would be filled in and how sure the model is of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

#: (number of the forward, first position, one past the last) -> uniforms in (0, 1), (B, n, V), for Gumbel noise.
Noise = Callable[[int, int, int], Tensor]


def choose(
    logits: Tensor, precise: bool, temperature: float = 0.0, noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """logits (B, n, V) -> tokens (B, n) int64 and the probability of each without noise, float64 if precise.

    With a temperature a token is drawn by Gumbel noise from uniforms ``noise`` (B, n, V): the argmax of
    logits - temperature * log(-log u), which at temperature 1 is a draw from the softmax.
    """
    logits = logits.float()
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    if temperature and noise is not None:
        tokens = (logits.to(wide) - temperature * (-noise.to(wide).log()).log()).argmax(-1)
    else:
        tokens = logits.argmax(-1)
    p = logits.to(wide if precise else torch.float32).softmax(-1)
    return tokens, p.gather(-1, tokens[..., None])[..., 0]


class Dice:
    """Uniforms with a generator of its own for each row, so that no row's draws depend on the others.

    A row draws at every forward until it is complete: ``going`` says which still do.
    """

    def __init__(self, seed: int, rows: int, vocabulary: int, device: torch.device) -> None:
        self.vocabulary, self.device = vocabulary, device
        self.each = [torch.Generator().manual_seed((seed * 1_000_003 + row) % 2**63) for row in range(rows)]

    @classmethod
    def of(cls, model: Any, ids: Tensor, seed: int) -> Dice:
        """Dice for prompts ids (B, P). Raises InputError if the model's config does not tell its vocabulary."""
        size = getattr(getattr(model, "config", None), "vocab_size", None)
        if size is None:
            raise InputError("the model's config names no vocab_size, so no token can be drawn; choose temperature=0")
        return cls(seed, len(ids), int(size), ids.device)

    def roll(self, going: Tensor, n: int) -> Tensor:
        """going (B,) bool -> (B, n, V) float32 in (0, 1)."""
        tiny = torch.finfo(torch.float32).tiny
        rows = [
            torch.rand(n, self.vocabulary, generator=g).clamp(min=tiny) if on else torch.full((n, self.vocabulary), 0.5)
            for g, on in zip(self.each, going.tolist())
        ]
        return torch.stack(rows).to(self.device)

    def only(self, row: int) -> Dice:
        """The dice of one row."""
        one = object.__new__(Dice)
        one.vocabulary, one.device, one.each = self.vocabulary, self.device, [self.each[row]]
        return one
