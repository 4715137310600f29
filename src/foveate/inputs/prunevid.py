"""PruneVid: average what stands still in each scene, then cluster similar tokens within scenes and frames.

Huang et al., "PruneVid: Visual Token Pruning for Efficient Video Large Language Models", Findings of ACL 2025.
https://arxiv.org/abs/2412.16117

Frames are clustered by their mean tokens around density peaks; scenes are the clusters' longest runs. A place is still
if its tokens in a scene are alike, and is then averaged over the scene. Whatever still makes a group of many (the still
tokens of a scene, the others of one frame) is clustered the same way into means. The question decides inside the LLM:
that is the method ``prunevid_prune``; "prunevid + prunevid_prune" is the whole.

Departures: an averaged token stands where its first frame had it, and clusters stand in line (the code lists the
strongest first). ``keep`` gives a budget instead of a share for each group: groups get it by their sizes, and where
averaging saves more than asked, the tokens that changed most stand alone. The code draws noise to break ties of
density; here the earlier wins.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..method import Keep, Range, method, option
from ..parts.budget import budget
from ..parts.clip import Averaged, Clip, blend, spared
from ..parts.density_peaks import density_peaks, grouped_peaks
from ..parts.quota import seats
from ..parts.scenes import steady_runs
from ..reduction import Reduction
from ..tokens import Tokens


class Parts(NamedTuple):
    """One video's map, cluster and scene of each frame (F,), and of each token if it is still and its rank (n,)."""

    map: Reduction
    label: Tensor
    segment: Tensor
    still: Tensor
    rank: Tensor


@method(
    title="PruneVid: Visual Token Pruning for Efficient Video Large Language Models",
    url="https://arxiv.org/abs/2412.16117",
    needs=("grid",),
    cost="similarities of frames with frames, and of tokens within each frame",
    vectors=("prunevid",),
)
class PruneVid:
    """Scenes by clustering frames, averages over time, clusters over space."""

    keep: float | int | None = option(None, Keep(), "share (float) or number (int) of tokens left; default: by group")
    tau: float = option(0.8, Range(-1, 1), "mean cosine between frames above which a place is still")
    scenes: float = option(0.25, Range(0, 1, open_low=True), "clusters of frames for each frame")
    clusters: float = option(0.5, Range(0, 1, open_low=True), "clusters for each token of a large group")
    small: int = option(14, Range(0, kind=int), "tokens that a group may have without being clustered")
    neighbours: int = option(7, Range(1, kind=int), "frames, and tokens, that make up a density")
    near: int | None = option(None, Range(1, kind=int), "the same for frames, if another number")

    def parts(self, x: Tensor, grid: Tensor) -> Parts:
        """One video: x (n, D), grid (n, 3)."""
        clip, n = Clip(x, grid), len(x)
        count = max(1, int(clip.frames * self.scenes))
        label = density_peaks(clip.means()[None], count, self.near or self.neighbours).label[0]
        segment = steady_runs(label.tolist()).to(x.device)
        still = alike(clip, segment, self.tau)
        m = None if self.keep is None else budget(self.keep, n)
        if m is not None:
            still = spared(clip, segment, still, m)
        groups = Averaged(clip, segment, still)
        if m is None:
            fewer = [s if s <= self.small else max(1, int(s * self.clusters)) for s in groups.sizes.tolist()]
            counts = torch.tensor(fewer, device=x.device)
        else:
            counts = seats(groups.sizes, groups.sizes, m)
        into, rank = grouped_peaks(groups.x, groups.there, counts, self.neighbours)
        out = groups.joined(into, blend(into))
        return Parts(out, label, segment, groups.still, rank.flatten()[groups.cell])

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.grid (B, n, 3) -> means of groups."""
        return Reduction.stack([self.parts(*row).map for row in zip(tokens.x, tokens.need("grid"))])


def alike(clip: Clip, segment: Tensor, tau: float) -> Tensor:
    """Which tokens stand at a place whose tokens in their segment have a mean cosine above tau: (F, P) bool."""
    unit = clip.laid(normalize(clip.x.float(), dim=-1))
    s = int(segment[-1]) + 1
    total = unit.new_zeros(s, *unit.shape[1:]).index_add(0, segment, unit)
    count = unit.new_zeros(s, clip.places).index_add(0, segment, clip.there.float())
    mean = (total.square().sum(-1) - count) / (count * (count - 1)).clamp(min=1)  # over pairs of different frames
    return ((mean > tau) & (count > 1))[segment] & clip.there
