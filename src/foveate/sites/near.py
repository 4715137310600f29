"""While a prompt is read in pieces: visual tokens attend to their own piece and a few before it, words to everything.

Video-XL-2's prefill (Qin et al., 2025, https://arxiv.org/abs/2506.19225): full attention inside a chunk of the video,
sparse attention across chunks. What lies too far back is not read at all, so a piece costs the same however long the
video is. System prompt, timestamps and question are words: they see everything, and everything sees them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UnsupportedCallError
from ..parts.score import causal_tail
from ..parts.sparse_attention import grouped
from .funnel import Funnel
from .tap import Seen, Watch


class Near(Watch):
    """Watches one layer; ``reach``: how many pieces before its own a visual token sees."""

    reads = False

    def __init__(self, funnel: Funnel, layer: int, reach: int) -> None:
        self.funnel, self.layer, self.reach = funnel, layer, reach

    def before(self, seen: Seen) -> Tensor | None:
        """Refuses heads that hold different entries: attention over them is computed elsewhere."""
        call = self.funnel.current.get()
        held = None if call is None else call.held(self.layer)
        if call is not None and call.piece is not None and held is not None and held.ragged:
            raise UnsupportedCallError(
                f"reach={self.reach} cuts attention piece by piece, and the heads of layer {self.layer} hold different "
                "numbers of entries; use a cache method that gives each head the same budget, or leave reach out"
            )
        return seen.mask

    def instead(self, seen: Seen) -> Tensor | None:
        """The piece's attention over what it may see, (B, q, H, d); None where that is everything."""
        call = self.funnel.current.get()
        piece = None if call is None else call.piece
        held = None if call is None else call.held(self.layer)
        if call is None or piece is None or piece.numbers is None or held is None or held.window is not None:
            return None
        assert held.where is not None, "a layer that was just filled"
        far = _far(held.where, piece.numbers, piece.index - self.reach)
        if not bool(far.any()):
            return None
        q, heads = seen.q.shape[2], seen.q.shape[1]
        mask = causal_tail(q, seen.k.shape[2], seen.q.device)[None, None] if seen.mask is None else seen.mask
        near = ~far[:, :, None]  # (B, 1 or g, 1, n)
        near = near if near.shape[1] == 1 else near.repeat_interleave(heads // near.shape[1], 1)
        some = near.any(0).any(0)[0].nonzero()[:, 0]
        hidden = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        cut = torch.where(near[..., some], mask[..., some], torch.tensor(hidden, dtype=mask.dtype, device=mask.device))
        out = grouped(seen.q, seen.k.index_select(2, some), seen.v.index_select(2, some), seen.scaling, cut)
        words = (~call.visual).any(0).nonzero()[:, 0]
        if len(words):
            whole = grouped(seen.q[:, :, words], seen.k, seen.v, seen.scaling, mask[:, :, words])
            mine = ~call.visual[:, words, None, None]
            out[:, words] = torch.where(mine, whole, out[:, words])
        return out


def _far(where: Tensor, numbers: Tensor, first: int) -> Tensor:
    """where (B, 1 or g, n) positions, numbers (B, positions) the piece of each, -1 for words -> of an earlier piece."""
    table = torch.nn.functional.pad(numbers, (0, 1), value=-1)[:, None].expand(-1, where.shape[1], -1)
    number = table.gather(2, torch.where(where < 0, table.shape[2] - 1, where).long())
    return (number >= 0) & (number < first)
