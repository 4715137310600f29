"""DHSA: while the prompt is read, each block of queries attends to the chunks of the past that are most like it.

Xiong et al., "Long-Context Modeling with Dynamic Hierarchical Sparse Attention for On-Device LLMs", 2025.
https://arxiv.org/abs/2510.24606

The sequence is cut into chunks of uneven length. Blocks of queries and chunks of keys are averaged and scaled by the
root of their length, their products are given to every token of a chunk, and a block attends to the ``attend`` tokens
that score highest, the newest ``local`` ones always among them. Attention over those is exact. Nothing is evicted: the
cache holds the whole prompt, and decoding reads all of it. So prefill gets cheaper, and memory for scores smaller.

The authors predict with a trained network where chunks end; its weights are not published in a form that could be
checked. Here a chunk ends where one key is least like the next (``cut="change"``), or after a fixed number of tokens
(``cut="fixed"``), as in the later version of the authors' code. Layers with sliding windows, prompts that go on from a
cache and later steps read as always; a prompt that is read in pieces cannot be sparse as well.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, pad

from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import floor_budget
from ..parts.sparse_chunks import boundaries, chunk_similarity, pick_tokens
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="Long-Context Modeling with Dynamic Hierarchical Sparse Attention for On-Device LLMs",
    url="https://arxiv.org/abs/2510.24606",
    systems=("S097",),
    needs=(),
    training="the network that predicts where chunks end (it runs without)",
    cost="products of n / block with n / chunk means, a sort of n for each block; attention over `attend` of n",
    vectors=("dhsa",),
)
class DHSA:
    """Sparse attention while a prompt is read."""

    pieces = "end"

    attend: float | int = option(0.25, Keep(), "share (float) or number (int) of tokens that a block attends to")
    block: int = option(64, Range(1, kind=int), "queries that choose together")
    chunk: int = option(32, Range(1, kind=int), "tokens of a chunk, on average")
    local: int = option(64, Range(0, kind=int), "newest tokens that are always attended to; a block's own always are")
    cut: str = option("change", OneOf(("change", "fixed")), "where chunks end: where keys change most, or evenly")
    pooling: str = option("avgpool_norm", OneOf(("avgpool_norm", "avgpool", "maxpool")), "how blocks become one query")

    def picks(self, q: Tensor, k: Tensor) -> Tensor | None:
        """Which tokens each block of queries attends to, before causality.

        q (H, n, d) and k (g, n, d) of one prompt -> (n / block, m) ascending positions, or None: all of them.
        """
        n = k.shape[1]
        m = self.attend if isinstance(self.attend, int) else floor_budget(self.attend, n)
        m = max(m, self.block)  # a token always sees itself
        if m >= n:
            return None
        bounds = self.bounds(k)
        blocks = pad(q, (0, 0, 0, -n % self.block))
        score = chunk_similarity(blocks, k, bounds, self.block, self.pooling, n)
        return pick_tokens(score, bounds, self.block, m, max(self.local, self.block))

    def bounds(self, k: Tensor) -> Tensor:
        """k (g, n, d) -> (chunks + 1,) where chunks start, and the end."""
        n = k.shape[1]
        if self.cut == "fixed":
            return torch.tensor([*range(0, n, self.chunk), n], device=k.device)
        mean = k.float().mean(0)
        change = pad(1 - cosine_similarity(mean[:-1], mean[1:], dim=-1), (0, 1), value=-1.0)
        return boundaries(change, max(1, n // self.chunk), apart=self.chunk // 4)

    def reduce(self, entries: Entries) -> Reduction:
        """Nothing is evicted: (B * g, n) -> n."""
        b, g, n, _ = entries.keys.shape
        return Reduction.identity(b * g, n, entries.keys.device)
