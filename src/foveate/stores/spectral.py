"""Keys with the widest channels in two bits and the spectrum of the others in one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .packed import Grid, Signs, Tile, small
from .stream import Code, Coder


@dataclass(frozen=True)
class Spectral(Coder):
    """Per channel, ``group`` tokens at a time: some channels by minimum and maximum in two bits, the others Fourier
    transformed along the channels and stored as signs.

    The transform of e real numbers is stored as e numbers. ``raw``: as 2 e numbers, and read as VidKV's code does.

    Attributes:
        hard: (B, k) int16, the channels of each head in two bits, ascending.
    """

    hard: Tensor
    group: int
    raw: bool = False

    @property
    def block(self) -> int:
        return self.group

    @property
    def state(self) -> Code:
        return (self.hard,)

    def coders(self, scales: torch.dtype) -> tuple[Grid, Signs]:
        """Of the hard and of the other channels."""
        return Grid(2, Tile(self.group, 1), scales=scales), Signs(1, Tile(self.group, 1), self.raw, scales)

    def parts(self, d: int) -> tuple[Tensor, Tensor]:
        """Indices of the hard and of the other channels, (B, 1, 1, k) and (B, 1, 1, d - k)."""
        hard = self.hard.long()
        mask = torch.zeros(hard.shape[0], d, dtype=torch.bool, device=hard.device).scatter(1, hard, True)
        order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, None, None]
        return order[..., : hard.shape[1]], order[..., hard.shape[1] :]

    def encode(self, x: Tensor) -> Code:
        """x (B, g, t, d) -> the code of the hard channels and that of the others."""
        out: Code = ()
        grid, signs = self.coders(small(x))
        hard, easy = (x.float().gather(3, i.expand(*x.shape[:3], -1)) for i in self.parts(x.shape[3]))
        if hard.shape[3]:
            out += grid.encode(hard)
        if easy.shape[3]:
            out += signs.encode(spectrum(easy, self.raw))
        return out

    def decode(self, code: Code, shape: torch.Size) -> Tensor:
        """The numbers again, float32 (B, g, t, d)."""
        b, g, t, d = shape
        hard, easy = self.parts(d)
        k, e = hard.shape[-1], easy.shape[-1]
        grid, signs = self.coders(torch.float32)
        out = torch.zeros(shape, device=self.hard.device)
        if k:
            out = out.scatter(3, hard.expand(b, g, t, k), grid.decode(code[:3], torch.Size((b, g, t, k))))
        if e:
            wide = torch.Size((b, g, t, 2 * e if self.raw else e))
            part = unspectrum(signs.decode(code[3 if k else 0 :], wide), self.raw)
            out = out.scatter(3, easy.expand(b, g, t, e), part)
        return out

    def scores(self, code: Code, q: Tensor, shape: torch.Size) -> Tensor:
        """q (B, g, r, d) float32 -> (B, g, r, t). The transform is linear: it is done to the queries."""
        total = q.new_zeros(*q.shape[:3], shape[2])
        for coder, part, index, back, size in self._halves(code, shape):
            mine = q.gather(3, index.expand(*q.shape[:3], -1))
            total = total + coder.scores(part, mine if back is None else mine @ back.mT, size)
        return total

    def mix(self, code: Code, p: Tensor, shape: torch.Size) -> Tensor:
        """p (B, g, r, t) float32 -> (B, g, r, d)."""
        out = p.new_zeros(*p.shape[:3], shape[3])
        for coder, part, index, back, size in self._halves(code, shape):
            mine = coder.mix(part, p, size)
            out = out.scatter(3, index.expand(*p.shape[:3], -1), mine if back is None else mine @ back)
        return out

    def _halves(self, code: Code, shape: torch.Size) -> Iterator[tuple[Coder, Code, Tensor, Tensor | None, torch.Size]]:
        """Coder, code, channels (B, 1, 1, k), what undoes the transform (numbers, k) or None, and the coded shape."""
        b, g, t, d = shape
        hard, easy = self.parts(d)
        k, e = hard.shape[-1], easy.shape[-1]
        grid, signs = self.coders(torch.float32)
        if k:
            yield grid, code[:3], hard, None, torch.Size((b, g, t, k))
        if e:
            width = 2 * e if self.raw else e
            back = unspectrum(torch.eye(width, device=easy.device), self.raw)
            yield signs, code[3 if k else 0 :], easy, back, torch.Size((b, g, t, width))

    def select(self, rows: Tensor) -> Coder:
        """For these rows of the batch."""
        return replace(self, hard=self.hard[rows])


def spectrum(x: Tensor, whole: bool = False) -> Tensor:
    """Fourier transform of (..., e) real numbers as e real numbers; ``whole``: real and imaginary parts of all e terms,
    one after the other, (..., 2 e)."""
    if whole:
        parts: Tensor = torch.view_as_real(torch.fft.fft(x, dim=-1)).flatten(-2)
        return parts
    e = x.shape[-1]
    both = torch.view_as_real(torch.fft.rfft(x, dim=-1)).flatten(-2)
    return torch.cat([both[..., :1], both[..., 2 : e + 1]], -1)  # the imaginary parts left out are zero


def unspectrum(f: Tensor, whole: bool = False) -> Tensor:
    """The reverse of :func:`spectrum`."""
    if whole:
        terms = torch.view_as_complex(f.unflatten(-1, (-1, 2)).contiguous())
        real: Tensor = torch.fft.ifft(terms, dim=-1).real
        return real
    e = f.shape[-1]
    zero = torch.zeros_like(f[..., :1])
    both = torch.cat([f[..., :1], zero, f[..., 1:], *([zero] if e % 2 == 0 else [])], -1)
    out: Tensor = torch.fft.irfft(torch.view_as_complex(both.unflatten(-1, (-1, 2)).contiguous()), n=e, dim=-1)
    return out


def widest(x: Tensor, k: int) -> Tensor:
    """x (B, g, t, d) -> (B, k) int16, the channels whose numbers span most over heads and tokens, ascending."""
    span = x.float().amax((1, 2)) - x.float().amin((1, 2))
    return span.argsort(dim=-1, stable=True, descending=True)[:, :k].sort(-1).values.to(torch.int16)
