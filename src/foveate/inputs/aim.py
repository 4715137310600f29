"""AIM: halve the tokens of each frame, again and again, by merging those that are most alike.

Zhong et al., "AIM: Adaptive Inference of Multi-Modal LLMs via Token Merging and Pruning", ICCV 2025.
https://arxiv.org/abs/2412.03248

One round matches even to odd tokens by the features themselves and merges the most similar half; rounds follow until
the budget is met, the last one merging only what is missing. Means are taken over the slots of a round, whatever those
already stand for. The pruning inside the LLM is the method ``aim_prune``; "aim + aim_prune" is the whole.

Frames (views of the grid) that are equally long merge each for itself, and the budget is spread evenly; other tokens
merge as one. Departure from the authors' code: tokens stay in spatial order between rounds, so that even and odd stay
neighbours; ``variant="code"`` lists unmerged even tokens first, by falling similarity.
"""

from __future__ import annotations

from torch import Tensor

from ..method import Keep, OneOf, method, option
from ..parts.budget import budget
from ..parts.frames import even_frames, joined
from ..parts.merge import bipartite
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="AIM: Adaptive Inference of Multi-Modal LLMs via Token Merging and Pruning",
    url="https://arxiv.org/abs/2412.03248",
    systems=("S006",),
    needs=("features", "grid"),
    cost="one n/2 x n/2 similarity of each frame in the first round, a quarter of that in each further one",
    vectors=("aim", "aim_video"),
)
class AIM:
    """Iterative bipartite merging."""

    keep: float | int = option(0.25, Keep(), "share (float) or number (int) of visual tokens left after merging")
    variant: str = option("spatial", OneOf(("spatial", "code")), "how tokens are listed between rounds; see above")

    def rates(self, n: int, m: int) -> list[int]:
        """How many tokens each round merges away on the way from n to m."""
        out = []
        while n > m:
            out.append(min(n // 2, n - m))
            n -= out[-1]
        return out

    def merged(self, x: Tensor, rates: list[int]) -> Reduction:
        """One round for each rate. x (B, n, D) -> map to n less the sum of the rates."""
        whole = Reduction.identity(x.shape[0], x.shape[1], x.device)
        for rate in rates:
            match = bipartite(x, min(rate, x.shape[1] // 2))
            step = Reduction.merge(match.into)
            step = step.listed(match.order) if self.variant == "code" else step
            x, whole = step(x), whole.then(step)
        return whole

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D), tokens.grid (B, n, 3) -> map to m means."""
        x, m = tokens.x.float(), budget(self.keep, tokens.n)
        frames = even_frames(tokens.need("grid")[..., 0])
        if frames > m:
            frames = 1
        b, n, d = x.shape
        x = x.reshape(b, frames, n // frames, d)
        share, more = divmod(m, frames)  # the first frames keep one token more
        parts = [(x[:, :more], share + 1), (x[:, more:], share)]
        maps = [
            joined(self.merged(part.flatten(0, 1), self.rates(n // frames, left)), b)
            for part, left in parts
            if part.shape[1]
        ]
        return Reduction.cat(maps) if len(maps) > 1 else maps[0]
