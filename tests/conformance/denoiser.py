"""The masked model of the vectors: small tables that stand in for a diffusion language model, with its two caches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.diffusion import Generated, generate


class TwoLayers:
    """h_i from a token, its neighbours and the mean of all; logits from h_i, its neighbours and their mean.

    It remembers the token and the h of every position; positions that are read again replace theirs.
    """

    def __init__(self, given: Mapping[str, Tensor]) -> None:
        self.E, self.A, self.U, self.P = (given[k] for k in ("E", "A", "U", "P"))
        self.left, self.right, self.mean = (given[k] for k in ("B1", "B2", "B3"))
        self.tokens = self.h = torch.empty(0)

    def whole(self, ids: Tensor, start: int, stop: int, *, remember: bool = False) -> Tensor:
        self.tokens, self.h = ids, self._first(ids)
        return self._second()[:, start:stop]

    def part(self, ids: Tensor, at: Tensor) -> Tensor:
        self.tokens = self.tokens.scatter(1, at, ids)
        index = at[..., None].expand(-1, -1, self.h.shape[-1])
        self.h = self.h.scatter(1, index, self._first(self.tokens).gather(1, index))
        logits = self._second()
        return logits.gather(1, at[..., None].expand(-1, -1, logits.shape[-1]))

    def _first(self, ids: Tensor) -> Tensor:
        e = self.E[ids]
        return e + torch.tanh((_moved(e, 1) + _moved(e, -1) + 3 * e.mean(1, keepdim=True)) @ self.A)

    def _second(self) -> Tensor:
        h = self.h
        mixed = h + _moved(h, 1) @ self.left + _moved(h, -1) @ self.right + h.mean(1, keepdim=True) @ self.mean
        return mixed @ self.U + self.P[: h.shape[1]]


def _moved(x: Tensor, by: int) -> Tensor:
    """The left (by=1) or right (by=-1) neighbour of every position, zeros outside. x (B, n, D)."""
    out = torch.zeros_like(x)
    if by > 0:
        out[:, 1:] = x[:, :-1]
    else:
        out[:, :-1] = x[:, 1:]
    return out


def decode(params: Mapping[str, Any], given: Mapping[str, Tensor], schedule: Any, **more: Any) -> Generated:
    """A run of the library on the case's model."""
    block = params.get("block_length", params.get("default_block_length"))
    options = {"temperature": params.get("temperature", 0.0), "mask_id": params["mask_id"], **more}
    assert block is not None
    return generate(
        TwoLayers(given), given["prompt"], schedule=schedule, length=params["gen_length"], block=block, **options
    )


def counted(out: Generated) -> dict[str, Tensor]:
    """ids, how many positions each forward filled, and how many forwards there were."""
    filled = out.filled[out.filled >= 0]
    n = out.report.forwards
    return {
        "sequence": out.ids,
        "filled_per_forward": torch.bincount(filled, minlength=n),
        "n_forward": torch.tensor(n),
    }


def cache_of(function: str) -> str | None:
    """Which cache a function of Fast-dLLM's or AdaBlock's code uses."""
    return "dual" if "dual" in function else "prefix" if "prefix" in function else None
