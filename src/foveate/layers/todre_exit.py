"""ToDRE, second stage: once the text hardly looks at the image any more, drop all visual tokens.

Li et al., "ToDRE: Visual Token Pruning via Diversity and Task Awareness for Efficient Large Vision-Language Models",
2025.
https://arxiv.org/abs/2505.18757

Deep in the LLM what the image says has moved into the text tokens. Before each layer of the second half the share of
attention that the text paid to visual tokens in the layer before is compared with a threshold; below it, they all leave
for good. Before that nothing leaves. The first stage is ``todre``; the paper runs both, "todre + todre_exit".

No code was published; the paper's threshold is not in its abstract, so both options are ours.
"""

from __future__ import annotations

from ..method import Range, method, option
from ..parts.score import text_rows
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="ToDRE: Visual Token Pruning via Diversity and Task Awareness for Efficient Large Vision-Language Models",
    url="https://arxiv.org/abs/2505.18757",
    systems=("S010",),
    needs=("last_heads",),
    cost="the text's attention rows of the layers it may act at",
    exempt={"few_tokens": "it drops all tokens or none"},
)
class ToDREExit:
    """All or none, by the attention that is still paid to the image."""

    start: float = option(0.5, Range(0, 1, open_low=True), "share of the LLM's depth before which nothing is dropped")
    below: float = option(0.05, Range(0, 1), "drop all when the text pays less than this share of its attention")

    def at(self, layers: int) -> tuple[int, ...]:
        """Every layer from ``start`` on, but not the first."""
        return tuple(range(max(1, round(self.start * layers)), layers))

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.q (B, H, L, d), k (B, g, L, d), where (B, n), asks (B, t) -> all n, or none."""
        q, k, where, asks = tokens.need("q"), tokens.need("k"), tokens.need("where"), tokens.need("asks")
        paid = text_rows(q, k, asks, where).sum(-1).mean((1, 2))  # (B,)
        return Reduction.from_mask((paid >= self.below)[:, None].expand(-1, tokens.n))
