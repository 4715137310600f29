"""Two layers that share the directions of their entries; lengths, and tokens that differ too much, are their own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .compact import storages
from .packed import narrow, small


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Unit vectors a, b (..., d) float32 -> the unit vector at the part t of the arc from a to b.

    Where they point the same or opposite ways the arc is a line; zero vectors give zero.
    """
    angle = (a * b).sum(-1, keepdim=True).clamp(-1, 1).acos()
    sine = angle.sin()
    straight = sine < 1e-4
    sine = sine.masked_fill(straight, 1)
    left = torch.where(straight, 1 - t, ((1 - t) * angle).sin() / sine)
    right = torch.where(straight, t, (t * angle).sin() / sine)
    return normalize(left * a + right * b, dim=-1)


@dataclass(frozen=True)
class Merged:
    """Keys, or values, of a stretch of tokens in two layers.

    Attributes:
        unit: (B, g, t, d), the shared directions.
        sizes: (2, B, g, t), lengths in either layer.
        at: (B, m) int32, tokens that are not merged; ``own`` (2, B, g, m, d), theirs in either layer.
    """

    unit: Tensor
    sizes: Tensor
    at: Tensor
    own: Tensor

    @classmethod
    def of(cls, first: Tensor, second: Tensor, part: float, keep: int, valid: Tensor | None) -> Merged:
        """first, second (B, g, t, d) of the shallow and of the deep layer; valid (B, t) bool or None.

        The ``keep`` tokens with the widest angle, mean over heads, are not merged; of equal ones the first.
        """
        a, b = (normalize(x.float(), dim=-1) for x in (first, second))
        angle = (a * b).sum(-1).clamp(-1, 1).acos().mean(1)
        if valid is not None:
            angle = angle.masked_fill(~valid, -1)
        at = angle.argsort(stable=True, dim=-1, descending=True)[:, :keep].sort(-1).values
        index = at[:, None, :, None].expand(-1, first.shape[1], -1, first.shape[3])
        own = torch.stack([first.gather(2, index), second.gather(2, index)])
        sizes = torch.stack([narrow(x.float().norm(dim=-1), small(x)) for x in (first, second)])
        return cls(slerp(a, b, part).to(first.dtype), sizes, at.to(torch.int32), own)

    def read(self, side: int) -> Tensor:
        """(B, g, t, d) of one layer."""
        out = (self.unit.float() * self.sizes[side][..., None].float()).to(self.unit.dtype)
        t, index = out.shape[2], self.at.long()
        spare = out.new_zeros(*out.shape[:2], 1, out.shape[3])  # where a token that was cropped is written
        out = torch.cat([out, spare], 2)
        where = index.clamp(max=t)[:, None, :, None].expand_as(self.own[side])
        return out.scatter(2, where, self.own[side])[:, :, :t]

    def select(self, rows: Tensor) -> Merged:
        """Of these rows of the batch."""
        return replace(self, unit=self.unit[rows], sizes=self.sizes[:, rows], at=self.at[rows], own=self.own[:, rows])

    def first(self, n: int) -> Merged:
        """The first n tokens."""
        if n == 0:
            return Merged(
                self.unit[:, :, :0].clone(),
                self.sizes[..., :0].clone(),
                self.at[:, :0].clone(),
                self.own[..., :0, :].clone(),
            )
        return replace(self, unit=self.unit[:, :, :n].clone(), sizes=self.sizes[..., :n].clone())

    def tensors(self) -> list[Tensor]:
        """All tensors held."""
        return [self.unit, self.sizes, self.at, self.own]


class Pair:
    """What two layers hold together, and each by itself: tokens that came later.

    Once as many came to both layers as ``step``, they are merged too. Layers are changed one after the other, so
    each remembers what it shows of the merged tokens, and these follow when both agree.

    Args:
        entries: (keys, values) of the shallow and of the deep layer, (B, g, n, d) each, of the same tokens.
        part: where on the arc from the first to the second the shared direction lies.
        retain: share of the tokens that is not merged, rounded up.
        step: later tokens that are merged together.
        valid: (B, n) bool or None; padding is merged first.
    """

    def __init__(
        self,
        entries: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]],
        part: float,
        retain: float,
        step: int,
        valid: Tensor | None = None,
    ) -> None:
        self.part, self.retain, self.step = part, retain, step
        self.live = True  # until tokens that were merged are taken back
        self.tails = [[x[:, :, :0].clone() for x in one] for one in entries]
        self.merged = [self._merge(entries, valid)]
        self.shown = [self.length, self.length]
        self.rows: list[Tensor | None] = [None, None]

    @property
    def length(self) -> int:
        """Tokens merged."""
        return sum(k.unit.shape[2] for k, _ in self.merged)

    def half(self, side: int) -> Half:
        """What one of the layers holds."""
        return Half(self, side)

    def tensors(self, side: int | None = None) -> list[Tensor]:
        """Tensors that a layer holds alone, or those that both share."""
        if side is not None:
            return self.tails[side] + [t for t in (self.rows[side],) if t is not None]
        return [t for pair in self.merged for m in pair for t in m.tensors()]

    def read(self, side: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, (B, g, n, d)."""
        out = []
        for i in (0, 1):
            parts = [pair[i].read(side) for pair in self.merged]
            old = torch.cat(parts, 2)[:, :, : self.shown[side]]
            rows = self.rows[side]
            out.append(torch.cat([old if rows is None else old[rows], self.tails[side][i]], 2))
        return out[0], out[1]

    def append(self, side: int, keys: Tensor, values: Tensor) -> None:
        """Put (B, g, t, d) new entries behind those of one layer."""
        self.tails[side] = [torch.cat(pair, 2) for pair in zip(self.tails[side], (keys, values))]
        due = {tail[0].shape[2] for tail in self.tails}
        level = self.shown == [self.length] * 2 and self.rows == [None, None]
        if self.live and level and len(due) == 1 and min(due) >= self.step:
            first, second = ((t[0], t[1]) for t in self.tails)
            self.merged.append(self._merge((first, second), None))
            self.shown = [self.length, self.length]
            self.tails = [[x[:, :, :0].clone() for x in tail] for tail in self.tails]

    def select(self, side: int, rows: Tensor) -> None:
        """Keep these rows of the batch in one layer."""
        self.tails[side] = [x[rows] for x in self.tails[side]]
        was = self.rows[side]
        self.rows[side] = rows if was is None else was[rows]
        one, other = self.rows
        if one is not None and other is not None and torch.equal(one, other):
            self.merged = [(k.select(one), v.select(one)) for k, v in self.merged]
            self.rows = [None, None]

    def crop(self, side: int, n: int) -> None:
        """Keep the first n entries of one layer."""
        if n >= self.shown[side]:
            self.tails[side] = [x[:, :, : n - self.shown[side]].clone() for x in self.tails[side]]
            return
        self.tails[side] = [x[:, :, :0].clone() for x in self.tails[side]]
        self.shown[side], self.live = n, False  # layers may be filled with different tokens from now on
        left, kept = max(self.shown), []
        for k, v in self.merged:
            t = k.unit.shape[2]
            if left > 0:
                kept.append((k, v) if left >= t else (k.first(left), v.first(left)))
            left -= t
        k, v = self.merged[0]
        self.merged = kept or [(k.first(0), v.first(0))]

    def _merge(
        self, entries: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]], valid: Tensor | None
    ) -> tuple[Merged, Merged]:
        first, second = entries
        keep = -int(-self.retain * first[0].shape[2] // 1)
        return (
            Merged.of(first[0], second[0], self.part, keep, valid),
            Merged.of(first[1], second[1], self.part, keep, valid),
        )


class Half:
    """One layer of a :class:`Pair`, a compact store. What both share is counted in the first layer's bytes."""

    def __init__(self, pair: Pair, side: int) -> None:
        self.pair, self.side = pair, side

    @property
    def n(self) -> int:
        """Entries of each head."""
        return self.pair.shown[self.side] + int(self.pair.tails[self.side][0].shape[2])

    @property
    def nbytes(self) -> int:
        """Bytes of all storages held."""
        return storages(self.pair.tensors(self.side) + ([] if self.side else self.pair.tensors()))

    def read(self) -> tuple[Tensor, Tensor]:
        """Keys and values, (B, g, n, d)."""
        return self.pair.read(self.side)

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Put (B, g, t, d) new entries behind the others."""
        self.pair.append(self.side, keys, values)

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch."""
        self.pair.select(self.side, rows)

    def crop(self, n: int) -> None:
        """Keep the first n entries."""
        self.pair.crop(self.side, n)
