"""A small image-token generator that works scale after scale, and its cache.

Tian et al., "Visual Autoregressive Modeling: Scalable Image Generation via Next-Scale Prediction", NeurIPS 2024.
https://arxiv.org/abs/2404.02905

All tokens of a scale are predicted in one forward from what the coarser scales have drawn so far, enlarged; within a
scale every token sees every other. It is the architecture in small, to prove decoders on: weights are random unless
they are trained with :meth:`NextScale.loss`, and there is no image decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, scaled_dot_product_attention


@dataclass(frozen=True)
class Shape:
    """classes that can be asked for, codes in the codebook of ``channels`` numbers each, sides of the scales."""

    classes: int = 10
    codes: int = 64
    channels: int = 8
    scales: tuple[int, ...] = (1, 2, 3, 4, 6)


class Cache(Protocol):
    """Keys and values of the scales so far, for every layer."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Take the keys and values of a scale, (B, h, n, d), and attend from its queries to all that is held."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held."""
        ...


class Whole:
    """A cache that keeps everything."""

    def __init__(self, layers: int) -> None:
        self.kv: list[tuple[Tensor, Tensor] | None] = [None] * layers

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See :class:`Cache`."""
        held = self.kv[layer]
        if held is not None:
            k, v = torch.cat([held[0], k], 2), torch.cat([held[1], v], 2)
        self.kv[layer] = (k, v)
        return scaled_dot_product_attention(q, k, v)

    @property
    def nbytes(self) -> int:
        """See :class:`Cache`."""
        return sum(t.nbytes for held in self.kv if held is not None for t in held)


class _Masked:
    """Several scales at once: attention under a mask, remembered in another cache's place."""

    def __init__(self, into: Whole, mask: Tensor) -> None:
        self.into, self.mask = into, mask

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.into.kv[layer] = (k, v)
        return scaled_dot_product_attention(q, k, v, attn_mask=self.mask)

    @property
    def nbytes(self) -> int:
        return self.into.nbytes


class Block(nn.Module):
    """Attention and an MLP, each after a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, layer: int, cache: Cache) -> Tensor:
        """x (B, n, D) of one scale -> (B, n, D)."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(cache.attend(layer, q, k, v).transpose(1, 2).flatten(2))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class NextScale(nn.Module):
    """The model. Models of one :class:`Shape` share their codebook if they are given the same ``seed``."""

    def __init__(self, shape: Shape, width: int = 64, layers: int = 3, heads: int = 4, seed: int = 0) -> None:
        super().__init__()
        self.shape, self.heads, self.layers = shape, heads, layers
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("book", torch.randn(shape.codes, shape.channels, generator=generator))
        self.named = nn.Embedding(shape.classes, width)
        self.read = nn.Linear(shape.channels, width)
        self.places = nn.ParameterList([nn.Parameter(0.3 * torch.randn(s * s, width)) for s in shape.scales])
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, shape.codes)

    @property
    def side(self) -> int:
        """Cells on the side of the finest scale."""
        return self.shape.scales[-1]

    def canvas(self, tokens: Sequence[Tensor]) -> Tensor:
        """What the scales so far have drawn: tokens [(B, s * s)] -> (B, channels, side, side)."""
        book = self.book
        assert isinstance(book, Tensor)
        out = book.new_zeros(tokens[0].shape[0] if tokens else 1, self.shape.channels, self.side, self.side)
        for s, ids in zip(self.shape.scales, tokens):
            small = book[ids].transpose(1, 2).unflatten(-1, (s, s))
            out = out + interpolate(small, (self.side, self.side), mode="bilinear", align_corners=False)
        return out

    def entering(self, classes: Tensor, tokens: Sequence[Tensor]) -> Tensor:
        """The inputs of the scale that follows ``tokens``: classes (B,) -> (B, s * s, D)."""
        k = len(tokens)
        s = self.shape.scales[k]
        x = self.named(classes)[:, None].expand(-1, s * s, -1)
        if tokens:
            small = interpolate(self.canvas(tokens), (s, s), mode="area")
            x = x + self.read(small.flatten(2).transpose(1, 2))
        out: Tensor = x + self.places[k]
        return out

    def scale(self, classes: Tensor, tokens: Sequence[Tensor], cache: Cache) -> Tensor:
        """Logits of the next scale, (B, s * s, codes); its keys and values enter the cache."""
        return self._through(self.entering(classes, tokens), cache)

    def several(self, classes: Tensor, tokens: Sequence[Tensor], cache: Whole | None = None) -> Tensor:
        """Logits of all scales of ``tokens`` in one forward, (B, n, codes), into an empty cache."""
        x = torch.cat([self.entering(classes, tokens[:k]) for k in range(len(tokens))], 1)
        of = torch.cat([torch.full((s * s,), k) for k, s in enumerate(self.shape.scales[: len(tokens)])])
        mask = (of[:, None] >= of).to(x.device)
        return self._through(x, _Masked(Whole(self.layers) if cache is None else cache, mask))

    def loss(self, classes: Tensor, tokens: Sequence[Tensor]) -> Tensor:
        """Cross-entropy of the tokens of all scales."""
        return cross_entropy(self.several(classes, tokens).flatten(0, 1), torch.cat(list(tokens), 1).flatten())

    def _through(self, x: Tensor, cache: Cache) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x, i, cache)
        logits: Tensor = self.head(self.norm(x))
        return logits

    @torch.no_grad()
    def generate(
        self, classes: Tensor, *, cache: Cache | None = None, temperature: float = 1.0, seed: int = 0
    ) -> list[Tensor]:
        """Tokens of every scale, [(B, s * s)]. classes (B,). temperature: 0 takes the most likely codes."""
        held: Cache = Whole(self.layers) if cache is None else cache
        return self.go_on(classes, [], held, len(self.shape.scales), temperature, seed)

    @torch.no_grad()
    def go_on(
        self, classes: Tensor, tokens: list[Tensor], cache: Cache, upto: int, temperature: float, seed: int
    ) -> list[Tensor]:
        """Tokens of the scales up to ``upto``, from those there are. Draws depend on row, scale and seed only."""
        tokens = list(tokens)
        while len(tokens) < upto:
            logits = self.scale(classes, tokens, cache).float()
            if not temperature:
                tokens.append(logits.argmax(-1))
                continue
            rows = []
            for b, row in enumerate(logits):
                dice = torch.Generator().manual_seed(((seed * 1_000_003 + b) * 1_009 + len(tokens)) % 2**63)
                luck = torch.rand(row.shape, generator=dice).clamp(min=1e-30).to(row.device)
                rows.append((row / temperature - (-luck.log()).log()).argmax(-1))
            tokens.append(torch.stack(rows))
        return tokens
