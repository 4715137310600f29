"""Stage cache: right after a layer's prefill attention, what the method does not keep is freed.

Methods with ``decoding = True``, or with a number ``every``, are asked again while tokens are generated, after every
``every`` of them (1 if they do not say), so that their budget holds throughout; a share is then meant of all tokens
seen so far.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..errors import UnsupportedCallError
from ..reduction import Reduction
from ..report import Report
from ..stores.held import HeldLayer
from ..stores.ragged import RaggedLayer
from ..tokens import Entries
from . import pieces
from .calibrate import Calibrate
from .call import Call
from .entries import Recent, Sources, before, entries, received
from .funnel import Funnel
from .model import Anatomy, attention_of
from .sparse import Sparse
from .tap import Seen, Watch
from .whole import Whole


class _Shrink(Watch):
    reads = False

    def __init__(self, site: CacheSite, layer: int) -> None:
        self.site, self.layer = site, layer

    def before(self, seen: Seen) -> Tensor | None:
        call = self.site.funnel.current.get()
        if call is not None and call.cache is None:
            name = self.site.methods[0].name
            raise UnsupportedCallError(f"{name} acts on the KV cache, but this call runs with use_cache=False")
        return seen.mask

    def after(self, seen: Seen) -> None:
        # prefill is "this layer held nothing before", never "several tokens": drafted tokens come several at a time
        call = self.site.funnel.current.get()
        held = call.held(self.layer) if call is not None else None
        if held is None or call is None:
            return
        replay = self.site.whole.replay
        if replay is not None and replay.running:
            replay.look(self.layer, held, seen)
        elif held.window is not None:
            if call.first:
                self.site.skip()
        elif call.piece is not None and call.piece.prefill:
            pieces.shrink(self.site, self.layer, held, seen, call)
        elif call.first and held.held == seen.q.shape[2]:
            self.site.shrink(self.layer, held, seen, call)
        elif self.site.lasting:
            self.site.again(self.layer, held, seen, call)


class CacheSite:
    """Watches the attention of every layer with a full-attention cache."""

    def __init__(self, anatomy: Anatomy, methods: list[Any], report: Report, funnel: Funnel) -> None:
        self.anatomy, self.methods, self.report, self.funnel = anatomy, methods, report, funnel
        self.lasting = [m for m in methods if getattr(m, "decoding", getattr(m, "every", None) is not None)]
        self.tallied = any("received" in m.card.needs for m in self.lasting)
        self.warned = False
        self.sources = Sources(anatomy)
        self.whole = Whole(self)

    def place(self, stack: ExitStack) -> dict[nn.Module, list[Watch]]:
        """Put on the hooks that signals need; returns the attention watchers to install."""
        self.whole.place(stack)
        self.sources.place({n for m in self.methods for need in m.card.needs for n in need.split("|")}, stack)
        watchers: dict[nn.Module, list[Watch]] = {}
        count, config = len(self.anatomy.layers), self.anatomy.decoder.config
        kind = getattr(config, "_attn_implementation", None) or "eager"
        for i, layer in enumerate(self.anatomy.layers):
            biased = [m for m in self.methods if hasattr(m, "bias")]
            calibrating = [Calibrate(m, i, count, self.funnel.current, kind) for m in biased]
            full = self.anatomy.windows[i] is None
            picking = [
                Sparse(m, self.funnel.current, self.report) for m in self.methods if full and hasattr(m, "picks")
            ]
            watchers[attention_of(layer)] = [*calibrating, *picking, _Shrink(self, i)]
        return watchers

    def skip(self) -> None:
        """Say, once, that sliding-window layers are left as they are."""
        if not self.warned:
            self.warned = True
            names = " and ".join(m.name for m in self.methods)
            warnings.warn(f"sliding-window layers keep their window: {names} skips them", stacklevel=2)

    def shrink(self, layer: int, held: HeldLayer, seen: Seen, call: Call) -> None:
        """Run the plan's cache methods on one layer, one after the other."""
        recent = Recent.of(seen, call)
        if self.tallied:
            keys, _, where = held.dense()
            held.add(received(recent, keys, where, seen.scaling))
        for m in self.methods[: self.whole.first]:
            row = self.report.row("cache", str(m))
            full, heads = held.nbytes, self._heads()
            row.tokens_in += held.entries // heads
            with self.report.clock(row, seen.q.device):
                what = entries(m, layer, held, recent, seen.scaling, self.sources, call)
                if hasattr(m, "pack"):
                    held = self._pack(m, layer, what, call)
                else:
                    held = self._keep(layer, held, m.reduce(what), call)
            row.tokens_out += held.entries // heads
            row.kv_bytes += held.nbytes
            row.kv_bytes_full += full
        if self.whole.first < len(self.methods):
            self.whole.wait(layer, held, recent, seen.scaling, call)
        held.asked = held.seen
        if self.lasting:
            held.recent = recent.last(self._window())

    def again(self, layer: int, held: HeldLayer, seen: Seen, call: Call) -> None:
        """While tokens are generated: ask the methods whose budget lasts, for all but what may yet be taken back."""
        if held.recent is not None:
            held.recent = recent = held.recent.then(Recent.of(seen, call), self._window())
        else:  # this cache was filled before the plan was put on
            held.recent = recent = Recent.of(seen, call)
        drafted = call.m if call.m > 1 else 0
        if self.tallied:
            keys, _, where = held.dense()
            held.add(received(Recent.of(seen, call), keys, where, seen.scaling))
        for m in self.lasting:
            if held.seen - held.asked < getattr(m, "every", 1) + drafted:
                continue
            held = self._again(m, layer, held, recent, seen.scaling, call, drafted)
            held.asked, held.recent = held.seen - drafted, recent

    def _again(
        self, m: Any, layer: int, held: HeldLayer, recent: Recent, scaling: float, call: Call, drafted: int
    ) -> HeldLayer:
        row = self.report.row("cache", str(m))
        with self.report.clock(row, call.where.device):
            keep = getattr(m, "keep", None)
            if isinstance(keep, float):
                m = replace(m, keep=max(1, int(keep * (held.seen - drafted))))
            what = entries(m, layer, held, recent, scaling, self.sources, call, late=True)
            tail = drafted if drafted < what.n else 0
            if tail:
                what = before(what, tail)
            r = m.reduce(what)
            if tail:
                r = Reduction.cat([r, Reduction.identity(r.b, tail, r.keep.device)])
            return self._keep(layer, held, r, call)

    def _window(self) -> int:
        """Queries of the latest tokens that lasting methods ask for."""
        return max((getattr(m, "window", 1) for m in self.lasting if "queries" in m.card.needs), default=1)

    def _heads(self) -> int:
        """KV heads: the report counts entries of a head, on average where heads differ."""
        return max(1, int(self.anatomy.decoder.config.num_key_value_heads))

    def _keep(self, layer: int, held: HeldLayer, reduction: Reduction, call: Call) -> HeldLayer:
        """Keep what the map keeps; a layer whose heads keep different numbers moves to a store for that."""
        if held.ragged:
            held.shrink(reduction)
            return held
        if bool(reduction.valid.all()):
            if reduction.m < held.held:
                held.shrink(reduction)
            return held
        if reduction.selects and held.padded and self._all_real(held, reduction):
            return held
        new = RaggedLayer.of(held, reduction)
        call.cache.layers[layer] = new
        return new

    @staticmethod
    def _all_real(held: HeldLayer, reduction: Reduction) -> bool:
        """Whether only padding would go."""
        where = held.dense()[2].expand(-1, held.keys.shape[1], -1).flatten(0, 1)
        return bool((reduction.kept | (where < 0)).all())

    @staticmethod
    def _pack(m: Any, layer: int, what: Entries, call: Call) -> HeldLayer:
        """Store all entries in the form that the method packs them in."""
        from .compacting import compact

        made: HeldLayer = compact(call.cache, layer, m, what)
        return made
