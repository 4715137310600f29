"""Declining a reduction that would cost more time than it saves.

Nothing is timed while a model runs: costs come from a table (:mod:`foveate.sites.costs`), measured on the machine once
or else plain FLOPs, so equal calls are decided alike. Cache methods are not weighed: they save memory and the reads of
every later step, whatever they cost once.
"""

from __future__ import annotations

from typing import Any

from ..parts.budget import budget
from ..tokens import Tokens
from .cost import linear_flops
from .costs import COUNTED, Costs
from .model import Anatomy, attention_of

#: A plan pays only if it saves this many times what deciding costs.
MARGIN = 2.0


def inputs(anatomy: Anatomy, method: Any, tokens: Tokens, prompt: int, costs: Costs = COUNTED) -> str | None:
    """Why ``method`` would not pay for these tokens (B, n, D) of a prompt of ``prompt`` tokens, or None if it would."""
    keep = getattr(method, "keep", None)
    if keep is None:
        return None
    n, d = tokens.n, tokens.x.shape[-1]
    m = budget(keep, n)
    left = prompt - n + m
    saved = sum(costs.block(b, prompt, prompt) - costs.block(b, left, left) for b in anatomy.layers)
    spent = costs.work(2.0 * n * n * d if "n x n" in method.card.cost else 4.0 * n * d, n) + costs.step * steps(
        method, m
    )
    return _verdict(costs, method, saved, spent, f"dropping {n - m} of {n} visual tokens")


def steps(method: Any, m: int) -> int:
    """Small operations that choosing ``m`` tokens takes, by the method's card."""
    return 20 + (4 * m if "m steps" in method.card.cost else 0)


def layers(
    anatomy: Anatomy, method: Any, layer: int, visual: int, full: int, prompt: int, costs: Costs = COUNTED
) -> str | None:
    """As :func:`inputs`, for a method before ``layer`` of the LLM that sees ``visual`` of ``prompt`` tokens left."""
    keeps = getattr(method, "keeps", None)
    keep = getattr(method, "keep", None) if keeps is None else keeps[method.at(len(anatomy.layers)).index(layer)]
    if keep is None:
        return None
    m = budget(keep, visual, full if keeps is not None else None)
    left = prompt - visual + m
    saved = sum(costs.block(b, prompt, prompt) - costs.block(b, left, left) for b in anatomy.layers[layer:])
    spent = 20 * costs.step + costs.work(4.0 * prompt * anatomy.decoder.config.hidden_size, prompt)
    if "next_attention" in method.card.needs:  # the layer's projections run once more
        spent += costs.work(prompt * linear_flops(attention_of(anatomy.layers[layer])), prompt)
    return _verdict(
        costs, method, saved, spent, f"dropping {visual - m} of {visual} visual tokens before layer {layer}"
    )


def tower(
    anatomy: Anatomy, methods: list[Any], n: int, spans: int, rows: int, width: int, costs: Costs = COUNTED
) -> str | None:
    """As :func:`inputs`, for all encoder methods on ``rows`` sequences of n tokens (or groups), ``spans`` frames each.

    ``width``: size of the keys that are compared.
    """
    if not all(hasattr(m, "drops") for m in methods):
        return None
    depth, unit, start = len(anatomy.blocks), anatomy.unit, n
    saved = spent = 0.0
    for i, block in enumerate(anatomy.blocks):
        whole = costs.block(block, start * unit, start * unit / spans)
        saved += whole - costs.block(block, n * unit, n * unit / spans)
        for m in methods:
            if i in m.at(depth):
                per = n // spans
                spent += costs.work(spans * 2.0 * per * per * width, per) + 30 * costs.step / rows
                n -= spans * m.drops(per, anatomy.prefix, i, depth)
    if anatomy.family.drop:
        saved += costs.work((start - n) * sum(linear_flops(b) for b in anatomy.layers), start)
    return _verdict(costs, methods[0], saved, spent, f"merging {start - n} of {start} tokens in the encoder")


def _verdict(costs: Costs, method: Any, saved: float, spent: float, what: str) -> str | None:
    if saved >= MARGIN * spent:
        return None
    told = (
        f"{method.name}: {what} would save {costs.said(saved)}, but deciding costs about as much as {costs.said(spent)}"
    )
    return f"{told}; they are kept{f' ({costs.requests} requests together)' if costs.requests > 1 else ''}"
