"""Mustafar: drop the small numbers of every cached key and value, wherever they are.

Joo et al., "Mustafar: Promoting Unstructured Sparsity for KV Cache Pruning in LLM Inference", NeurIPS 2025.
https://arxiv.org/abs/2505.22913

In each token and head the numbers that are smallest in size become zero; the others are stored one after the other with
a bitmap that tells where they were. The newest ``recent`` entries stay whole.

``variant="code"`` is the published code: it drops one number fewer, keeps the ones that tie with the last one dropped
only as far as they fit, and of values leaves whole what is over after a multiple of ``recent``.
"""

from __future__ import annotations

from ..method import OneOf, Range, method, option
from ..stores.compact import Compact, Halves
from ..stores.packed import filled
from ..stores.sparse import Bitmap
from ..stores.stream import Coder, Stream
from ..tokens import Entries


@method(
    title="Mustafar: Promoting Unstructured Sparsity for KV Cache Pruning in LLM Inference",
    url="https://arxiv.org/abs/2505.22913",
    systems=("S082",),
    needs=(),
    cost="a sort of each entry's channels",
    vectors=("mustafar",),
)
class Mustafar:
    """Unstructured magnitude pruning."""

    sparsity: float = option(0.5, Range(0, 1), "share of a key's numbers that become zero")
    value_sparsity: float = option(0.5, Range(0, 1), "share of a value's numbers that become zero")
    recent: int = option(32, Range(1, kind=int), "newest entries that stay whole")
    variant: str = option("paper", OneOf(("paper", "code")), "the paper's rule, or the published code")

    def coder(self, sparsity: float, d: int) -> Coder:
        """Of entries with d channels."""
        gone = int(sparsity * d)
        return Bitmap(d - (max(0, gone - 1) if self.variant == "code" else gone))

    def pack(self, entries: Entries) -> Compact:
        """Keys and values (B, g, n, d), compressed."""
        keys, values = filled(entries.keys, entries.valid), filled(entries.values, entries.valid)
        step, hold = (self.recent, 0) if self.variant == "code" else (1, self.recent)
        return Halves(
            Stream(keys, self.coder(self.sparsity, keys.shape[3]), hold=self.recent),
            Stream(values, self.coder(self.value_sparsity, values.shape[3]), step, hold),
        )
