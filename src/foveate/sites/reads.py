"""Reading the vision encoder while it runs: rows of attention, keys, and the pixels under each patch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..parts.score import attention_rows, received
from ..report import Report
from .tap import Seen, Watch

#: Signals of the block that feeds the projector, and those of every block up to it.
ONE_BLOCK = ("cls_attention", "cls_logits", "wide_attention", "received_attention", "metric", "keys")
LAYERED = ("cls_layers", "received_layers")
#: Those that need a class token.
CLASS = ("cls_attention", "cls_logits", "wide_attention", "cls_layers")


class Reads(Watch):
    """Watches the attention of one block and keeps what methods need, each as (images, C, N): C channels a patch.

    A packed tower runs its attention once for each segment; these are put together along N.
    """

    def __init__(self, want: frozenset[str], prefix: int, report: Report) -> None:
        self.want, self.prefix, self.report = want, prefix, report
        self.parts: dict[str, list[Tensor]] = {}

    def after(self, seen: Seen) -> None:
        """Called once for each image batch, or once for each segment of a packed tower."""
        row = self.report.row("encoder", "signals: " + ", ".join(sorted(self.want)))
        with self.report.clock(row, seen.q.device):
            for name in self.want:
                self.parts.setdefault(name, []).append(self._read(name, seen))

    def _read(self, name: str, seen: Seen) -> Tensor:
        p, heads = self.prefix, seen.q.shape[1]
        if name == "metric":
            return seen.k.mean(1)[:, p:].mT.float()
        if name == "keys":
            return seen.k.transpose(1, 2).flatten(2)[:, p:].mT.float()
        if name in ("received_attention", "received_layers"):
            return received(seen.q, seen.k, seen.scaling, seen.mask)[:, None, p:]
        if name in ("cls_attention", "cls_layers"):
            mask = None if seen.mask is None else seen.mask[:, :, :1]
            row = attention_rows(seen.q[:, :, :1], seen.k, seen.scaling, mask)[:, :, 0, p:]
            return row if name == "cls_attention" else row.mean(1, keepdim=True)
        logits: Tensor = (seen.q[:, :, :1].float() @ seen.k.float().mT)[:, :, 0] * seen.scaling  # (images, H, N)
        if name == "cls_logits":
            return logits.mean(1, keepdim=True)[..., p:]
        wide: Tensor = logits.sum(1, keepdim=True) * heads**-0.5
        return wide.softmax(-1)[..., p:]

    def take(self, packed: bool) -> dict[str, Tensor]:
        """name -> (images, C, N), or (1, C, all patches) of a packed tower; forgets them."""
        out = {k: torch.cat(v, dim=-1 if packed else 0) for k, v in self.parts.items()}
        self.parts = {}
        return out


def side_of(config: Any) -> int:
    """Pixels on the side of a patch."""
    p = config.patch_size
    return int(p[0] if isinstance(p, list | tuple) else p)


def pixels_of(values: Tensor, config: Any) -> Tensor:
    """What each patch shows, scaled to 0..255 by the lowest and highest value of its image.

    values (images, 3, H, W) -> (images, 3 p p, N); or (patches, 3 t p p) of a packed tower -> (1, 3 t p p, patches).
    """
    if values.ndim == 2:
        low, high = values.min(), values.max()
        out = values.float().T[None]
    else:
        p = side_of(config)
        rows, cols = values.shape[-2] // p, values.shape[-1] // p
        cut = values[..., : rows * p, : cols * p].float().unflatten(-1, (cols, p)).unflatten(-3, (rows, p))
        out = cut.permute(0, 1, 3, 5, 2, 4).flatten(1, 3).flatten(2)  # (images, 3 p p, rows cols)
        low, high = out.amin((1, 2), keepdim=True), out.amax((1, 2), keepdim=True)
    return (out - low) / (high - low).clamp(min=1e-6) * 255
