"""What a prompt costs the full model, for requests in which no method watched it being read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..sites import cost
from ..sites.model import Anatomy
from ..sites.rows import nbytes
from .task import Facts


def filled(facts: Facts, parts: Anatomy, cache: Any = None) -> Facts:
    """The same facts, with FLOPs and bytes of keys and values where nothing counted them.

    cache: after the prompt; None where it cannot be had, which counts every layer as one that sees everything.
    """
    if facts.flops_full or parts.decoder is None:
        return facts
    n, depth = facts.prompt_tokens, len(parts.layers)
    flops = cost.stack_flops(parts.layers, [float(n)] * depth, [0] * depth)
    if cache is not None:
        held = nbytes(cache)
    else:
        size = next(parts.layers[0].parameters()).element_size()
        held = n * depth * cost.kv_bytes_per_token(parts.decoder.config, size)
    return replace(facts, kv_bytes=held, kv_bytes_full=held, flops=flops, flops_full=flops)
