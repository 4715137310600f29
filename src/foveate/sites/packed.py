"""Towers that take all images as one long sequence of patches, with boundaries (cu_seqlens) instead of a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..reduction import Reduction
from ..tokens import Tokens


class Segments:
    """Boundaries of frames in a packed sequence of merge groups, kept up to date as groups disappear.

    The unit of reduction is the merge group (2 x 2 patches become one LLM token), and methods see one frame at a time.
    """

    def __init__(self, grid: Tensor, unit: int) -> None:
        """grid (items, 3): frames, rows and columns of patches of each image or video; unit: patches in a group."""
        self.unit = unit
        self.frames: list[int] = [int(h * w) // unit for t, h, w in grid.tolist() for _ in range(int(t))]
        self.full = list(self.frames)

    def fit(self, kwargs: dict[str, Any], total: Reduction | None) -> dict[str, Any]:
        """A block's keyword arguments for the groups that are left."""
        if total is None:
            return kwargs
        cu = kwargs["cu_seqlens"]
        left = total.keep[0]  # (m,) groups left, ascending
        edges = torch.searchsorted(left, (cu // self.unit).long())  # how many are left before each boundary
        new = torch.unique_consecutive(edges) * self.unit  # windows that lost everything disappear
        kwargs = {**kwargs, "cu_seqlens": new.to(cu.dtype)}
        if kwargs.get("max_seqlen") is not None:
            longest = (new[1:] - new[:-1]).max()
            kwargs["max_seqlen"] = longest if isinstance(kwargs["max_seqlen"], Tensor) else int(longest)
        if kwargs.get("position_embeddings") is not None:
            patches = (left[:, None] * self.unit + torch.arange(self.unit, device=left.device)).flatten()
            kwargs["position_embeddings"] = tuple(t[patches] for t in kwargs["position_embeddings"])
        return kwargs

    def reduce(self, method: Any, tokens: Tokens) -> Reduction:
        """tokens of all frames (1, groups, ...) -> one map over them; frames of one length run as a batch."""
        starts, at = [], 0
        for n in self.frames:
            starts.append(at)
            at += n
        parts: list[Reduction | None] = [None] * len(self.frames)
        for n, full in sorted(set(zip(self.frames, self.full))):
            which = [i for i, (f, whole) in enumerate(zip(self.frames, self.full)) if (f, whole) == (n, full)]

            def rows(t: Tensor | None, which: list[int] = which, n: int = n) -> Tensor | None:
                return None if t is None else torch.cat([t[:, starts[i] : starts[i] + n] for i in which])

            x = rows(tokens.x)
            assert x is not None
            along = {k: rows(getattr(tokens, k)) for k in ("metric", "size", "grid", "received_attention")}
            made = method.reduce(tokens.with_(x=x, full=full, **along))
            for j, i in enumerate(which):
                one = made.row(j)
                if bool((one.keep.diff() < 0).any()):  # boundaries are looked up among the positions kept
                    one = one.listed(one.keep.sort(-1).values)
                parts[i] = one
        return Reduction.cat([p for p in parts if p is not None])

    def shorten(self, now: Reduction) -> None:
        """Frame lengths after a map."""
        at, new = 0, []
        kept = now.kept[0]
        for n in self.frames:
            new.append(int(kept[at : at + n].sum()))
            at += n
        self.frames = new
