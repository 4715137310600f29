"""GlobalCom2: a thumbnail and crops as rows of side x side tokens, in which the padding of the image is left out.

The code writes the kept tokens of a padded crop to wrong places of its grid, which shifts the line ends between them;
this listing is made here, from the tokens that foveate keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate import Tokens
from foveate.inputs.globalcom2 import GlobalCom2


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    side, high, wide = (int(params[k]) for k in ("side", "num_patch_height", "num_patch_width"))
    row, column = (v.flatten() for v in torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
    count, n = given["crop_score"].shape
    at = torch.arange(count)[:, None]
    rows, columns = at // wide * side + row, at % wide * side + column  # (crops, N) on the stitched grid
    shown = _shown(params, rows, columns, side * high, side * wide)
    keep = [torch.ones(n, dtype=torch.bool), shown.flatten()]
    crop = torch.cat([torch.zeros(n, dtype=torch.int64), (at + 1).expand(-1, n).flatten()])
    thumb = torch.stack([0 * row, row, column], -1)
    grid = torch.cat([thumb, torch.stack([torch.ones_like(rows), rows, columns], -1).flatten(0, 1)])
    there = torch.cat(keep)
    x = torch.cat([given["thumbnail"], given["crops"].flatten(0, 1)])[there][None]
    logits = torch.cat([given["thumb_score"], given["crop_score"].flatten()])[there][None]
    tokens = Tokens(x, cls_logits=logits, crop=crop[there][None], grid=grid[there][None])
    rate = float(params["retention_ratio"])
    method = GlobalCom2(keep=min(1.0, rate), temperature=float(params["temperature"]), variant="code")
    kept = method.reduce(tokens).kept[0]
    order = method.score(tokens)[0, :n].argsort(stable=True, dim=-1, descending=True)
    order = order[kept[:n][order]]
    return {
        "thumb_tokens": x[0, order],
        "thumb_indices": order,
        "scales": (rate * method.scales(tokens)[0, 1:]).clamp(max=1),
        "crop_tokens": _listed(x[0], kept, tokens.crop[0], side, wide, high, given["newline"]),
    }


def _shown(params: Mapping[str, Any], rows: Tensor, columns: Tensor, high: int, wide: int) -> Tensor:
    """Where the stitched grid shows the image and not the padding that its shape made necessary."""
    w, h = params["image_size_wh"]
    if w / h > wide / high:
        edge = (high - int(h * (wide / w))) // 2
        return (rows >= edge) & (rows < high - edge)
    edge = (wide - int(w * (high / h))) // 2
    return (columns >= edge) & (columns < wide - edge)


def _listed(x: Tensor, kept: Tensor, crop: Tensor, side: int, wide: int, high: int, newline: Tensor) -> Tensor:
    """Row by row over all crops, a newline after each row; a token stands where its number in its crop puts it."""
    place = torch.full((len(x),), -1)
    for c in range(1, wide * high + 1):
        inside = (crop == c).nonzero()[:, 0]
        i, c0 = torch.arange(len(inside)), c - 1
        place[inside] = (c0 // wide * side + i // side) * wide * side + c0 % wide * side + i % side
    found = (kept & (crop > 0)).nonzero()[:, 0]
    found = found[place[found].argsort()]
    line = place[found] // (wide * side)
    out = [torch.cat([x[found[line == r]], newline[None]]) for r in range(side * high)]
    return torch.cat(out)
