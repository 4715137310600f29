"""HACK: two kinds of attention heads in next-scale generators, each with a cache budget and a rule of its own.

Qin et al., "Head-Aware KV Cache Compression for Efficient Visual Autoregressive Modeling" (HACK), 2025.
https://arxiv.org/abs/2504.09261

Contextual heads look at the same few tokens from everywhere (vertical lines in their attention), structural heads at
the surroundings of the query's own place (diagonals). The kind is told offline from how unequal the attention is that
keys receive. Contextual heads keep the keys that get most attention from the newest scale; structural heads keep the
newest entries, thinned evenly where a scale does not fit as a whole. Scale 0 always stays.

The paper's abstract and figures fix the two kinds, the unequal budgets and that rules differ; how entries are picked
inside a kind is written here in its simplest form, so this is the idea and not a reproduction of its numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..errors import InputError
from .next_scale import NextScale, Whole


@torch.no_grad()
def classify(model: NextScale, classes: Tensor, *, contextual: float = 0.5, seed: int = 0) -> Tensor:
    """Which heads are contextual, (layers, heads) bool, from what the model generates for ``classes`` (B,).

    contextual: share of all heads. A head's score is the variance, over keys, of the attention they receive on average
    at the finest scale, relative to an even spread.
    """
    if not 0 <= contextual <= 1:
        raise InputError(f"'contextual' must be from 0 to 1. Got {contextual}.")
    watch = _Watch(model.layers)
    model.generate(classes, cache=watch, seed=seed)
    score = torch.stack([s for s in watch.score if s is not None])  # (layers, heads)
    many = round(contextual * score.numel())
    order = score.flatten().argsort(descending=True, stable=True)
    return torch.zeros(score.numel(), dtype=torch.bool).scatter(0, order[:many].cpu(), True).view(score.shape)


class _Watch(Whole):
    """Keeps everything and looks at the attention of the newest scale."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers)
        self.score: list[Tensor | None] = [None] * layers

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = super().attend(layer, q, k, v)
        held = self.kv[layer]
        assert held is not None
        received = _received(q, held[0])  # (B, h, n)
        self.score[layer] = (received * received.shape[-1]).var(-1, correction=0).mean(0)
        return out


def _received(q: Tensor, k: Tensor) -> Tensor:
    """q (B, h, m, d), k (B, h, n, d) -> (B, h, n) attention that each key receives on average, float32."""
    scaled: Tensor = q.float() @ k.float().mT * q.shape[-1] ** -0.5
    return scaled.softmax(-1).mean(2)


class HeadAware:
    """A cache for :meth:`NextScale.generate` with, on average over heads, at most ``budget`` entries between scales.

    Args:
        contextual: (layers, heads) bool, of :func:`classify`.
        budget: entries a head holds on average once a scale is done.
        lean: how much less than the average a contextual head gets, in [0, 1); structural heads get what that saves.
    """

    def __init__(self, contextual: Tensor, budget: int, lean: float = 0.5) -> None:
        if budget < 1 or not 0 <= lean < 1 or contextual.ndim != 2 or contextual.dtype != torch.bool:
            raise InputError(
                f"'contextual' is (layers, heads) bool, 'budget' above 0 and 'lean' in [0, 1). Got "
                f"{tuple(contextual.shape)} {contextual.dtype}, {budget}, {lean}."
            )
        self.contextual, self.heads = contextual, contextual.shape[1]
        each = self._budgets(budget, lean)
        self.budgets = each  # of (contextual, structural) heads in each layer
        #: for each layer and kind: keys, values (B, heads of the kind, held, d) and first entry of the newest scale
        self.held: list[list[tuple[Tensor, Tensor] | None]] = [[None, None] for _ in contextual]

    def _budgets(self, budget: int, lean: float) -> list[tuple[int, int]]:
        """Entries of a head of each kind, layer by layer, so that a layer's heads hold ``budget`` on average."""
        out = []
        for row in self.contextual:
            many, few = int(row.sum()), int((~row).sum())
            small = budget if not few else max(1, int(budget * (1 - lean)))
            out.append((small, budget if not few else (budget * self.heads - small * many) // few))
        return out

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend with all of the new scale and what was kept; then bring both kinds down to their budgets."""
        out = torch.empty_like(q)
        for kind, heads in enumerate((self.contextual[layer], ~self.contextual[layer])):
            at = heads.nonzero()[:, 0].to(q.device)
            if not len(at):
                continue
            mine, key, value = q[:, at], k[:, at], v[:, at]
            held = self.held[layer][kind]
            if held is not None:
                key, value = torch.cat([held[0], key], 2), torch.cat([held[1], value], 2)
            out[:, at] = scaled_dot_product_attention(mine, key, value)
            n, limit = key.shape[2], self.budgets[layer][kind]
            if n > limit:
                kept = self._contextual(mine, key, limit) if kind == 0 else self._structural(key, k.shape[2], limit)
                index = kept[..., None].expand(-1, -1, -1, key.shape[-1])
                key, value = key.gather(2, index), value.gather(2, index)
            self.held[layer][kind] = (key, value)
        return out

    @staticmethod
    def _contextual(q: Tensor, k: Tensor, limit: int) -> Tensor:
        """The first entry and those that receive most attention, ascending: (B, h, limit)."""
        score = _received(q, k)
        score[..., 0] = torch.inf
        return score.argsort(dim=-1, descending=True, stable=True)[..., :limit].sort(-1).values

    @staticmethod
    def _structural(k: Tensor, newest: int, limit: int) -> Tensor:
        """The first entry and the newest; the newest scale evenly thinned where it does not fit: (B, h, limit)."""
        b, h, n = k.shape[:3]
        if limit - 1 >= newest:
            rest = torch.arange(n - (limit - 1), n)
        else:
            rest = n - newest + torch.linspace(0, newest - 1, max(limit - 1, 0)).round().long()
        kept = torch.cat([torch.zeros(1, dtype=torch.int64), rest])[:limit]
        return kept.to(k.device).expand(b, h, -1)

    @property
    def entries(self) -> int:
        """Entries of all heads and layers together, for one row."""
        return sum(kv[0].shape[1] * kv[0].shape[2] for layer in self.held for kv in layer if kv is not None)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held."""
        return sum(t.nbytes for layer in self.held for kv in layer if kv is not None for t in kv)
