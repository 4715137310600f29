"""Methods that make the prompt's own attention sparse: ``picks`` says which tokens each block of queries attends to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..parts.sparse_attention import grouped
from ..report import Report
from .call import Current
from .tap import Seen, Watch


class Sparse(Watch):
    """Watches one layer for one method with ``picks`` and ``block``."""

    reads = False

    def __init__(self, method: Any, current: Current, report: Report) -> None:
        self.method, self.current, self.report = method, current, report

    def instead(self, seen: Seen) -> Tensor | None:
        """Attention of a whole prompt over what the method picks, (B, n, H, d); None where it picks all."""
        call = self.current.get()
        n = seen.k.shape[2]
        if call is None or not call.first or call.piece is not None or seen.q.shape[2] != n:
            return None
        row = self.report.row("cache", str(self.method))
        starts = call.kept.to(torch.uint8).argmax(1).tolist()  # padding comes first
        with self.report.clock(row, seen.q.device):
            picks = [self.method.picks(seen.q[b, :, s:], seen.k[b, :, s:]) for b, s in enumerate(starts)]
        if all(picked is None for picked in picks):
            return None
        out = seen.q.new_zeros(*seen.q.transpose(1, 2).shape[:3], seen.v.shape[3])
        read = total = 0
        for b, (start, picked) in enumerate(zip(starts, picks)):
            if picked is None:
                everything = torch.arange(n - start, device=out.device)
                picked = everything.expand(-(-(n - start) // self.method.block), -1)
            mask = seen.mask if seen.mask is not None and seen.mask.ndim == 4 else None
            own = None if mask is None else mask[b : b + 1] if len(mask) > 1 else mask
            for i, columns in enumerate(picked):
                at = slice(start + i * self.method.block, min(n, start + (i + 1) * self.method.block))
                some = columns[columns < at.stop - start].unique() + start
                cut = _causal(at, some) if own is None else own[:, :, at].index_select(3, some)
                k, v = (t[b : b + 1].index_select(2, some) for t in (seen.k, seen.v))
                out[b, at] = grouped(seen.q[b : b + 1, :, at], k, v, seen.scaling, cut)[0]
                read, total = read + len(some), total + at.stop - start
        row.note = (
            f"blocks of {self.method.block} queries attend to {read / max(1, total):.0%} of the prompt before them"
        )
        return out


def _causal(at: slice, some: Tensor) -> Tensor:
    """(1, 1, queries, columns) bool: which of the columns ``some`` the queries ``at`` may see."""
    return (some <= torch.arange(at.start, at.stop, device=some.device)[:, None])[None, None]
