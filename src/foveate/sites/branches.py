"""Reading a tree of guesses: what each node sees in the attention of every layer, and the way it took, in the cache."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ..errors import UnsupportedModelError
from ..parts.trees import Tree
from ..stores.compact_layer import CompactLayer
from ..stores.held import HeldLayer
from ..stores.ragged import RaggedLayer
from .masks import additive
from .model import anatomy, attention_of
from .tap import Seen, Watch, add


class Branches:
    """While a tree is read, nodes see the past and those above them. Put on a model once, idle between trees."""

    def __init__(self) -> None:
        self.tree: Tree | None = None
        self.cache: Any = None
        self.visible: Tensor | None = None
        self.seen = 0

    @classmethod
    def place(cls, model: Any, stack: ExitStack) -> Branches | None:
        """On a model until the stack closes; None where its attention cannot be reached."""
        try:
            parts = anatomy(model)
        except UnsupportedModelError:
            return None
        kind = getattr(parts.decoder.config, "_attn_implementation", None) or "eager"
        if kind.removeprefix("foveate_") not in ("sdpa", "eager"):
            return None
        new = cls()
        add(
            parts.decoder,
            {attention_of(layer): _Branch(new, i, parts.windows[i]) for i, layer in enumerate(parts.layers)},
            stack,
        )
        return new

    @contextmanager
    def reading(self, tree: Tree | None, cache: Any, visible: Tensor | None) -> Any:
        """Inside, the forward's new tokens are the nodes of a tree. visible (B, seen + q): False at padding."""
        if tree is None:
            yield
            return
        self.tree, self.cache, self.visible, self.seen = tree, cache, visible, cache.get_seq_length()
        packs = [x.pack for x in cache.layers if isinstance(x, RaggedLayer) and x.pack is not None]
        for pack in packs:
            pack.tree = tree.ancestors
        try:
            yield
        finally:
            self.tree = self.cache = self.visible = None
            for pack in packs:
                pack.tree = None

    def mask(self, layer: int, window: int | None, seen: Seen) -> Tensor | None:
        """The mask of one layer, of the form it came in."""
        tree = self.tree
        if tree is None or seen.q.shape[2] != tree.q or not isinstance(seen.k, Tensor):
            return seen.mask
        b, q, kv = seen.q.shape[0], tree.q, seen.k.shape[2]
        if seen.mask is None or window is not None:
            past = self._past(layer, window, b, kv - q, seen.q.device)
            made = torch.cat([past, tree.ancestors.expand(b, 1, q, q)], -1)
            wanted = seen.mask.dtype if seen.mask is not None else torch.bool
            return made if wanted == torch.bool else additive(made, wanted)
        new = ~tree.ancestors.expand(b, 1, q, q)
        mask = seen.mask.expand(b, *seen.mask.shape[1:]).clone()
        mask[..., kv - q : kv].masked_fill_(new, False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min)
        return mask

    def _past(self, layer: int, window: int | None, b: int, past: int, device: torch.device) -> Tensor:
        """(B, 1, q, past) bool. A window is measured where a node stands in the text, not in the tree."""
        assert self.tree is not None
        held = self.cache.layers[layer]
        if isinstance(held, HeldLayer) and held.where is not None:
            where = held.where[:, 0, :past].long()
        else:
            where = torch.arange(self.seen - past, self.seen, device=device).expand(b, past)
            if self.visible is not None:
                where = where.masked_fill(self.visible[:, self.seen - past : self.seen] == 0, -1)
        seen = (where >= 0)[:, None].expand(-1, self.tree.q, -1)
        if window is not None:
            seen = seen & (self.seen + self.tree.depth[None, :, None] - where[:, None] < window)
        return seen[:, None]


class _Branch(Watch):
    reads = False

    def __init__(self, branches: Branches, layer: int, window: int | None) -> None:
        self.branches, self.layer, self.window = branches, layer, window

    def before(self, seen: Seen) -> Tensor | None:
        return self.branches.mask(self.layer, self.window, seen)


def obstacle(branches: Branches | None, cache: Any, positions: Tensor | None) -> str | None:
    """Why trees cannot be read over this cache, after its prefill; None if they can."""
    if branches is None:
        return "this model's attention takes no mask of its own (load it with attn_implementation='sdpa' or 'eager')"
    if positions is None:
        return "this model counts positions itself"
    for layer in cache.layers:
        if isinstance(layer, CompactLayer) and layer.compact is not None:
            return "packed layers store tokens in the order they come"
        if isinstance(layer, HeldLayer) and (layer.recent is not None or layer.tally is not None):
            return "a cache policy that lasts counts every token that is read"
        if type(layer) not in (HeldLayer, RaggedLayer, CompactLayer, DynamicLayer, DynamicSlidingWindowLayer):
            return f"a cache layer is a {type(layer).__name__}"
    return None


def bring_forward(cache: Any, path: Tensor, q: int) -> None:
    """Put what the nodes of path (B, k) left in every layer in front of what the other of the last q tokens left."""
    b, k = path.shape
    rest = torch.ones(b, q, dtype=torch.uint8, device=path.device).scatter(1, path, 0)
    order = torch.cat([path, rest.argsort(dim=1, stable=True, descending=True)[:, : q - k]], 1)
    for layer in cache.layers:
        if isinstance(layer, RaggedLayer) and layer.pack is not None:
            layer.pack.reorder_tail(order.repeat_interleave(len(layer.pack.lengths) // b, 0))
            continue
        for name in ("keys", "values"):
            whole = getattr(layer, name)
            if whole is None or not whole.numel():
                continue
            tail = whole[..., -q:, :]
            index = order.to(whole.device)[:, None, :, None].expand(-1, tail.shape[1], -1, tail.shape[3])
            setattr(layer, name, torch.cat([whole[..., :-q, :], tail.gather(2, index)], -2))
