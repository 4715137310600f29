"""FastVGGT: queries, keys and values of one attention over all views; five special tokens open each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Reduction, Tokens
from foveate.encoder.fastvggt import FastVGGT

SPECIAL = 5


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    high, wide = int(params["height"]), int(params["width"])
    x = given["tokens"][None]
    views = x.shape[1] // (SPECIAL + high * wide)
    method = FastVGGT(
        share=float(params["ratio"]),
        cell=(int(params["sy"]), int(params["sx"])),
        protect=0.1 if params.get("protect") else 0.0,
    )
    tokens = Tokens(x, grid=_grid(views, high, wide))
    target = method.targets(tokens, given["cell"])
    out = Reduction.merge(method.into(tokens, target))
    source, _ = method.order(tokens, target)
    spared = method.protected(tokens.n)
    gone = torch.isin(source, out.keep[0])
    left = source[gone & ~torch.isin(source, spared)]
    own = source[gone & torch.isin(source, spared)]
    out = out.listed(torch.cat([left, target[0].nonzero()[:, 0], own])[None])
    head = out.m - len(own)
    merged = {name: torch.cat([out(given[name][None])[0, :head], given[name][spared]]) for name in ("q", "k", "v")}
    restored = out.expand(out(given["q"][None]))[0]
    restored[spared] = given["q"][spared]
    return {**merged, "restored": restored}


def _grid(views: int, high: int, wide: int) -> Tensor:
    """View, row and column of each token: (1, n, 3)."""
    cell = torch.cartesian_prod(torch.arange(high), torch.arange(wide))
    one = torch.cat([torch.full((SPECIAL, 2), -1), cell])
    view = torch.arange(views).repeat_interleave(len(one))
    return torch.cat([view[:, None], one.repeat(views, 1)], 1)[None]
