"""Methods that keep everything and remember what they were shown, and a look at what a module gave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveate.method import Card
from foveate.reduction import Reduction
from foveate.tokens import Tokens


@dataclass(init=False, eq=False)
class Spy:
    """A method of any stage that reduces nothing."""

    name = "spy"

    def __init__(self, stage: str, needs: Sequence[str], at: Sequence[int] = ()) -> None:
        self.stage, self.places = stage, tuple(at)
        self.card = Card(needs=tuple(needs))
        self.seen: list[Tokens] = []

    def __str__(self) -> str:
        return self.name

    def at(self, layers: int) -> tuple[int, ...]:
        return self.places

    def reduce(self, tokens: Tokens) -> Reduction:
        self.seen.append(tokens)
        return Reduction.identity(tokens.x.shape[0], tokens.n, tokens.x.device)


@contextmanager
def watch(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what a module returns."""
    out: list[Tensor] = []

    def hook(_: nn.Module, args: Any, made: Any) -> None:
        out.append((made[0] if isinstance(made, tuple) else made).detach())

    handle = module.register_forward_hook(hook)
    with torch.no_grad():
        yield out
    handle.remove()
