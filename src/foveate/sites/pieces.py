"""Cache methods while a prompt is read in pieces: after each of them a layer is cut to its budget.

What a method is asked about, by its ``pieces``: "held" (the default), all that is held, with its share turned into a
number of the whole prompt's entries; "new", the piece that was just read, for methods that cut a prompt group by group;
"end", everything, once, after the last piece. Methods that compress, or that wait for all layers, are asked at the end.
A method may say what it wants of one piece by ``between(entries, total, last)``, which returns a method; total: entries
of the whole prompt.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..parts.budget import floor_budget
from ..reduction import Reduction
from ..stores.held import HeldLayer
from ..tokens import Entries
from .call import Call
from .entries import Recent, entries, received
from .tap import Seen

if TYPE_CHECKING:
    from .cache import CacheSite


def when(m: Any) -> str:
    """ "held", "new" or "end": what a cache method is asked while a prompt is read in pieces."""
    return "end" if hasattr(m, "pack") or hasattr(m, "settle") else str(getattr(m, "pieces", "held"))


def shrink(site: CacheSite, layer: int, held: HeldLayer, seen: Seen, call: Call) -> None:
    """Run the plan's cache methods on one layer after one piece of a prompt."""
    piece = call.piece
    assert piece is not None, "not a piece"
    window = max((getattr(m, "window", 1) for m in site.methods if "queries" in _needs(m)), default=1)
    new = Recent.of(seen, call)
    # a last piece may be short: the queries of those before it are still asked
    held.recent = recent = new if held.recent is None else held.recent.then(new, max(window, call.m))
    if site.tallied or any("received" in _needs(m) for m in site.methods):
        keys, _, where = held.dense()
        held.add(received(new, keys, where, seen.scaling))
    count, size = piece.left.get(layer, (0, 0))
    heads = site._heads()
    for m in site.methods[: site.whole.first]:
        if when(m) == "end" and not piece.last:
            continue
        row = site.report.row("cache", str(m))
        ended = when(m) == "end"
        row.tokens_in += (held.entries - (0 if ended else count)) // heads
        row.kv_bytes_full += held.nbytes - (0 if ended else size)
        with site.report.clock(row, seen.q.device):
            what = entries(m, layer, held, recent, seen.scaling, site.sources, call)
            what = replace(what, visual=visual(held, call))
            m = prepared(m, what, call)
            if hasattr(m, "pack"):
                held = site._pack(m, layer, what, call)
            else:
                held = site._keep(layer, held, decide(m, what, call), call)
        row.tokens_out += (held.entries - (0 if ended else count)) // heads
        row.kv_bytes += held.nbytes - (0 if ended else size)
    piece.left[layer] = (held.entries, held.nbytes)
    if piece.last and site.whole.first < len(site.methods):
        site.whole.wait(layer, held, recent, seen.scaling, piece.whole)
    held.asked = held.seen
    if not piece.last:
        held.recent = recent.last(window)
        return
    held.recent = recent.last(site._window()) if site.lasting else None
    if not site.tallied:
        held.forget_tally()


def decide(m: Any, what: Entries, call: Call) -> Reduction:
    """The map of all entries held, (B * g, n) rows, that a method wants after this piece."""
    n = what.n
    if when(m) == "new":
        r: Reduction = m.reduce(replace(latest(what, call.m), visual=call.visual))
        return Reduction.cat([Reduction.identity(r.b, n - call.m, r.keep.device), r]) if call.m < n else r
    r = m.reduce(what)
    return r


def prepared(m: Any, what: Entries, call: Call) -> Any:
    """A method as it is asked after this piece."""
    piece = call.piece
    assert piece is not None, "not a piece"
    if hasattr(m, "between"):
        return m.between(what, piece.total, piece.last)
    if when(m) == "new" and isinstance(keep := getattr(m, "keep", None), int):  # a number of all visual tokens
        count = 0 if piece.visual is None else int(piece.visual.sum(1).max())
        return replace(m, keep=min(1.0, keep / max(1, count)))
    return counted(m, piece.total) if when(m) == "held" else m


def counted(m: Any, total: int) -> Any:
    """A method with its shares turned into numbers of ``total`` entries, rounded down."""
    more: dict[str, Any] = {}
    if isinstance(keep := getattr(m, "keep", None), float):
        more["keep"] = floor_budget(keep, total)
    if (shares := getattr(m, "shares", None)) is not None:
        more["shares"] = tuple(floor_budget(s, total) if isinstance(s, float) else s for s in shares)
    return replace(m, **more) if more else m


def visual(held: HeldLayer, call: Call) -> Tensor | None:
    """(B, n) bool: which entries held are visual tokens of this prompt, or None where heads hold different ones."""
    where, piece = held.where, call.piece
    if held.ragged or where is None or piece is None or piece.visual is None:
        return None
    if where.shape[1] > 1 and bool((where != where[:, :1]).any()):
        return None
    at = where[:, 0].long()
    table = torch.cat([piece.visual, piece.visual.new_zeros(call.b, 1)], 1)  # padding reads the last column
    return table.gather(1, torch.where(at < 0, table.shape[1] - 1, at))


def latest(what: Entries, m: int) -> Entries:
    """The last m entries, and of what lists queries the last m."""
    fields: dict[str, Any] = {}
    for name in ("keys", "values", "received", "held", "queries", "raw_queries"):
        if (t := getattr(what, name)) is not None:
            fields[name] = t[:, :, -m:]
    for name in ("valid", "visual"):
        if (t := getattr(what, name)) is not None:
            fields[name] = t[:, -m:]
    return replace(what, **fields)


def _needs(m: Any) -> set[str]:
    """Signals that a method is given: of alternatives the first."""
    return {need.split("|")[0] for need in m.card.needs}
