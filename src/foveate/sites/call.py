"""What is known about one run of the decoder while its layers run: which tokens are left, and where they stand."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..report import Row
from ..stores.held import HeldLayer
from .signals import Columns


@dataclass(frozen=True)
class Heads:
    """Queries and keys of one layer's attention on the tokens of a call, queries scaled.

    Attributes:
        q, k: (B, H, m, d) and (B, g, m, d).
        past: (B, g, P, d) keys of what was seen before, and ``visible`` (B, P) bool: where they are no padding.
    """

    q: Tensor
    k: Tensor
    past: Tensor
    visible: Tensor

    def pick(self, order: Tensor) -> Heads:
        """Those of the tokens left; order (B, m')."""
        return Heads(pick(self.q, order, dim=2), pick(self.k, order, dim=2), self.past, self.visible)


@dataclass(frozen=True)
class Piece:
    """What a call that is a part of a longer one knows about it.

    Attributes:
        prefill: whether the longer one began with an empty cache.
        last: whether this is its last part.
        whole: the longer one.
        left: by layer, entries and bytes held after the part before this one; kept by who shortens the cache.
        visual: (B, positions) bool, where the longer one's visual tokens stand, or None if it is no prefill.
        index: its number among the parts.
        numbers: (B, positions) int, the part that each visual token read so far is in, -1 for all else; as ``visual``.
    """

    prefill: bool
    last: bool
    whole: Call
    left: dict[int, tuple[int, int]]
    visual: Tensor | None = None
    index: int = 0
    numbers: Tensor | None = None

    @property
    def total(self) -> int:
        """Tokens of the longer one in each row, padding included."""
        return self.whole.m


@dataclass
class Call:
    """One forward of the decoder.

    Attributes:
        b, n: rows, and tokens given to the decoder.
        cache: the cache it fills, or None.
        first: True when the cache held nothing before.
        index: (B, m) positions, among the n, of the tokens left (padding where ``kept`` is False).
        kept: (B, m) bool; False at padding.
        visual: (B, m) bool; True at visual tokens that may be dropped.
        ends: (B, m) bool; True at placeholders that only end a line, or None where there are none.
        where: (B, m) positions of the tokens left in the whole sequence seen so far; -1 at padding.
        lengths: tokens that entered each layer, filled as they run.
        visual_full: visual tokens of each row when the layers began.
        inputs: (row of the report, tokens dropped) of each input method, in order.
        cuts: (row of the report, layer, tokens dropped) of each method inside the layers, in order.
        whole: True while nothing was shortened and the masks handed over still fit.
        prepared: whether the masks handed over were made for the whole prompt, before anything was dropped.
        padded: whether any row has padding (known on the host, so nothing waits for the device).
        attention: last-token attention rows by layer, (B, H, m), left by the taps.
        columns: the vision tower's notes, and which column of each stands where among the n.
        prompt: (B, n, D) embeddings that the decoder was given, or None.
        runs: (B, n) the number of the unbroken run of placeholders that each belongs to, counted from 1, or None.
        pace: (B,) seconds from one frame of a row's video to the next, or None where the call does not tell.
        heads: queries and keys by layer, left by the taps.
        transitions: (B, m) of each attention and MLP that ran, left by the layers' hooks.
        deepstack: features still to be added after each of the first layers, (B, m, D) each.
        since: (B, m) where each token left stood when the layers began, or None while no layer shortened anything.
        entered: tokens in each row when the layers began, once ``since`` is set.
        before: bytes that the cache held when the call began.
        piece: of a prompt that is read in pieces: what this piece is, else None.
    """

    b: int
    n: int
    cache: Any
    first: bool
    index: Tensor
    kept: Tensor
    visual: Tensor
    where: Tensor
    padded: bool
    visual_full: list[int] = field(default_factory=list)
    whole: bool = True
    lengths: list[int] = field(default_factory=list)
    attention: dict[int, Tensor] = field(default_factory=dict)
    columns: Columns = field(default_factory=list)
    prompt: Tensor | None = None
    ends: Tensor | None = None
    runs: Tensor | None = None
    pace: Tensor | None = None
    heads: dict[int, Heads] = field(default_factory=dict)
    transitions: list[Tensor] = field(default_factory=list)
    deepstack: list[Tensor] = field(default_factory=list)
    since: Tensor | None = None
    inputs: list[tuple[Row, int]] = field(default_factory=list)
    cuts: list[tuple[Row, int, int]] = field(default_factory=list)
    entered: int = 0
    before: int = 0
    prepared: bool = False
    piece: Piece | None = None

    @property
    def m(self) -> int:
        """Tokens left in each row, padding included."""
        return self.index.shape[1]

    @property
    def words(self) -> Tensor:
        """(B, m) bool: tokens that are neither padding nor part of a picture."""
        words = self.kept & ~self.visual
        return words if self.ends is None else words & ~self.ends

    def held(self, layer: int) -> HeldLayer | None:
        """Our cache layer of that index, if the call fills one."""
        if self.cache is None or layer >= len(self.cache.layers):
            return None
        found = self.cache.layers[layer]
        return found if isinstance(found, HeldLayer) else None

    def keep_only(self, keep: Tensor) -> Tensor:
        """Shorten to the tokens where keep (B, m) is True; returns (B, m') what to gather, short rows padded left."""
        counts = keep.sum(1)
        m = int(counts.max())
        order = torch.argsort(keep.to(torch.uint8), dim=1, stable=True)[:, keep.shape[1] - m :]
        self.padded = self.padded or bool((counts != m).any())
        self.whole = False
        self.kept = keep.gather(1, order)
        self.index, self.visual = self.index.gather(1, order), self.visual.gather(1, order) & self.kept
        self.where = self.where.gather(1, order).masked_fill(~self.kept, -1)
        self.ends = None if self.ends is None else self.ends.gather(1, order)
        self.deepstack = [pick(d, order) for d in self.deepstack]
        return order


class Current(threading.local):
    """What is known, in the thread that runs it, of the call that runs. A context variable would never be freed.

    Attributes:
        call: the call, or None between calls.
        ids: (B, n) input ids that the model was given, or None.
        notes: what the vision tower left for this prompt.
        media: whether the call brings images or video; without, placeholders (of a draft, say) are plain tokens.
        pace: seconds from one frame of each video to the next, as the model was told, or None.
    """

    call: Call | None = None
    ids: Tensor | None = None
    notes: tuple[Any, ...] = ()
    media: bool = False
    pace: Any = None

    def get(self) -> Call | None:
        """The call that runs in this thread."""
        return self.call


def pick(t: Tensor, order: Tensor, dim: int = 1) -> Tensor:
    """t[b, ..., order[b], ...] along ``dim``; a leading size of 1 is broadcast to the rows of order (B, m)."""
    t = t.movedim(dim, 1)
    t = t.expand(order.shape[0], *t.shape[1:])
    index = order.view(*order.shape, *[1] * (t.ndim - 2)).expand(*order.shape, *t.shape[2:])
    return t.gather(1, index).movedim(1, dim)
