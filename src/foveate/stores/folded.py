"""Attention over packed codes as they are: scales are folded into the queries and into the weights.

A number is ``code * scale + low``, so ``q . k = (q * scale) . code + q . low``; sums of weighted values are alike. What
is left to be done for every number is to get its code out of its byte, and even that is linear: a code is a sum of
``planes`` (the byte behind a mask) times fixed weights, which go into the queries too. So each byte is masked and
turned into a float once for every code in it, a slice of entries at a time, and the rest is matrix products.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

#: Entries read at a time, so that what is made of them stays in the processor's cache.
SLICE = 2048


@dataclass(frozen=True)
class Layout:
    """How codes lie in bytes.

    Attributes:
        codes: neighbours that share ``size`` bytes.
        planes: (byte, mask) or, with ``divide``, (byte, divisor): a plane is byte & mask, or byte // divisor.
        weights: (codes, planes); a code is the sum of planes times these.
    """

    codes: int
    size: int
    planes: tuple[tuple[int, int], ...]
    weights: tuple[tuple[float, ...], ...]
    divide: bool = False

    def each(self, data: Tensor) -> Iterator[Tensor]:
        """data (..., size * j) uint8 -> its planes one after the other, (..., j) float32, in one buffer."""
        parts = data.unflatten(-1, (-1, self.size))
        out = torch.empty(parts.shape[:-1], device=data.device)
        for byte, by in self.planes:
            one = parts[..., byte]
            if self.divide:
                out.copy_(one)
                if by > 1:
                    out.add_(0.5).mul_(1 / by).floor_()
            else:
                out.copy_(one if by == 255 else one & by)
            yield out

    def fold(self, x: Tensor) -> Tensor:
        """x (..., C, r), what codes are multiplied by, C a multiple of ``codes`` -> (P, ..., C / codes, r)."""
        made = torch.einsum("...jcr,cp->p...jr", x.unflatten(-2, (-1, self.codes)), self._weights(x))
        return made.contiguous()

    def join(self, y: Tensor) -> Tensor:
        """y (P, ..., j), sums of planes -> (..., j * codes), the same sums of codes."""
        return torch.einsum("p...j,cp->...jc", y, self._weights(y)).flatten(-2)

    def _weights(self, like: Tensor) -> Tensor:
        return torch.tensor(self.weights, device=like.device)


@functools.cache
def layout(bits: float) -> Layout:
    """How :func:`foveate.stores.bits.pack` lays out codes of that width."""
    if bits == 1.58:  # digit i is byte // 3^i - 3 * (byte // 3^(i+1))
        rows = tuple(tuple(1.0 if p == i else -3.0 if p == i + 1 else 0.0 for p in range(5)) for i in range(5))
        return Layout(5, 1, tuple((0, 3**i) for i in range(5)), rows, divide=True)
    width = int(bits)
    codes, size = (8, 3) if width == 3 else (8 // width, 1)
    planes, columns = list[tuple[int, int]](), list[tuple[int, float]]()
    for code in range(codes):
        for byte in range(size):  # a code of three bits may lie in two bytes
            low, high = max(code * width, 8 * byte), min((code + 1) * width, 8 * byte + 8)
            if low < high:
                planes.append((byte, ((1 << (high - low)) - 1) << (low - 8 * byte)))
                columns.append((code, 2.0 ** (8 * byte - code * width)))
    weights = tuple(tuple(w if c == code else 0.0 for c, w in columns) for code in range(codes))
    return Layout(codes, size, tuple(planes), weights)


@dataclass(frozen=True)
class Codes:
    """Packed codes of one stretch and what they stand for; the channels of all heads lie side by side.

    Attributes:
        data: (B, blocks, bytes) uint8. scale, low: (B, blocks, groups).
        bits: of a code. tokens: of a block. width: channels that share a scale; the last group may lack some.
    """

    data: Tensor
    scale: Tensor
    low: Tensor
    bits: float
    tokens: int
    width: int

    @property
    def channels(self) -> int:
        """Of all groups, those that only fill the last one included."""
        return self.scale.shape[2] * self.width

    @property
    def fits(self) -> bool:
        """Whether every token begins with a byte of its own; only such codes can be attended over as they are."""
        return self.channels % layout(self.bits).codes == 0

    def scores(self, q: Tensor) -> Tensor:
        """q (B, g, r, d) float32 -> products with all entries (B, g, r, blocks * tokens)."""
        b, g, r, d = q.shape
        units = q.mT if self._apart(d, g) else self._filled(wide(q))[:, None]  # (B, units, C, r')
        found = [self._scores(part, units) for part in self._parts()]  # (B, n, units, r') each
        return torch.cat(found, 1).flatten(2).mT.reshape(b, g, r, -1)

    def mix(self, p: Tensor, d: int) -> Tensor:
        """p (B, g, r, blocks * tokens) float32, weights of the entries -> their weighted sums (B, g, r, d)."""
        b, g, r, n = p.shape
        apart = self._apart(d, g)
        units = p if apart else p.reshape(b, 1, g * r, n)
        total: Tensor | None = None
        for part in self._parts():
            at = part.start * self.tokens
            more = self._sums(part, units[..., at : at + self.tokens * (part.stop - part.start)])
            total = more if total is None else total + more
        assert total is not None
        return total[..., :d] if apart else own(total[:, 0, :, : g * d], g)

    def _apart(self, d: int, g: int) -> bool:
        """Whether heads share neither bytes nor scales."""
        return g * d == self.channels and d % layout(self.bits).codes == 0 and d % self.width == 0

    def _filled(self, x: Tensor) -> Tensor:
        return pad(x, (0, 0, 0, self.channels - x.shape[1]))

    def _parts(self) -> Iterator[slice]:
        """Some blocks at a time."""
        step = max(1, SLICE // self.tokens)
        for at in range(0, self.data.shape[1], step):
            yield slice(at, min(at + step, self.data.shape[1]))

    def _planes(self, part: slice) -> Iterator[Tensor]:
        """(B, blocks, tokens, bytes of a token), one after the other."""
        kind = layout(self.bits)
        per = self.channels // kind.codes * kind.size
        return kind.each(self.data[:, part, : per * self.tokens].unflatten(2, (self.tokens, per)))

    def _scales(self, part: slice, units: int) -> tuple[Tensor, Tensor]:
        """Scale and low of some blocks, (B, blocks, units, groups of a unit)."""
        scale, low = (t[:, part].float().unflatten(2, (units, -1)) for t in (self.scale, self.low))
        return scale, low

    def _scores(self, part: slice, q: Tensor) -> Tensor:
        """q (B, units, C, r) -> (B, n, units, r) of some blocks."""
        units, c, r = q.shape[1:]
        kind, (scale, low) = layout(self.bits), self._scales(part, units)
        groups, j = scale.shape[3], c // kind.codes
        bias = torch.einsum("bkug,bugr->bkur", low, q.unflatten(2, (groups, -1)).sum(3))  # (B, blocks, units, r)
        if self.tokens > 1:
            by = scale.transpose(1, 2).repeat_interleave(self.width, 3)[..., None]  # (B, units, blocks, C, 1)
            folded, columns = kind.fold(q[:, :, None] * by), r  # (P, B, units, blocks, j, r)
        else:  # a scale for each token: each group has columns of its own, put together afterwards
            folded, columns = kind.fold(_diagonal(q, groups))[:, :, :, None], groups * r
        made = [torch.zeros((), device=q.device)] * units
        for k, plane in enumerate(self._planes(part)):
            flat = plane if self.tokens > 1 else plane.transpose(1, 2)  # (B, blocks or 1, tokens or n, J)
            for u in range(units):
                made[u] = made[u] + flat[..., u * j : (u + 1) * j] @ folded[k, :, u]
        all_ = torch.stack(made, 3)  # (B, blocks or 1, tokens or n, units, columns)
        if self.tokens > 1:
            return (all_ + bias[:, :, None]).flatten(1, 2)
        each: Tensor = all_[:, 0].unflatten(3, (groups, columns // groups))
        return (each * scale[..., None]).sum(3) + bias

    def _sums(self, part: slice, p: Tensor) -> Tensor:
        """p (B, units, r, n) of some blocks -> (B, units, r, C)."""
        units, r = p.shape[1:3]
        kind, (scale, low) = layout(self.bits), self._scales(part, units)
        groups = scale.shape[3]
        j = self.channels // units // kind.codes
        w = p.unflatten(3, (-1, self.tokens)).transpose(2, 3)  # (B, units, blocks, r, tokens)
        if self.tokens == 1:  # (B, units, 1, groups * r, n): weights times the scale of each group
            by = scale.permute(0, 2, 3, 1)[:, :, :, None]  # (B, units, groups, 1, n)
            rows = (p[:, :, None] * by).flatten(2, 3)[:, :, None]
        else:
            rows = w
        made = []
        for plane in self._planes(part):
            flat = plane if self.tokens > 1 else plane.transpose(1, 2)
            made.append(torch.stack([rows[:, u] @ flat[..., u * j : (u + 1) * j] for u in range(units)], 1))
        sums = kind.join(torch.stack(made))  # (B, units, blocks or 1, r or groups * r, C)
        bias = torch.einsum("bukr,bkug->burg", w.sum(4), low).repeat_interleave(self.width, 3)
        if self.tokens > 1:
            by = scale.transpose(1, 2).repeat_interleave(self.width, 3)[:, :, :, None]
            return (sums * by).sum(2) + bias
        own_group = sums[:, :, 0].unflatten(2, (groups, r)).unflatten(4, (groups, -1))
        return torch.stack([own_group[:, :, k, :, k] for k in range(groups)], 3).flatten(3) + bias


def _diagonal(q: Tensor, groups: int) -> Tensor:
    """q (B, units, C, r) -> (B, units, C, groups * r): columns for each group, zero at the channels of others."""
    parts: Sequence[Tensor] = q.unflatten(2, (groups, -1)).unbind(2)
    out = q.new_zeros(*q.shape[:2], groups, q.shape[2] // groups, groups, q.shape[3])
    for k, part in enumerate(parts):
        out[:, :, k, :, k] = part
    return out.flatten(4).flatten(2, 3)


def wide(q: Tensor) -> Tensor:
    """q (B, g, r, d) -> (B, g d, g r): each head's queries beside each other, zero at the channels of other heads."""
    b, g, r, d = q.shape
    out = q.new_zeros(b, g, d, g, r)
    for h in range(g):
        out[:, h, :, h] = q[:, h].mT
    return out.view(b, g * d, g * r)


def own(x: Tensor, g: int) -> Tensor:
    """x (B, g r, g d), sums over the channels of all heads -> (B, g, r, d), those of each row's own head."""
    each = x.view(len(x), g, -1, g, x.shape[2] // g)
    return torch.stack([each[:, h, :, h] for h in range(g)], 1)
