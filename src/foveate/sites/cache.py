"""Stage cache: right after a layer's prefill attention, what the method does not keep is freed."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, nn

from ..errors import UnsupportedCallError
from ..report import Report
from ..tokens import Entries
from .funnel import Funnel
from .model import Anatomy, attention_of
from .tap import Seen, Watch


class _Shrink(Watch):
    def __init__(self, site: CacheSite, layer: int) -> None:
        self.site, self.layer = site, layer
        self.first = False

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
        if held is None or call is None or not call.first:
            return
        if held.window is not None:
            self.site.skip()
        elif held.held == seen.q.shape[2]:
            self.site.shrink(self.layer, held, seen)


class CacheSite:
    """Watches the attention of every layer with a full-attention cache."""

    def __init__(self, anatomy: Anatomy, methods: list[Any], report: Report, funnel: Funnel) -> None:
        self.anatomy, self.methods, self.report, self.funnel = anatomy, methods, report, funnel
        self.warned = False

    def watchers(self) -> dict[nn.Module, list[Watch]]:
        """The attention watchers to install."""
        return {attention_of(layer): [_Shrink(self, i)] for i, layer in enumerate(self.anatomy.layers)}

    def skip(self) -> None:
        """Say, once, that sliding-window layers are left as they are."""
        if not self.warned:
            self.warned = True
            names = " and ".join(m.name for m in self.methods)
            warnings.warn(f"sliding-window layers keep their window: {names} skips them", stacklevel=2)

    def shrink(self, layer: int, held: Any, seen: Seen) -> None:
        """Run the plan's cache methods on one layer, one after the other."""
        for m in self.methods:
            row = self.report.row("cache", str(m))
            call = self.funnel.current.get()
            before = held.nbytes
            row.tokens_in += held.held * held.keys.shape[0]
            with self.report.clock(row, held.keys.device):
                window = min(getattr(m, "window", seen.q.shape[2]), seen.q.shape[2])
                valid = held.where[:, 0] >= 0 if held.padded else None
                visual = call.visual if call is not None and call.visual.shape[1] == held.held else None
                entries = Entries(
                    keys=held.keys,
                    values=held.values,
                    queries=seen.q[:, :, seen.q.shape[2] - window :] if "queries" in m.card.needs else None,
                    scaling=seen.scaling,
                    valid=valid,
                    visual=visual,
                    layer=layer,
                    layers=len(self.anatomy.layers),
                )
                reduction = m.reduce(entries)
                if reduction.m < held.held:
                    held.shrink(reduction)
            row.tokens_out += held.held * held.keys.shape[0]
            row.kv_bytes += held.nbytes
            row.kv_bytes_full += before
