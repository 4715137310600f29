"""What a prefill cost with and without each method, from the lengths that really ran."""

from __future__ import annotations

from typing import Any

from ..report import Report, Row
from . import cost
from .call import Call


def close(call: Call, layers: tuple[Any, ...], config: Any, report: Report) -> None:
    """Add one finished prefill (or later turn) to the report: totals, and each row against the lengths before it."""
    depth = len(layers)
    entered = call.lengths or [call.m] * depth
    past = [0 if (h := call.held(i)) is None else max(0, h.held - entered[i]) for i in range(depth)]
    held = [h for i in range(depth) if (h := call.held(i)) is not None]
    item = next((h.keys.element_size() for h in held if h.keys is not None), 0)
    token = cost.kv_bytes_per_token(config, item)

    def flops(lengths: list[float]) -> float:
        return call.b * cost.stack_flops(layers, lengths, past)

    def bytes_(lengths: list[float]) -> int:
        windows = [h.window for h in held]
        return round(call.b * token * sum(n if w is None else min(n, w - 1) for n, w in zip(lengths, windows)))

    report.prefills += int(call.first)
    report.flops += flops(list(map(float, entered)))
    report.flops_full += flops([float(call.n)] * depth)
    report.kv_bytes += sum(h.nbytes for h in held) - call.before
    report.kv_bytes_full += bytes_([float(call.n)] * depth)

    def add(row: Row, before: list[float], after: list[float]) -> None:
        row.flops, row.flops_full = row.flops + flops(after), row.flops_full + flops(before)
        row.kv_bytes, row.kv_bytes_full = row.kv_bytes + bytes_(after), row.kv_bytes_full + bytes_(before)

    length = float(call.n)
    for row, dropped in call.inputs:
        add(row, [length] * depth, [length - dropped / call.b] * depth)
        length -= dropped / call.b
    lengths = [float(call.n if not call.inputs and call.whole else entered[0])] * depth
    for row, layer, dropped in call.cuts:
        after = [n - (dropped / call.b if i >= layer else 0) for i, n in enumerate(lengths)]
        add(row, lengths, after)
        lengths = after
