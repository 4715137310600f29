"""HoliTom: cut the clip where most is saved, average what stands still, keep what is looked at, cluster the rest.

Shao et al., "HoliTom: Holistic Token Merging for Fast Video Large Language Models", NeurIPS 2025.
https://arxiv.org/abs/2505.21334

Dynamic programming chooses windows of frames so that most tokens are saved by averaging the places that stay the same
all through their window. Of what is left, still tokens are clustered around density peaks within their window, and in
each frame the others that the encoder looks at stay (a share of them may be clusters instead). The merging inside the
LLM is the method ``holitom_merge``; "holitom + holitom_merge" is the whole.

Departures: an averaged token stands where its first frame had it. The budget is met exactly, each window and frame by
its size; where averaging saves more than asked, the tokens that changed most stand alone. ``variant="code"`` rounds in
each window and frame as the authors' code does. The code draws noise to break ties of density; here the earlier wins.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import budget
from ..parts.clip import Averaged, Clip, blend, spared
from ..parts.density_peaks import grouped_peaks
from ..parts.quota import seats
from ..parts.scenes import best_windows, lasting
from ..parts.signals import attention
from ..reduction import Reduction
from ..tokens import Tokens


class Parts(NamedTuple):
    """One video's map, segment (F,), how much of what averaging leaves is kept, and still, seen (n,) bool."""

    map: Reduction
    segment: Tensor
    ratio: float
    still: Tensor
    seen: Tensor


@method(
    title="HoliTom: Holistic Token Merging for Fast Video Large Language Models",
    url="https://arxiv.org/abs/2505.21334",
    systems=("S031",),
    needs=("grid", "cls_attention|received_attention"),
    cost="one cosine a token, frames x frames sums, similarities within each window's still places",
    vectors=("holitom",),
)
class HoliTom:
    """Windows by dynamic programming, averages over time, selection and clusters within frames."""

    keep: float | int = option(0.15, Keep(), "share (float) or number (int) of visual tokens left")
    tau: float = option(0.8, Range(-1, 1), "cosine with the frame before above which a place stays the same")
    window: int = option(1024, Range(1, kind=int), "most frames of a window")
    clusters: float = option(0.0, Range(0, 1), "share of a frame's other tokens that are clusters, not selected")
    neighbours: int = option(7, Range(1, kind=int), "tokens that make up a density")
    beta: float = option(0.6, Range(0, 1), "weight of a cluster's centre, the rest is shared by the other members")
    plain: bool = option(False, OneOf((False, True)), "all members of a cluster weigh the same, the centre too")
    variant: str = option("paper", OneOf(("paper", "code")), "budget met exactly, or rounded as in the authors' code")

    def parts(self, x: Tensor, grid: Tensor, score: Tensor) -> Parts:
        """One video: x (n, D), grid (n, 3), score (n,) how much each token is looked at."""
        clip = Clip(x, grid)
        same = clip.likeness() > self.tau
        segment = best_windows(same, self.window)
        still = lasting(same, segment)
        exact, n = self.variant != "code", clip.n
        m = budget(self.keep, n)
        if exact:
            still = spared(clip, segment, still, m)
        groups = Averaged(clip, segment, still)
        left, sizes = int(groups.sizes.sum()), groups.sizes.tolist()
        share = self.keep if isinstance(self.keep, float) else self.keep / n
        ratio = min(share / (left / n), 1.0)
        if exact:
            counts = seats(groups.sizes, groups.sizes, m)
        else:
            rounded = [round(s * ratio) if g < groups.segments else math.ceil(s * ratio) for g, s in enumerate(sizes)]
            counts = torch.tensor(rounded, device=x.device)
        first = [0 if g < groups.segments else round(c * (1 - self.clusters)) for g, c in enumerate(counts.tolist())]
        order = groups.laid(score.float(), -torch.inf).argsort(stable=True, dim=-1, descending=True)
        rank = torch.empty_like(order).scatter(1, order, torch.arange(clip.places, device=x.device).expand_as(order))
        seen = groups.there & (rank < torch.tensor(first, device=x.device)[:, None])
        rest = counts - seen.sum(-1)
        into = grouped_peaks(groups.x, groups.there & ~seen, rest, rest.clamp(max=self.neighbours)).into
        into = torch.where(seen, torch.arange(clip.places, device=x.device), into)
        out = groups.joined(into, blend(into, None if self.plain else self.beta))
        return Parts(out, segment, ratio, groups.still, seen.flatten()[groups.cell])

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.grid (B, n, 3), cls_attention (B, H, n) or received_attention (B, n) -> averages of m groups."""
        rows = zip(tokens.x, tokens.need("grid"), attention(tokens))
        return Reduction.stack([self.parts(*row).map for row in rows])
