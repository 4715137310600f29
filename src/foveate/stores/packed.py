"""Entries as a few bits each: groups of tokens, of channels or of both share a scale and what zero stands for.

The channels of all heads stand side by side, so a group of channels may reach over two heads. Scales are float16 where
the model's numbers have two bytes, float32 where they have four.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import bits as packing
from .folded import Codes
from .stream import Code, Coder


def small(x: Tensor) -> torch.dtype:
    """The dtype of the scales of numbers like x."""
    return torch.float16 if x.element_size() == 2 else torch.float32


def narrow(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in a dtype of :func:`small`, the largest finite number where it would overflow."""
    most = torch.finfo(dtype).max
    return x.clamp(-most, most).to(dtype)


def side_by_side(x: Tensor) -> Tensor:
    """(B, g, t, d) -> (B, t, g d)."""
    return x.transpose(1, 2).flatten(2)


def in_heads(x: Tensor, g: int) -> Tensor:
    """(B, t, g d) -> (B, g, t, d)."""
    heads: Tensor = x.unflatten(2, (g, -1)).transpose(1, 2)
    return heads


@dataclass(frozen=True)
class Tile:
    """What shares a scale: ``tokens`` x ``channels`` numbers, 0 for all there are."""

    tokens: int
    channels: int

    def cut(self, x: Tensor) -> Tensor:
        """(B, t, C) -> (B, blocks, tokens, groups, channels); the last channel is repeated to fill a group."""
        b, t, c = x.shape
        tokens, channels = self.tokens or max(1, t), min(self.channels or c, c)
        if rest := -c % channels:
            x = torch.cat([x, x[..., -1:].expand(b, t, rest)], -1)
        return x.reshape(b, t // tokens, tokens, -1, channels)

    def join(self, x: Tensor, c: int) -> Tensor:
        """The reverse, (B, blocks, tokens, groups, channels) -> (B, t, C)."""
        return x.flatten(3).flatten(1, 2)[..., :c]

    def shape(self, b: int, t: int, c: int) -> tuple[int, ...]:
        """Of what :meth:`cut` returns."""
        tokens, channels = self.tokens or max(1, t), min(self.channels or c, c)
        return b, t // tokens, tokens, -(-c // channels), channels


class Affine(Coder):
    """What codes of which every number is ``code * scale + low`` have in common: attention does not read them back."""

    def codes(self, code: Code, shape: torch.Size) -> Codes:
        """The code of a stretch of this shape (B, g, t, d) as it can be attended over."""
        raise NotImplementedError

    def scores(self, code: Code, q: Tensor, shape: torch.Size) -> Tensor:
        """Products of q (B, g, r, d) float32 with the entries of this shape (B, g, t, d): (B, g, r, t)."""
        found = self.codes(code, shape)
        return found.scores(q) if found.fits else super().scores(code, q, shape)

    def mix(self, code: Code, p: Tensor, shape: torch.Size) -> Tensor:
        """Sums of the entries of this shape (B, g, t, d) with weights p (B, g, r, t) float32: (B, g, r, d)."""
        found = self.codes(code, shape)
        return found.mix(p, shape[3]) if found.fits else super().mix(code, p, shape)


@dataclass(frozen=True)
class Grid(Affine):
    """``number = code * scale + low``, for each tile of its own.

    Attributes:
        bits: of a code.
        tile: (G, 1) is "per channel, G tokens at a time"; (1, G) "per token, G channels at a time".
        levels: how many steps lie between the lowest and the highest number, None for all that the bits allow.
        whole_zero: the code of zero is a whole number that the bits can hold (numbers of one sign then saturate).
        scales: dtype of the scales, None for that which suits the numbers.
    """

    bits: float
    tile: Tile
    levels: int | None = None
    whole_zero: bool = False
    scales: torch.dtype | None = None

    @property
    def block(self) -> int:
        return self.tile.tokens

    def encode(self, x: Tensor) -> Code:
        """x (B, g, t, d) -> packed codes (B, blocks, bytes), scale and low (B, blocks, groups)."""
        codes, scale, low = self.rounded(side_by_side(x))
        return packing.pack(codes.flatten(2), self.bits), scale, low

    def rounded(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, t, C) -> codes (B, blocks, tokens, groups, channels) float, scale and low (B, blocks, groups)."""
        dtype, y = self.scales or small(x), self.tile.cut(x.float())
        top = (packing.levels(self.bits) - 1) if self.levels is None else self.levels
        low, high = y.amin((2, 4), keepdim=True), y.amax((2, 4), keepdim=True)
        if self.whole_zero:
            scale = narrow((high - low).clamp(min=1e-5) / top, dtype).float()
            zero = (-(low / scale).round()).clamp(0, top)
            codes, low = ((y / scale).round() + zero).clamp(0, top), -zero * scale
        else:
            scale, low = narrow((high - low) / top, dtype).float(), narrow(low, dtype).float()
            codes = ((y - low) / torch.where(scale > 0, scale, 1)).clamp(0, top).round()
        return codes, narrow(scale, dtype)[:, :, 0, :, 0], narrow(low, dtype)[:, :, 0, :, 0]

    def codes(self, code: Code, shape: torch.Size) -> Codes:
        b, g, t, d = shape
        cut = self.tile.shape(b, t, g * d)
        data, scale, low = code
        return Codes(data, scale, low, self.bits, cut[2], cut[4])

    def decode(self, code: Code, shape: torch.Size) -> Tensor:
        """The numbers again, float32 (B, g, t, d)."""
        b, g, t, d = shape
        data, scale, low = code
        cut = self.tile.shape(b, t, g * d)
        whole = packing.unpack(data, self.bits, cut[2] * cut[3] * cut[4]).view(cut).float()
        whole = whole * scale[:, :, None, :, None].float() + low[:, :, None, :, None].float()
        return in_heads(self.tile.join(whole, g * d), g)


@dataclass(frozen=True)
class Signs(Affine):
    """One bit for the sign, or three values: -1, 0 and +1 times the mean size of the tile's numbers.

    Attributes:
        bits: 1 or 1.58. With three values, numbers smaller than half the mean size become zero.
        tile: as in :class:`Grid`.
        raw: read them back as VidKV's code does: 0 or the scale with one bit, -1, 0 or 1 without it with three values.
        scales: as in :class:`Grid`.
    """

    bits: float
    tile: Tile
    raw: bool = False
    scales: torch.dtype | None = None

    @property
    def block(self) -> int:
        return self.tile.tokens

    def encode(self, x: Tensor) -> Code:
        """x (B, g, t, d) -> packed codes (B, blocks, bytes), scale (B, blocks, groups)."""
        codes, scale = self.rounded(side_by_side(x))
        return packing.pack(codes.flatten(2), self.bits), scale

    def rounded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, t, C) -> codes (B, blocks, tokens, groups, channels) uint8, scale (B, blocks, groups)."""
        y = self.tile.cut(x.float())
        scale = y.abs().mean((2, 4), keepdim=True)
        if self.bits == 1:
            codes = (y >= 0).to(torch.uint8)
        else:
            codes = 1 + (y > scale / 2).to(torch.uint8) - (y < -scale / 2).to(torch.uint8)
        return codes, narrow(scale, self.scales or small(x))[:, :, 0, :, 0]

    def codes(self, code: Code, shape: torch.Size) -> Codes:
        b, g, t, d = shape
        cut, (data, scale) = self.tile.shape(b, t, g * d), code
        if self.raw:
            step, low = (scale, scale * 0) if self.bits == 1 else (scale * 0 + 1, scale * 0 - 1)
        else:
            step, low = (2 * scale.float() if self.bits == 1 else scale), -scale
        return Codes(data, step, low, self.bits, cut[2], cut[4])

    def decode(self, code: Code, shape: torch.Size) -> Tensor:
        """The numbers again, float32 (B, g, t, d)."""
        b, g, t, d = shape
        data, scale = code
        cut = self.tile.shape(b, t, g * d)
        whole = packing.unpack(data, self.bits, cut[2] * cut[3] * cut[4]).view(cut).float()
        size = scale[:, :, None, :, None].float()
        if self.raw:
            whole = whole * size if self.bits == 1 else whole - 1
        else:
            whole = (2 * whole - 1 if self.bits == 1 else whole - 1) * size
        return in_heads(self.tile.join(whole, g * d), g)


def per_channel(bits: float, tokens: int) -> Coder:
    """Each channel of ``tokens`` consecutive tokens (0: of all) by itself; min/max, or signs below two bits."""
    tile = Tile(tokens, 1)
    return Signs(bits, tile) if bits < 2 else Grid(bits, tile)


def per_token(bits: float, channels: int, scales: torch.dtype | None = None) -> Coder:
    """Each token by itself, ``channels`` (0: all) at a time; min/max, or signs below two bits."""
    tile = Tile(1, channels)
    return Signs(bits, tile, scales=scales) if bits < 2 else Grid(bits, tile, scales=scales)


def filled(x: Tensor, valid: Tensor | None) -> Tensor:
    """x (B, g, n, d) with padding overwritten by the row's first real entry, so that it widens no range.

    valid (B, n) bool or None.
    """
    if valid is None:
        return x
    first = valid.to(torch.uint8).argmax(-1)
    index = first[:, None, None, None].expand(-1, x.shape[1], 1, x.shape[3])
    return torch.where(valid[:, None, :, None], x, x.gather(2, index))
