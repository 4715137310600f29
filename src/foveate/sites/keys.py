"""What encoder methods need of a block's attention, and the bias that makes merged tokens count for what they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..parts.score import attention_rows, received
from .tap import Seen, Watch

if TYPE_CHECKING:
    from .encoder import EncoderSite


class Keys(Watch):
    """Keeps what methods need of a block's attention, and adds log(size) to its logits."""

    def __init__(self, site: EncoderSite, proportional: bool, needs: set[str]) -> None:
        self.site, self.proportional, self.needs = site, proportional, needs
        self.parts: dict[str, list[Tensor]] = {}

    def before(self, seen: Seen) -> Tensor | None:
        size = self.site.patch_size(seen.k.shape[-2])
        if not self.proportional or size is None:
            return seen.mask
        bias = size.log()[:, None, None].to(seen.q.dtype)
        if seen.mask is None:
            return bias.expand(-1, 1, seen.q.shape[2], -1)
        if seen.mask.dtype == torch.bool:
            return torch.where(seen.mask, bias, torch.finfo(bias.dtype).min)
        return seen.mask + bias

    def after(self, seen: Seen) -> None:
        made = {"metric": seen.k.mean(1)}
        if "received_attention" in self.needs:
            made["received_attention"] = received(seen.q, seen.k, seen.scaling, seen.mask)
        if "cls_attention" in self.needs:
            mask = None if seen.mask is None else seen.mask[:, :, :1]
            made["cls_attention"] = attention_rows(seen.q[:, :, :1], seen.k, seen.scaling, mask)[:, :, 0].mT
        if "last_heads" in self.needs:
            made |= {"q": seen.q * seen.scaling, "k": seen.k}
        for name, value in made.items():
            self.parts.setdefault(name, []).append(value)

    def take(self, packed: bool) -> dict[str, Tensor]:
        """Each (B, n, ...), or (1, patches, ...) of a packed tower; queries and keys (B, H, n, d)."""
        out = {name: torch.cat(v, dim=1 if packed else 0) for name, v in self.parts.items()}
        self.parts = {}
        return out
