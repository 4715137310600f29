"""B-VLLM: fold frames into earlier ones they resemble, then merge the tokens of each frame.

Lu et al., "B-VLLM: A Vision Large Language Model with Balanced Spatio-Temporal Tokens", ICCV 2025.
https://arxiv.org/abs/2412.09919

Frames that repeat an earlier one are averaged into it, place by place, which leaves more of the budget to each of the
others; their tokens are then merged by similarity, half of them at a time, until the budget is met.

Departures: the learnt selection of frames by the question, and the learnt sampler of tokens, are not part of it. Frames
are compared by their mean token. Folding stops where it would leave fewer tokens than the budget. A frame whose match
is folded itself follows it; in the authors' code it is lost with it (``variant="code"``). Tokens without a counterpart
in the frame they would be folded into stay.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..method import Keep, OneOf, Range, method, option
from ..parts.areas import members, seats
from ..parts.budget import budget
from ..parts.film import Film
from ..parts.stepwise import long_halvings, merged_down
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="B-VLLM: A Vision Large Language Model with Balanced Spatio-Temporal Tokens",
    url="https://arxiv.org/abs/2412.09919",
    systems=("S032",),
    needs=("grid", "features"),
    training="the selection of frames and the model (folding and merging run without)",
    cost="one frames x frames similarity, products of halves of each frame",
    vectors=("bvllm",),
)
class BVLLM:
    """Folding of frames, then merging inside them."""

    keep: float | int = option(0.25, Keep(), "share (float) or number (int) of visual tokens left")
    threshold: float = option(0.75, Range(0, 1), "frames fold when (cosine + 1) / 2 is above it")
    variant: str = option("paper", OneOf(("paper", "code")), "what becomes of a folded frame's own matches; see above")

    def fold(self, metric: Tensor, sizes: Tensor, room: int | None = None) -> Tensor:
        """metric (B, F, d), sizes (B, F) of the frames -> the frame each goes to, itself, or -1 if lost: (B, F).

        room: how many tokens may go at most; the most similar frames go first.
        """
        frames = metric.shape[1]
        at = torch.arange(frames, device=metric.device)
        unit = normalize(metric.float(), dim=-1)
        like = (unit @ unit.mT + 1) / 2
        usable = (sizes > 0)[:, None] & (at < at[:, None])
        best, match = like.masked_fill(~usable, 0).max(-1)
        goes = (best > self.threshold) & (sizes > 0)
        if room is not None:
            order = best.masked_fill(~goes, -1).argsort(stable=True, dim=-1, descending=True)
            used = (sizes * goes).gather(1, order).cumsum(-1)
            goes = goes & (torch.zeros_like(used).scatter(1, order, used) <= room)
        into = torch.where(goes, match, at)
        if self.variant == "code":
            return into.masked_fill(goes.gather(1, into), -1)
        for _ in range(max(1, frames.bit_length())):  # a match of a match of a match
            into = into.gather(1, into)
        return into

    def folded(self, film: Film, tokens: Tokens, room: int) -> Tensor:
        """The position each token folds into, itself where it stays, or -1: (B, n)."""
        frame = self.fold(film.means(tokens.x), film.sizes, room)
        target = film.table.gather(1, frame.clamp(min=0)[..., None].expand_as(film.table))
        target = torch.where(target >= 0, target, film.table)  # no counterpart
        return film.picked(target.masked_fill(frame[..., None] < 0, -1))

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D), tokens.grid (B, n, 3) -> map to the merged tokens of each frame left."""
        film, m = Film(tokens), budget(self.keep, tokens.n)
        into = self.folded(film, tokens, tokens.n - m)
        at = torch.arange(tokens.n, device=into.device)
        group = torch.where(into == at, film.frame, film.frames)  # what is folded comes last
        held = torch.zeros_like(into).scatter_add(1, into.clamp(min=0), (into >= 0).long())
        share = (into >= 0) / held.gather(1, into.clamp(min=0)).clamp(min=1)
        x = torch.zeros_like(tokens.x, dtype=torch.float32)
        wide = into.clamp(min=0)[..., None].expand_as(x)
        x = x.scatter_add(1, wide, tokens.x.float() * share[..., None])
        size = members(group, film.frames + 1)
        claim = size.float().index_fill(1, torch.tensor([film.frames], device=size.device), 0.0)
        count = seats(group, claim, m)[:, : film.frames]
        final, part = merged_down(x, group.masked_fill(into != at, -1), count, long_halvings)
        part = part.gather(1, into.clamp(min=0)) * share
        return Reduction.merge(final.gather(1, into.clamp(min=0)).masked_fill(into < 0, -1), part)
