"""GRT: tokens whose pixels did not change reuse the frame before, and key frames that repeat a scene are folded.

Zhang et al., "Dense Video Understanding with Gated Residual Tokenization", 2025.
https://arxiv.org/abs/2509.14199

A gate compares each patch with the same place one frame earlier; only patches that changed are embedded, the others
take the embedding that is there. Frames with many changed patches are key frames, and one that says the same as the key
frame before it is folded into that. Tokens are then ranked within their frame: by their length in key frames that
stand, by motion elsewhere.

The gate saves the embedding; here, after the tower, an unchanged token's earlier embedding simply stands for it (or,
with ``reuse="mean"``, their mean). The budget goes to changed patches of frames that are not folded, in proportion to
how many a frame has, and what is left to all others; the authors' code gives every frame equally many tokens
(``share="even"``), the share of them that is the share of frames left unfolded. Whether two key frames say the same is
their mean tokens' cosine; the authors compare what the LLM's output head makes of them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..method import Keep, OneOf, Range, method, option
from ..parts.budget import budget
from ..parts.film import Film
from ..parts.gating import gate
from ..parts.quota import share_out
from ..parts.regions import group_sizes
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="Dense Video Understanding with Gated Residual Tokenization",
    url="https://arxiv.org/abs/2509.14199",
    systems=("S042",),
    needs=("grid", "pixels"),
    cost="one pass over the pixels, a sort of n",
    vectors=("grt",),
)
class GRT:
    """Gated tokens and folded scenes."""

    keep: float | int = option(0.25, Keep(), "share (float) or number (int) of tokens left")
    threshold: float = option(0.3, Range(), "change of a patch that opens the gate, for pixel values from -1 to 1")
    metric: str = option("l2", OneOf(("l2", "ssim")), "what a change is: a distance, or a loss of structure")
    cut: float = option(0.35, Range(0, 1), "share of changed patches above which a frame is a key frame")
    fold: float = option(0.09, Range(0), "distance to the key frame before under which a key frame is folded")
    share: str = option("motion", OneOf(("motion", "even")), "how frames share the budget")
    reuse: str = option("first", OneOf(("first", "mean")), "what stands for unchanged tokens: the first, or their mean")

    def keys(self, film: Film, changed: Tensor) -> Tensor:
        """Key frames. changed (B, n) bool -> (B, F) bool; the first frame is one."""
        count = changed.new_zeros(film.sizes.shape, dtype=torch.long).scatter_add(1, film.frame, changed.long())
        key = count > self.cut * film.sizes
        key[:, 0] = True
        return key

    @staticmethod
    def earlier(key: Tensor) -> Tensor:
        """The key frame before each frame, -1 where there is none: (B, F) int64."""
        at = torch.arange(key.shape[1], device=key.device)
        latest = torch.where(key, at, -1).cummax(-1).values
        return torch.cat([torch.full_like(latest[:, :1], -1), latest[:, :-1]], 1)

    def folded(self, key: Tensor, apart: Tensor) -> Tensor:
        """Key frames that repeat the one before. apart (B, F): distance to that -> (B, F) bool."""
        return key & (self.earlier(key) >= 0) & (apart < self.fold)

    @staticmethod
    def score(film: Film, x: Tensor, motion: Tensor, stands: Tensor) -> Tensor:
        """x (B, n, D), motion (B, n), stands (B, F) bool: key frames that are not folded -> (B, n)."""
        length = x.float().norm(dim=-1)
        longest = film.laid(length).amax(-1).gather(1, film.frame)
        return torch.where(stands.gather(1, film.frame), 1 + length / longest.clamp(min=1e-12), motion)

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (B, n, D), grid (B, n, 3), pixels (B, n, 3, h, w) -> map to m tokens."""
        film, n = Film(tokens), tokens.n
        if not n:
            return Reduction.identity(len(tokens.x), n, tokens.x.device)
        patches, threshold = tokens.need("pixels").float().flatten(2), self.threshold
        if self.metric == "ssim":
            patches = patches / 127.5 - 1
        else:  # rather scale one number than all pixels
            threshold *= 127.5
        gated = gate(film, patches, threshold, self.metric)
        key, means = self.keys(film, gated.open), film.means(tokens.x)
        before = means.gather(1, self.earlier(key).clamp(min=0)[..., None].expand_as(means))
        folded = self.folded(key, 1 - cosine_similarity(means, before, dim=-1))
        score = self.score(film, tokens.x, gated.motion, key & ~folded)
        group, claim = film.frame, torch.ones(film.sizes.shape, device=means.device)
        if self.share == "motion":
            news = gated.open & ~folded.gather(1, film.frame)
            group = torch.where(news, film.frame, film.frames + film.frame)  # the others of a frame wait
            claim = torch.cat([group_sizes(group, 2 * film.frames)[:, : film.frames].clamp(min=1), 1e-9 * claim], 1)
        kept = share_out(score, group, claim, budget(self.keep, n))
        if self.reuse == "first":
            return Reduction.from_mask(kept)
        into = torch.where(kept.gather(1, gated.source), gated.source, -1)
        return Reduction.merge(torch.where(kept, torch.arange(n, device=kept.device), into), tokens.size)
