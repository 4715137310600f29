"""Attention masks that fit each layer's own length, whatever the layer before it held."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import UnsupportedCallError
from ..stores.held import HeldLayer
from .call import Call, pick


def gather_mask(mask: object, index: Tensor | None, kept: Tensor, n: int) -> object:
    """A prepared mask for n new tokens -> for those left. 2-D (B, kv) or 4-D (B, 1, n, kv); the past part stays.

    index (B, m): which of the n are left, None when all are; kept (B, m) bool, False at padding.
    """
    if not isinstance(mask, Tensor) or index is None:
        return mask
    kv = mask.shape[-1]
    past, new = mask[..., : kv - n], mask[..., kv - n :]
    if mask.ndim == 2:
        return torch.cat([past, pick(new, index) * kept.to(mask.dtype)], -1)
    new = _hide(pick(pick(new, index, dim=2), index, dim=3), ~kept[:, None, None])
    return torch.cat([pick(past, index, dim=2), new], -1)


def fit(
    mask: object, held: HeldLayer | None, window: int | None, call: Call, heads: int, dtype: torch.dtype, kind: str
) -> object:
    """The mask of one layer, from what it holds. ``mask``: what was handed over, gathered to ``call.m`` queries.

    A window is measured at the positions in the whole sequence: tokens that were dropped count.

    Returns None where plain causal attention (or one query seeing everything) is right.
    """
    if held is not None and held.ragged:
        return None  # the store knows what each head may see
    past = 0 if held is None else held.held
    if "flash" in kind:
        seen = call.n + (0 if held is None else held.seen)
        if window is not None and seen > window - 1 and seen != past + call.m:
            raise UnsupportedCallError(
                "FlashAttention would measure sliding windows in the tokens that are left; "
                "load the model with attn_implementation='sdpa' to shorten its prompts"
            )
        return _flat(mask, held, call)
    if mask is None:
        alone = past == 0 or call.m == 1
        hidden = (
            call.padded or (held is not None and held.padded) or (window is not None and _span(held, call) > window)
        )
        if alone and not hidden:
            return None
        new = call.kept[:, None, None] & _causal(call)
        if window is not None:
            new = new & _near(call, window)
        return as_kind(_join(_past(held, call, heads), new, call), dtype, kind)
    if not isinstance(mask, Tensor) or mask.ndim != 4:
        return mask
    if window is not None and not call.whole and not call.prepared:
        mask = _hide(mask, pad(~_near(call, window), (mask.shape[-1] - call.m, 0)))  # the past has its own check
    if past == 0:
        return mask
    new = mask[..., mask.shape[-1] - call.m :]
    before = _past(held, call, heads)
    if mask.dtype != torch.bool:
        before = additive(before, mask.dtype)
    return _join(before, new, call)


def _join(past: Tensor, new: Tensor, call: Call) -> Tensor:
    width = max(new.shape[1], past.shape[1])
    return torch.cat([t.expand(call.b, width, call.m, t.shape[-1]) for t in (past, new)], -1)


def _causal(call: Call) -> Tensor:
    at = torch.arange(call.m, device=call.kept.device)
    return (at[None] <= at[:, None])[None, None]


def _span(held: HeldLayer | None, call: Call) -> int:
    """At most how far apart the first held entry and the last new token are, both included."""
    if held is None:
        return call.n
    return held.held + call.m if call.whole and not held.gaps else held.seen + call.n


def _near(call: Call, window: int) -> Tensor:
    """(B, 1, m, m) bool: which of the call's own tokens are within the window of each."""
    return call.where[:, None, :, None] - call.where[:, None, None] < window


def _past(held: HeldLayer | None, call: Call, heads: int) -> Tensor:
    """(B, 1 or H, m, past) bool: which held entries each new token sees."""
    if held is None or held.where is None:
        return torch.ones(call.b, 1, call.m, 0, dtype=torch.bool, device=call.kept.device)
    where = held.where[:, :, None]
    seen = where >= 0
    if held.window is not None:
        seen = seen & (call.where[:, None, :, None] - where < held.window)
    if seen.shape[1] not in (1, heads):
        seen = seen.repeat_interleave(heads // seen.shape[1], dim=1)
    return seen.expand(-1, -1, call.m, -1)


def _flat(mask: object, held: HeldLayer | None, call: Call) -> object:
    """FlashAttention's (B, kv) mask, or None without padding."""
    if not (call.padded or (held is not None and held.padded)):
        return None
    past = torch.ones(call.b, 0, dtype=torch.bool, device=call.kept.device)
    if held is not None and held.where is not None:
        past = held.where[:, 0] >= 0
    return torch.cat([past, call.kept], -1)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask as numbers to add to logits: 0 where visible, the smallest number of the dtype elsewhere."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def as_kind(mask: Tensor, dtype: torch.dtype, kind: str) -> Tensor:
    """A bool mask in the form that the attention kind expects."""
    return additive(mask, dtype) if kind.endswith("eager") else mask


def _hide(mask: Tensor, hidden: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return mask & ~hidden
    return mask.masked_fill(hidden, torch.finfo(mask.dtype).min)
