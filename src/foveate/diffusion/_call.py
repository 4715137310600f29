"""What :func:`foveate.diffusion.generate` was asked for: its arguments, checked, and the fixed plan they give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ._schedule import Schedule
from .registry import schedule_of

CACHES = (None, "prefix", "dual")
STOPS = ("none", "block", "text")


@dataclass(frozen=True)
class Ask:
    """See :func:`foveate.diffusion.generate`."""

    schedule: Schedule
    length: int
    block: int
    steps: int
    cache: str | None
    temperature: float
    guidance: float
    mask_id: int
    eos_id: int | None
    stop: str


def checked(
    model: Any,
    ids: Tensor,
    schedule: Any,
    length: int,
    block: int,
    steps: int | None,
    cache: str | None,
    temperature: float,
    guidance: float,
    stop: str,
    mask_id: int | None,
    eos_id: int | None,
) -> Ask:
    """The arguments of a call. Raises InputError for a value out of range, PlanError for an unknown schedule."""
    config = getattr(model, "config", None)
    if mask_id is None:
        mask_id = getattr(config, "mask_token_id", None)
        if mask_id is None:
            raise InputError("the model's config names no mask_token_id; say which token is the mask: mask_id=...")
    if eos_id is None:
        eos_id = getattr(config, "eos_token_id", None)
        eos_id = eos_id[0] if isinstance(eos_id, list | tuple) else eos_id
    if ids.ndim != 2 or not ids.shape[1] or ids.dtype != torch.int64:
        raise InputError(f"'ids' must be (rows, tokens) int64, with a prompt. Got {tuple(ids.shape)} {ids.dtype}.")
    if bool((ids == mask_id).any()):
        raise InputError(f"the prompt holds the mask token {mask_id}; only the text to be generated is masked")
    for name, value in (("length", length), ("block", block), ("steps", length if steps is None else steps)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"'{name}' must be a positive int. Got {value!r}.")
    if temperature < 0 or guidance < 0:
        raise InputError(f"'temperature' and 'guidance' must not be below 0. Got {temperature} and {guidance}.")
    if cache not in CACHES or stop not in STOPS:
        raise InputError(f"'cache' is one of {CACHES} and 'stop' one of {STOPS}. Got {cache!r} and {stop!r}.")
    if stop != "none" and eos_id is None:
        raise InputError(f"stop={stop!r} needs the id of the end token: eos_id=...")
    found = schedule_of(schedule)
    return Ask(
        found, length, block, length if steps is None else steps, cache, temperature, guidance, mask_id, eos_id, stop
    )


def plan_of(masks: Tensor, ask: Ask, size: int) -> Callable[[int], Tensor]:
    """The fixed plan of a block: masks (B,) split evenly over its share of the steps, the first take one more."""
    share = max(1, ask.steps * size // ask.length)

    def quota(step: int) -> Tensor:
        if step >= share:
            return torch.ones_like(masks)
        return masks // share + (step < masks % share).long()

    return quota
