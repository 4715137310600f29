"""Masked image generation, with the features of settled tokens reused in the steps between.

Chang et al., "MaskGIT: Masked Generative Image Transformer", CVPR 2022, https://arxiv.org/abs/2202.04200: the decoder.
Liu et al., "Plug-and-Play Context Feature Reuse for Efficient Masked Generation" (ReCAP), 2025,
https://arxiv.org/abs/2505.19089, makes most of its steps cheap: after a full step, ``reuse`` light steps read only the
tokens that were masked in it, over the remembered keys and values of the others. What is remembered does not know of
the tokens settled since, so ``reuse`` above 0 is an approximation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..diffusion.predict import Dice, choose
from ..diffusion.reader import read_with
from ..errors import InputError


@dataclass(frozen=True)
class Painted:
    """ids (B, P + cells) int64; full and light steps; positions read for each row."""

    ids: Tensor
    full: int
    light: int
    positions: int


@torch.no_grad()
def masked(
    model: Any,
    ids: Tensor,
    *,
    cells: int,
    mask_id: int,
    steps: int = 12,
    reuse: int = 0,
    temperature: float = 1.0,
    shuffle: float = 4.5,
    seed: int = 0,
) -> Painted:
    """Fill ``cells`` masked tokens after each prompt in ``steps`` steps, more of them the later the step (cosine).

    Args:
        model: what :func:`foveate.diffusion.read_with` takes; with ``reuse`` one that remembers. Its config names
            vocab_size, unless temperature and shuffle are 0.
        ids: (B, P) int64 prompts of one length (a class token, or words). mask_id: the mask.
        reuse: light steps after each full one.
        temperature: of the draws, 0 for the most likely tokens. shuffle: how much luck decides which tokens stay; it
            goes down to 0 over the steps.
        seed: of the draws; every row has its own.

    Raises:
        InputError: a value out of range.
    """
    if cells < 1 or not 1 <= steps <= cells or reuse < 0 or temperature < 0 or shuffle < 0:
        raise InputError(
            f"cells is above 0, steps from 1 to cells, reuse, temperature and shuffle not below 0. Got {cells}, "
            f"{steps}, {reuse}, {temperature}, {shuffle}."
        )
    b, prompt = ids.shape
    x = torch.nn.functional.pad(ids, (0, cells), value=mask_id)
    reader, full, light, positions = read_with(model), 0, 0, 0
    dice = Dice.of(model, ids, seed) if temperature or shuffle else None
    going = torch.ones(b, dtype=torch.bool)
    open_ = x[:, prompt:] == mask_id  # masked at the last full step: what a light step reads
    for step in range(steps):
        if step % (reuse + 1) == 0:
            logits = reader.whole(x, prompt, prompt + cells, remember=reuse > 0)
            open_ = x[:, prompt:] == mask_id
            full, positions = full + 1, positions + x.shape[1]
        else:
            at = prompt + open_.nonzero()[:, 1].view(b, -1)  # rows settle equally many tokens at every step
            part = reader.part(x.gather(1, at), at)
            where = (at - prompt)[..., None].expand_as(part)
            logits = torch.zeros(b, cells, part.shape[-1], device=x.device, dtype=part.dtype).scatter(1, where, part)
            light, positions = light + 1, positions + at.shape[1]
        hidden = x[:, prompt:] == mask_id
        logits = logits.float()
        logits[..., mask_id] = -torch.inf
        uniforms = dice.roll(going, cells) if dice is not None else None
        tokens, p = choose(logits, False, temperature, uniforms)
        score = p.log()
        if dice is not None and shuffle:
            luck = dice.roll(going, cells)[..., 0]
            score = score - shuffle * (1 - (step + 1) / steps) * (-luck.log()).log()
        left = min(int(cells * math.cos(math.pi / 2 * (step + 1) / steps)), int(hidden[0].sum()) - 1)
        left = 0 if step + 1 == steps else max(0, left)
        ranked = score.masked_fill(~hidden, torch.inf).argsort(dim=-1, stable=True)
        again = torch.zeros_like(hidden).scatter(1, ranked[:, :left], True)
        x[:, prompt:] = torch.where(hidden & ~again, tokens, x[:, prompt:])
    return Painted(x, full, light, positions)
