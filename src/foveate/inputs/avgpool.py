"""AvgPool: average neighbouring visual tokens, the simplest compressor.

Chen et al., "LLaVolta: Efficient Multi-modal Models via Stage-wise Visual Context Compression", NeurIPS 2024.
https://arxiv.org/abs/2406.20092

The paper finds plain average pooling a strong visual compressor. Here the budget may be any number: the flattened
sequence is cut into m runs whose lengths differ by at most one, and each run is averaged into its first token. The form
with a fixed stride inside the LLM is a method of its own.
"""

from __future__ import annotations

import torch

from ..method import Keep, method, option
from ..parts.budget import budget
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="LLaVolta: Efficient Multi-modal Models via Stage-wise Visual Context Compression",
    url="https://arxiv.org/abs/2406.20092",
    systems=("S046",),
    cost="one pass over the tokens",
)
class AvgPool:
    """Average pooling over runs of the flattened sequence."""

    keep: float | int = option(0.25, Keep(), "share (float) or number (int) of tokens left after pooling")

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D) -> map to m means."""
        n, m = tokens.n, budget(self.keep, tokens.n)
        at = torch.arange(n, device=tokens.x.device)
        run = at * m // n
        first = (torch.arange(m, device=at.device) * n + m - 1) // m  # the smallest position of each run
        return Reduction.merge(first[run].expand(tokens.x.shape[0], -1), tokens.size)
