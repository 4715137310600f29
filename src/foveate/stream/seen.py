"""What is remembered of a stretch of video: visual tokens as the LLM would get them, with times and places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..errors import InputError
from ..reduction import Reduction
from ..tokens import Tokens

#: Fields that hold one value for each token.
_EACH = ("x", "slot", "time", "late", "cell", "side", "size")


@dataclass(frozen=True, eq=False)
class Seen:
    """m visual tokens of one video, in the order in which the LLM reads them.

    A slot is what a family encodes together: one frame, or the two frames of a temporal patch.

    Attributes:
        x: (m, D) the tokens, in the model's dtype.
        deep: (L, m, D) what is added to them after each of the first L layers (DeepStack); L is 0 for most families.
        slot: (m,) int64, the number of the slot, counted from the start of the video, ascending.
        time, late: (m,) float64, seconds of the first and of the last frame of the slot.
        cell: (m, 2) int64, row and column in the slot's grid, -1 where the family has none.
        side: (m,) int64, the longer side of that grid in tokens, 0 where there is none.
        size: (m,) float32, how many tokens of the encoder each stands for.
        tail: (e, D) tokens that end a video (a line break, in some families).
        over: (2,) float64, seconds of the first and of the last frame that was looked at, tokens left or not.
    """

    x: Tensor
    deep: Tensor
    slot: Tensor
    time: Tensor
    late: Tensor
    cell: Tensor
    side: Tensor
    size: Tensor
    tail: Tensor
    over: Tensor

    @property
    def n(self) -> int:
        """Number of tokens."""
        return len(self.x)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    @property
    def span(self) -> tuple[float, float]:
        """Seconds of the first and of the last frame that was looked at."""
        return float(self.over[0]), float(self.over[1])

    def tokens(self) -> Tokens:
        """One row of tokens as methods of stage inputs see them; views of the grid are slots."""
        rank = self.slot.unique(return_inverse=True)[1]
        grid = torch.cat([rank[:, None], self.cell], 1).to(self.x.device)
        return Tokens(self.x[None], grid=grid[None], times=self.time.float()[None], size=self.size[None])

    def reduced(self, r: Reduction) -> Seen:
        """The tokens after a map of one row, (1, m) -> (1, m')."""
        r = r.row(0)
        new = {name: r.gather(getattr(self, name)[None])[0] for name in _EACH if name not in ("x", "size")}
        deep = r.to(self.deep.device)(self.deep.movedim(0, 1)[None])[0].movedim(1, 0)
        return replace(self, x=r(self.x[None])[0], deep=deep, size=r.size(self.size[None])[0], **new)

    def since(self, start: Seen) -> Seen:
        """The same with times and slots counted from the stretch ``start``, as in a video that begins with it."""
        begin, slot = float(start.over[0]), int(start.slot.min())
        times = {n: getattr(self, n) - begin for n in ("time", "late", "over")}
        return replace(self, slot=self.slot - slot, **times)

    def moved(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Seen:
        """The same on another device, features in ``dtype``."""
        features = {n: getattr(self, n).to(device, dtype) for n in ("x", "deep", "tail")}
        rest = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name not in features}
        return Seen(**features, **rest)

    def tensors(self) -> dict[str, Tensor]:
        """Plain data, for storing."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def of(cls, data: Mapping[str, Tensor]) -> Seen:
        """From what :meth:`tensors` gave.

        Raises:
            InputError: a tensor is missing, or lengths differ.
        """
        if set(data) != {f.name for f in fields(cls)}:
            raise InputError(f"remembered tokens are made of {', '.join(f.name for f in fields(cls))}")
        made = cls(**data)
        if {len(getattr(made, name)) for name in _EACH} != {made.n} or made.deep.shape[1] != made.n:
            raise InputError("the tensors of remembered tokens differ in length")
        return made

    @classmethod
    def cat(cls, parts: Sequence[Seen]) -> Seen:
        """Stretches of one video, in order, as one; it ends as the last of them does."""
        if not parts:
            raise InputError("nothing was seen yet; push frames first")
        new = {name: torch.cat([getattr(p, name) for p in parts]) for name in _EACH}
        over = torch.stack([parts[0].over[0], parts[-1].over[1]])
        return cls(**new, deep=torch.cat([p.deep for p in parts], 1), tail=parts[-1].tail, over=over)
