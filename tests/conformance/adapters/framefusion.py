"""FrameFusion: the steps of one prompt, call by call; between them a layer that rolls the states.

The code merges in one call and prunes in the next, with that call's attention; here the state of these calls is kept,
and every decision is one of the method's parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Reduction, Tokens
from foveate.layers.framefusion import FrameFusion, heads, surplus
from foveate.parts.film import Film
from foveate.parts.select import top

DEPTH = 28


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    method = FrameFusion(
        cost=float(params["cost"]),
        alike=float(params["similarity_lower_bound"]),
        least=float(params["ratio_lower_bound"]),
    )
    x, types, left = given["hidden"], given["patch_type"], torch.arange(len(given["hidden"]))
    held, sparsity, merged, pruned = [], [], False, False
    out: dict[str, Tensor] = {}
    for i in range(int(params["layers"])):
        if i:
            x = x + 0.3 * x.roll(1, 0)
        where = (types >= 0).nonzero()[:, 0]
        n = len(where)
        ratio = surplus(held, method.cost, DEPTH)
        if merged and not pruned:
            paid = given["attention"][:, left][:, :, left]
            paid = (paid / paid.sum(-1, keepdim=True)).mean((0, 1))
            part = Reduction.take(top(paid[None, where], round(n * (1 - ratio))), n)
            pruned = True
        elif not merged:
            grid = torch.stack([_turn(types[where]), types[where] * 0, types[where]], -1)[None]
            film = Film(tokens := Tokens(x[None, where], grid=grid))
            same = method.sameness(tokens, film)
            share = int((same >= method.alike).sum()) / n
            part = Reduction.merge(heads(method.folded(same, int(ratio * n) if share >= ratio else n), film))
            if share >= ratio:
                merged = pruned = True
            else:
                sparsity.append(share)
                held.append((held[-1] if held else 1.0) * (1 - share))
                merged = share < method.least
        else:
            part = Reduction.identity(1, n)
        whole = part.place(where, len(x))
        x, kept = whole(x[None])[0], whole.keep[0]
        types, left = types[kept], left[kept]
        out |= {f"positions_{i}": given["positions"][left], f"hidden_{i}": x}
        out[f"state_{i}"] = torch.tensor([merged, pruned])
    return {**out, "sparsity": torch.tensor(sparsity or [0.0])}


def _turn(types: Tensor) -> Tensor:
    """How many tokens of the same type come before each: (n,)."""
    same = types[:, None] == types
    return same.tril(-1).sum(-1)
