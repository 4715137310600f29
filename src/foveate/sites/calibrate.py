"""Cache methods that change attention while a prompt is read: ``bias(rows, layer)`` is added to the logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedCallError
from ..parts.score import attention_rows, causal_tail
from .call import Current
from .masks import additive
from .tap import Seen, Watch


class Calibrate(Watch):
    """Watches one layer's attention for one method with ``bias`` and ``acts``."""

    def __init__(self, method: Any, layer: int, layers: int, current: Current, kind: str) -> None:
        self.method, self.layer, self.layers, self.current, self.kind = method, layer, layers, current, kind

    def before(self, seen: Seen) -> Tensor | None:
        """The mask with the bias in it, for the prompt; what it was otherwise."""
        call = self.current.get()
        if call is None or not call.first or not self.method.acts(self.layer, self.layers):
            return seen.mask
        if "flash" in self.kind:
            raise UnsupportedCallError(
                f"{self.method.name} adds a bias to attention, which FlashAttention does not take; "
                "load the model with attn_implementation='sdpa'"
            )
        mask, n = seen.mask, seen.k.shape[2]
        if mask is None:
            mask = causal_tail(seen.q.shape[2], n, seen.q.device)[None, None]
        rows = attention_rows(seen.q, seen.k, seen.scaling, mask).nan_to_num_(0.0)  # padding asks for nothing
        bias = self.method.bias(rows, self.layer)
        if not bool(bias.any()):
            return seen.mask
        if mask.dtype == torch.bool:
            mask = additive(mask, seen.q.dtype)
        return torch.where(bias != 0, mask + bias.to(mask.dtype), mask).contiguous()
