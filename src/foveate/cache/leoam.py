"""LeoAM: cached entries on device, host and disk; abstracts of chunks tell which of them a step fetches.

Sun et al., "Breaking the Boundaries of Long-Context LLM Inference: Adaptive KV Management on a Single Commodity GPU",
2025. https://arxiv.org/abs/2506.20187

Few entries get most of the attention, and which ones is known from little: the largest and smallest key channels of a
chunk bound its logits. Whole groups of ``coarse`` chunks that cannot hold one of the entries looked for are left out at
once, and only where attention may be are single chunks looked at, so chunks are small where it is skewed. Fetched
chunks are attended to exactly. Nothing is evicted: an entry that lies on disk comes back when a query asks for it.

The budget is met by the highest bounds, with the sinks' chunk always among them, and one set of chunks serves all heads
of a layer. Of the paper's pipeline the operating system's read-ahead is used. ``bits`` compresses chunks that leave the
device, to the same width on both tiers (the paper's is chosen as it runs); attention over them is then no longer exact,
and what came back to the device stays as it was coded. The sparse steps are those that decode one token of an unpadded
batch on SDPA or FlashAttention; other steps read everything, and are exact over what is held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.evict_heads import received
from ..stores.compact import Compact
from ..stores.packed import filled
from ..stores.tiered import Tiered
from ..tokens import Entries


@dataclass(frozen=True)
class Folder:
    """A path, or nothing."""

    def fits(self, value: Any) -> bool:
        return isinstance(value, str)

    def __str__(self) -> str:
        return "a path of a folder, or '' for the system's temporary folder"

    def bad(self) -> list[Any]:
        return [3]


@method(
    title="Breaking the Boundaries of Long-Context LLM Inference: Adaptive KV Management on a Single Commodity GPU",
    url="https://arxiv.org/abs/2506.20187",
    systems=("S094",),
    needs=("queries",),
    cost="largest and smallest channels of each chunk; each step their products with the queries, and what it fetches",
)
class LeoAM:
    """Three tiers and abstracts of chunks."""

    keep: float | int = option(0.1, Keep(), "share (float) or number (int) of entries that a step fetches")
    chunk: int = option(32, Range(1, kind=int), "tokens of a chunk")
    coarse: int = option(8, Range(1, kind=int), "how many chunks are ruled out together")
    device: float | int = option(0.1, Keep(), "share or number of entries that stay in the device's memory")
    host: float | int = option(0.2, Keep(), "share or number of entries that stay in the host's memory")
    recent: int = option(32, Range(1, kind=int), "newest entries that are in no chunk, and always attended to")
    window: int = option(32, Range(1, kind=int), "how many last queries tell what is kept near at first")
    bits: int | None = option(None, OneOf((2, 3, 4, 8)), "bits of a number away from the device; None: as they are")
    folder: str = option("", Folder(), "where files are put; '' for the system's temporary folder")

    def pack(self, entries: Entries) -> Compact:
        """Keys and values (B, g, n, d), on three tiers."""
        heat: Tensor | None = None
        if entries.queries is not None:
            heat = received(entries).mean(1)
            heat = torch.where(heat.isfinite(), heat, 0) / heat.sum(-1, keepdim=True).clamp(min=1e-9)
        return Tiered(
            filled(entries.keys, entries.valid),
            filled(entries.values, entries.valid),
            size=self.chunk,
            fan=self.coarse,
            keep=self.keep,
            device=self.device,
            host=self.host,
            recent=self.recent,
            heat=heat,
            folder=self.folder,
            bits=self.bits,
        )
