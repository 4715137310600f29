"""Entries that are all kept, of which some layers read only the pages that a layer before them picked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from ..parts.budget import floor_budget
from ..parts.pages import page_scores, pick_pages
from .compact import Halves
from .stream import Whole


@dataclass
class Picks:
    """What the last selection layer picked. pages (B, m) ascending, -1 where there are no more; n: entries it saw."""

    pages: Tensor | None = None
    n: int = -1


class Paged(Halves):
    """A :class:`foveate.stores.compact.Compact` of one layer.

    Args:
        keys, values: (B, g, n, d).
        picks: shared by the layers of one group.
        selects: whether this layer reads everything and picks, or reads what was picked.
        page: entries of a page; ``recent`` newest pages are always read.
        keep: share or number of entries that are read of what was picked, the newest pages included.
    """

    anywhere = True  # what is not read costs time on every device

    def __init__(
        self, keys: Tensor, values: Tensor, picks: Picks, selects: bool, page: int, keep: float | int, recent: int
    ) -> None:
        self.whole = Whole(keys), Whole(values)
        super().__init__(*self.whole)
        self.picks, self.selects, self.page, self.keep, self.recent = picks, selects, page, keep, recent
        self.reads = 0  # entries that the latest token read, its own not counted

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """Attention of one token over everything, or over the pages that were picked for it, and over itself.

        q (B, H, 1, d), keys and values (B, g, 1, d) of the token, which are not held yet -> (B, H, 1, d').
        """
        k, v = (side.x for side in self.whole)
        n = k.shape[2]
        at = (
            None if self.selects or self.picks.n != n or self.picks.pages is None else self._tokens(self.picks.pages, n)
        )
        if at is not None:
            k, v = (t.gather(2, at[:, None, :, None].expand(-1, t.shape[1], -1, t.shape[3])) for t in (k, v))
        self.reads = k.shape[2]
        k, v = torch.cat([k, keys], 2), torch.cat([v, values], 2)
        b, h, _, d = q.shape
        queries = q.view(b, k.shape[1], -1, d)  # query heads of one KV head, as if they were more queries
        if not self.selects:
            return scaled_dot_product_attention(queries, k, v, scale=scaling).view(b, h, 1, -1)
        p = (queries.float() @ k.float().mT * scaling).softmax(-1)
        if n:
            self._pick(p.reshape(b, h, -1)[..., :n], n)
        return (p @ v.float()).view(b, h, 1, -1).to(q.dtype)

    def _pick(self, p: Tensor, n: int) -> None:
        """Pages for the layers that follow, from the attention p (B, H, n) on what is held."""
        score = page_scores(pad(p, (0, -p.shape[-1] % self.page)), self.page)
        used = torch.full((len(p),), score.shape[1], device=p.device)
        want = self.keep if isinstance(self.keep, int) else floor_budget(self.keep, n)
        m = min(score.shape[1], max(1, self.recent, -(-want // self.page)))
        self.picks.pages, self.picks.n = pick_pages(score, used, m, max(1, self.recent)), n

    def _tokens(self, pages: Tensor, n: int) -> Tensor:
        """pages (B, m), the newest among them in every row -> (B, t) entries on them, the same number in every row."""
        at = (pages[:, :, None] * self.page + torch.arange(self.page, device=pages.device)).flatten(1)
        return at[at < n].view(len(pages), -1)
