"""Declining a reduction that would cost more time than it saves. Costs are FLOPs, so equal calls are decided alike.

Cache methods are not weighed: they save memory and the reads of every later step, whatever they cost once.
"""

from __future__ import annotations

from typing import Any

from ..parts.budget import budget
from ..tokens import Tokens
from .cost import block_flops, linear_flops
from .model import Anatomy, attention_of

#: Deciding is small operations: this many FLOPs could have run in the time one of them takes, measured on two cores.
STEP = 3e6
#: A plan pays only if it saves this many times what deciding costs.
MARGIN = 2.0


def inputs(anatomy: Anatomy, method: Any, tokens: Tokens, prompt: int) -> str | None:
    """Why ``method`` would not pay for these tokens (B, n, D) of a prompt of ``prompt`` tokens, or None if it would."""
    keep = getattr(method, "keep", None)
    if keep is None:
        return None
    n, d = tokens.n, tokens.x.shape[-1]
    m = budget(keep, n)
    saved = sum(block_flops(b, prompt, prompt) - block_flops(b, prompt - n + m, prompt - n + m) for b in anatomy.layers)
    steps = 20 + (4 * m if "m steps" in method.card.cost else 0)
    spent = (2.0 * n * n * d if "n x n" in method.card.cost else 4.0 * n * d) + STEP * steps
    return _verdict(method, saved, spent, f"dropping {n - m} of {n} visual tokens")


def layers(anatomy: Anatomy, method: Any, layer: int, visual: int, full: int, prompt: int) -> str | None:
    """As :func:`inputs`, for a method before ``layer`` of the LLM that sees ``visual`` of ``prompt`` tokens left."""
    keeps = getattr(method, "keeps", None)
    keep = getattr(method, "keep", None) if keeps is None else keeps[method.at(len(anatomy.layers)).index(layer)]
    if keep is None:
        return None
    m = budget(keep, visual, full if keeps is not None else None)
    left = prompt - visual + m
    saved = sum(block_flops(b, prompt, prompt) - block_flops(b, left, left) for b in anatomy.layers[layer:])
    spent = 20 * STEP + 4.0 * prompt * anatomy.decoder.config.hidden_size
    if "next_attention" in method.card.needs:  # the layer's projections run once more
        spent += prompt * linear_flops(attention_of(anatomy.layers[layer]))
    return _verdict(method, saved, spent, f"dropping {visual - m} of {visual} visual tokens before layer {layer}")


def tower(anatomy: Anatomy, methods: list[Any], n: int, spans: int, rows: int, width: int) -> str | None:
    """As :func:`inputs`, for all encoder methods on ``rows`` sequences of n tokens (or groups), ``spans`` frames each.

    ``width``: size of the keys that are compared.
    """
    if not all(hasattr(m, "drops") for m in methods):
        return None
    depth, unit, start = len(anatomy.blocks), anatomy.unit, n
    saved = spent = 0.0
    for i, block in enumerate(anatomy.blocks):
        saved += block_flops(block, start * unit, start * unit / spans) - block_flops(block, n * unit, n * unit / spans)
        for m in methods:
            if i in m.at(depth):
                per = n // spans
                spent += spans * 2.0 * per * per * width + 30 * STEP / rows
                n -= spans * m.drops(per, anatomy.prefix, i, depth)
    if anatomy.family.drop:
        saved += (start - n) * sum(linear_flops(b) for b in anatomy.layers)
    return _verdict(methods[0], saved, spent, f"merging {start - n} of {start} tokens in the encoder")


def _verdict(method: Any, saved: float, spent: float, what: str) -> str | None:
    if saved >= MARGIN * spent:
        return None
    return (
        f"{method.name}: {what} would save {saved / 1e9:.3f} GFLOPs, but deciding costs about as much as "
        f"{spent / 1e9:.3f}; they are kept"
    )
