"""FastVID: cut the clip at its breaks, keep what is looked at, let anchors in some frames stand for the rest.

Shen et al., "FastVID: Dynamic Density Pruning for Fast Video Large Language Models", NeurIPS 2025.
https://arxiv.org/abs/2503.11187

Segments end where neighbouring frames differ most. In each frame the tokens that the encoder looks at most stay. What
else a segment may keep are density peaks of its last frame and every p-th before: each token that did not stay joins
the most similar anchor of every such frame, and an anchor becomes a weighted mean of itself and the mean of its tokens.

Departures: a frame is described by the mean of its tokens (the code takes the encoder's pooled output). The budget is
met exactly, frames share it by their sizes; where anchor frames have no room, the most looked-at tokens of the others
stay. ``variant="code"`` rounds down as the authors' code does. The code draws noise to break ties of density; here the
earlier wins.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import budget
from ..parts.clip import Clip
from ..parts.density_peaks import peaks
from ..parts.entries import from_entries
from ..parts.quota import seats
from ..parts.scenes import breaks
from ..parts.signals import attention
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="FastVID: Dynamic Density Pruning for Fast Video Large Language Models",
    url="https://arxiv.org/abs/2503.11187",
    needs=("grid", "cls_attention|received_attention"),
    cost="similarities within anchor frames, and of each segment's tokens with its anchors",
    vectors=("fastvid",),
)
class FastVID:
    """Segments, salient tokens, and density peaks that take in the rest."""

    keep: float | int = option(0.1, Keep(), "share (float) or number (int) of visual tokens left")
    segments: int = option(8, Range(1, kind=int), "segments that there are at least")
    tau: float = option(0.9, Range(-1, 1), "cosine of neighbouring frames below which there is always a cut")
    anchors: float = option(0.4, Range(0, 1), "share of the tokens left that are anchors")
    step: int = option(4, Range(1, kind=int), "anchors lie in the last of so many frames")
    beta: float = option(0.6, Range(0, 1), "least weight of an anchor against the tokens that join it")
    variant: str = option("paper", OneOf(("paper", "code")), "budget met exactly, or rounded as in the authors' code")

    def segmented(self, frames: Tensor) -> Tensor:
        """The segment of each frame. frames (F, D) -> (F,) int64 from 0."""
        return breaks(frames, self.segments - 1, self.tau)

    def counts(self, sizes: list[int], segment: list[int]) -> tuple[list[int], list[int], list[bool]]:
        """For each frame: tokens that stay, anchors, and whether anchors serve its whole segment. sizes: its tokens."""
        code, room = self.variant == "code", torch.tensor(sizes)
        if code:
            share = self.keep if isinstance(self.keep, float) else self.keep / sum(sizes)
            left = [int(s * share) for s in sizes]
        else:
            left = seats(room, room, budget(self.keep, sum(sizes))).tolist()
        stay = [k - int(k * self.anchors) for k in left]
        anchors, wide = [0] * len(sizes), [False] * len(sizes)
        for s in range(segment[-1] + 1):
            own = [f for f, k in enumerate(segment) if k == s]
            to = [f for f in own if (own[-1] - f) % self.step == 0]
            total = sum(left[f] - stay[f] for f in own)
            free = torch.tensor([sizes[f] - stay[f] for f in to])
            each = seats(torch.ones(len(to)), free, min(total, int(free.sum()))).tolist()
            for f, k, most in zip(to, each, free.tolist()):
                anchors[f] = min(total // len(to), most) if code else k
                wide[f] = anchors[f] > left[f] - stay[f] if code else len(to) < len(own)
            if not code and (more := total - sum(each)):
                rest = [f for f in own if f not in to]
                free = torch.tensor([sizes[f] - stay[f] for f in rest])
                for f, k in zip(rest, seats(free, free, more).tolist()):
                    stay[f] += k
        return stay, anchors, wide

    def merged(self, clip: Clip, score: Tensor, segment: Tensor) -> Reduction:
        """One video: score (n,) how much each token is looked at, segment (F,)."""
        device = clip.x.device
        stay, anchors, wide = self.counts(clip.sizes.tolist(), segment.tolist())
        order = clip.laid(score.float(), -torch.inf).argsort(stable=True, dim=-1, descending=True)
        rank = torch.empty_like(order).scatter(1, order, torch.arange(clip.places, device=device).expand_as(order))
        seen = clip.there & (rank < torch.tensor(stay, device=device)[:, None])
        rest = clip.there & ~seen
        kept = [clip.table[seen]]
        owner, token, share = [kept[0]], [kept[0]], [torch.ones(len(kept[0]), device=device)]
        to = torch.tensor(anchors, device=device).nonzero()[:, 0]
        if len(to):
            peak = peaks(clip.laid(clip.x.float())[to], rest[to], 4)[0].argsort(stable=True, dim=-1, descending=True)
            unit, frames = normalize(clip.x.float(), dim=-1), torch.arange(clip.frames, device=device)
            for f, strongest in zip(to.tolist(), peak):
                anchor = clip.table[f, strongest[: anchors[f]]]
                rows = segment == segment[f] if wide[f] else frames == f
                member = clip.table[rows][rest[rows]]
                joins = (unit[member] @ unit[anchor].mT).argmax(-1)
                count = joins.bincount(minlength=len(anchor))
                own = (1 / (count + 1)).clamp(min=self.beta).masked_fill(count == 0, 1)
                kept.append(anchor)
                owner += [anchor, anchor[joins]]
                token += [anchor, member]
                share += [own, ((1 - own) / count.clamp(min=1))[joins]]
        keep = torch.cat(kept).sort().values
        return from_entries(clip.n, keep, torch.cat(owner), torch.cat(token), torch.cat(share))

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.grid (B, n, 3), cls_attention (B, H, n) or received_attention (B, n) -> m tokens, some mixed."""
        b, n = tokens.x.shape[:2]
        if budget(self.keep, n) == n:
            return Reduction.identity(b, n, tokens.x.device)
        rows = []
        for x, grid, score in zip(tokens.x, tokens.need("grid"), attention(tokens)):
            clip = Clip(x, grid)
            rows.append(self.merged(clip, score, self.segmented(clip.means())))
        return Reduction.stack(rows)
