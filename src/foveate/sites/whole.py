"""Cache methods that decide once all layers of a prompt were read: how much each layer gets, or what layers share.

Such a method has ``weigh(entries)``, asked in every layer as it is read, and ``settle(list)``, asked once at the end
with what it weighed: a map or a compact store for each layer, or None for one that stays. It and all cache methods
after it in the plan act then. So do methods that ask for the signal ``recalled``, for which the prompt is read again.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from ..errors import UnsupportedCallError
from ..reduction import Reduction
from ..stores.compact_layer import CompactLayer
from ..stores.held import HeldLayer
from ..tokens import Entries
from .call import Call
from .entries import Recent, entries
from .replay import Replay

if TYPE_CHECKING:
    from .cache import CacheSite


def late(m: Any) -> bool:
    """Whether a cache method waits for all layers."""
    return hasattr(m, "settle") or recalls(m)


def recalls(m: Any) -> bool:
    """Whether the prompt has to be read again for a method."""
    return "recalled" in {need.split("|")[0] for need in m.card.needs}


@dataclass
class Waiting:
    """A layer that was read: its queries, where they are asked for later, and what the first method made of it."""

    scaling: float
    recent: Recent | None
    weighed: Any


class _Here(threading.local):
    call: Call | None = None
    layers: dict[int, Waiting]


class Whole:
    """Hooks on the decoder for the methods of a site that wait."""

    def __init__(self, site: CacheSite) -> None:
        self.site, self.here = site, _Here()
        self.first = next((i for i, m in enumerate(site.methods) if late(m)), len(site.methods))
        self.replay = Replay(site) if any(recalls(m) for m in site.methods) else None

    def place(self, stack: ExitStack) -> None:
        """Put the hooks on, where any method waits."""
        if self.first == len(self.site.methods):
            return
        if self.replay is not None:
            self.replay.place(stack)
        decoder = self.site.anatomy.decoder
        # before the funnel's own hook, which ends the call
        stack.callback(decoder.register_forward_hook(self._finish, prepend=True).remove)

    def wait(self, layer: int, held: HeldLayer, recent: Recent, scaling: float, call: Call) -> None:
        """A layer was read and the methods that do not wait have acted."""
        here, m = self.here, self.site.methods[self.first]
        if here.call is not call:
            here.call, here.layers = call, {}
        weighed = None
        if not recalls(m):
            row = self.site.report.row("cache", str(m))
            with self.site.report.clock(row, recent.q.device):
                weighed = m.weigh(entries(m, layer, held, recent, scaling, self.site.sources, call))
        more = recalls(m) or self.first + 1 < len(self.site.methods)
        here.layers[layer] = Waiting(scaling, recent if more else None, weighed)

    def _finish(self, module: Any, args: Any, out: Any) -> None:
        here = self.here
        if here.call is None or here.call is not self.site.funnel.current.get():
            return
        call, waiting, here.call, here.layers = here.call, here.layers, None, {}
        for i, m in enumerate(self.site.methods[self.first :]):
            self._act(m, waiting, call, fresh=bool(i))

    def _act(self, m: Any, waiting: dict[int, Waiting], call: Call, fresh: bool) -> None:
        """One method on all layers. ``fresh``: nothing was weighed yet."""
        site, order = self.site, sorted(waiting)
        row, heads = site.report.row("cache", str(m)), site._heads()
        layers = [self._layer(call, i) for i in order]
        full = sum(layer.nbytes for layer in layers)
        row.tokens_in += sum(layer.entries // heads for layer in layers)
        with site.report.clock(row, call.where.device):
            weighed = [waiting[i].weighed for i in order]
            if fresh or recalls(m):
                weighed = [self._entries(m, i, waiting[i], call) for i in order]
                if recalls(m):
                    assert self.replay is not None
                    scores = self.replay.run(m, order, call)
                    weighed = [replace(e, recalled=s) for e, s in zip(weighed, scores)]
                weighed = [m.weigh(e) if hasattr(m, "weigh") else e for e in weighed]
            for i, made in zip(order, self._decide(m, weighed, layers, call)):
                if isinstance(made, Reduction):
                    site._keep(i, self._layer(call, i), made, call)
                elif made is not None:
                    call.cache.layers[i] = CompactLayer.of(self._layer(call, i), made)
        after = [self._layer(call, i) for i in order]
        row.tokens_out += sum(layer.entries // heads for layer in after)
        row.kv_bytes += sum(layer.nbytes for layer in after)
        row.kv_bytes_full += full

    def _decide(self, m: Any, weighed: list[Any], layers: Sequence[HeldLayer], call: Call) -> list[Any]:
        """What becomes of each layer."""
        if not hasattr(m, "settle"):
            return [m.pack(e) if hasattr(m, "pack") else m.reduce(e) for e in weighed]
        if hasattr(m, "pack"):
            self._check(m, layers)
        made: list[Any] = m.settle(weighed)
        return made

    @staticmethod
    def _check(m: Any, layers: Sequence[HeldLayer]) -> None:
        """Refuse to store layers together that hold different tokens."""
        first = layers[0].where
        for layer in layers:
            if layer.ragged or layer.where is None or first is None or layer.where.shape != first.shape:
                break
            if not torch.equal(layer.where, first):
                break
        else:
            return
        raise UnsupportedCallError(
            f"{m.name} stores layers together, and they hold different tokens; put it before the methods that evict"
        )

    def _layer(self, call: Call, i: int) -> HeldLayer:
        layer: HeldLayer = call.cache.layers[i]
        return layer

    def _entries(self, m: Any, i: int, w: Waiting, call: Call) -> Entries:
        """A layer as a method sees it now."""
        assert w.recent is not None
        return entries(m, i, self._layer(call, i), w.recent, w.scaling, self.site.sources, call)
