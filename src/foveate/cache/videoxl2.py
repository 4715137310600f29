"""Video-XL-2: chunks of a video that the question needs keep all their entries, the others means of a few.

Qin et al., "Video-XL-2: Towards Very Long-Video Understanding Through Task-Aware KV Sparsification", 2025.
https://arxiv.org/abs/2506.19225

A video's visual entries form chunks. Those that matter to the task, the first and the last chunk stay dense; in the
others keys and values are averaged over ``pool`` tokens in a row, and text among them (timestamps) stays. The authors
score chunks outside of the model; without their answer (``dense``) those count that the prompt's last queries pay most
attention to. The question is placed right behind the shortened cache there, while here positions stay.

The authors drop what is left of a frame group after pooling (``variant="code"``); here it is averaged as well. Their
prefill in blocks is ``foveate.apply(..., chunk=N, reach=K)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import SignalError
from ..method import Many, OneOf, Range, method, option
from ..parts.bilevel import average_units, pooled_units
from ..parts.score import attention_rows, causal_tail
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="Video-XL-2: Towards Very Long-Video Understanding Through Task-Aware KV Sparsification",
    url="https://arxiv.org/abs/2506.19225",
    systems=("S073",),
    needs=("queries",),
    training="the model, to read averaged entries (it also runs without)",
    cost="attention of the window's queries, one mean",
    vectors=("videoxl2",),
)
class VideoXL2:
    """Dense and averaged chunks."""

    pieces = "end"  # the question comes last

    chunk: int = option(784, Range(1, kind=int), "visual tokens of a chunk")
    pool: int = option(4, Range(1, kind=int), "entries averaged into one where a chunk is not dense")
    best: float = option(
        0.25, Range(0, 1), "share of chunks that are dense, rounded up; the two at the ends come on top"
    )
    dense: tuple[int, ...] | None = option(None, Many(Range(0, kind=int)), "which chunks are dense instead, from 0")
    window: int = option(64, Range(1, kind=int), "how many last queries judge the chunks")
    variant: str = option("paper", OneOf(("paper", "code")), "average what pooling leaves over, or drop it")

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> m, the same in all heads, of different length in different rows."""
        b, n = entries.keys.shape[0], entries.n
        real = torch.ones(b, n, dtype=torch.bool, device=entries.keys.device)
        real = real if entries.valid is None else entries.valid
        visual = real if entries.visual is None else entries.visual & real
        part = torch.where(visual, (visual.cumsum(-1) - 1) // self.chunk, -1)
        return self.cut(part, self.chosen(part, entries), entries)

    def chosen(self, part: Tensor, entries: Entries) -> Tensor:
        """part (B, n): the chunk of each entry, -1 for none -> (B, chunks) bool, True for those that are dense."""
        count = part.amax(-1) + 1
        at = torch.arange(max(1, int(count.max())), device=part.device)
        ends = (at == 0) | (at == count[:, None] - 1)
        if self.dense is not None:
            return ends | torch.isin(at, torch.tensor(self.dense, device=part.device)) | (len(self.dense) == 0)
        score = self.interest(part, len(at), entries).masked_fill(at >= count[:, None], -torch.inf)
        order = score.argsort(dim=-1, descending=True, stable=True)
        rank = torch.empty_like(order).scatter(1, order, at.expand_as(order))
        return ends | (rank < (self.best * count).ceil()[:, None])

    def interest(self, part: Tensor, chunks: int, entries: Entries) -> Tensor:
        """Mean attention of the last queries on the entries of each chunk: (B, chunks)."""
        if entries.queries is None:
            raise SignalError("videoxl2 without dense=... needs the queries of the last prompt tokens; they are None")
        w = min(self.window, entries.n, entries.queries.shape[2])
        mask = causal_tail(w, entries.n, part.device)
        if entries.valid is not None:
            mask = mask & entries.valid[:, None, None]
        q = entries.queries[:, :, entries.queries.shape[2] - w :]
        paid = attention_rows(q, entries.keys, entries.scaling, mask).nan_to_num(0.0).mean((1, 2))
        spare = torch.where(part >= 0, part, chunks)
        zero = paid.new_zeros(len(part), chunks + 1)
        total, size = zero.scatter_add(1, spare, paid), zero.scatter_add(1, spare, torch.ones_like(paid))
        return (total / size.clamp(min=1))[:, :chunks]

    def cut(self, part: Tensor, dense: Tensor, entries: Entries) -> Reduction:
        """The entries left when chunk part (B, n) of each, -1 for none, is dense (B, chunks) or averaged."""
        g = entries.keys.shape[1]
        whole = dense.gather(1, part.clamp(min=0)) & (part >= 0)
        unit = pooled_units(part, whole, self.pool, self.variant == "paper")
        if entries.valid is not None:
            unit = unit.masked_fill(~entries.valid, -1)
        return average_units(unit.repeat_interleave(g, 0))
