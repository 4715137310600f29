"""The one object every method returns: a sparse map from ``n`` tokens to ``m``.

Selection, merging, pooling and many-to-many mixing are all rows of one matrix ``A (m, n)`` with ``out = A x``. A
:class:`Reduction` holds that matrix for a batch, sparsely where it can be (each input goes to at most one output slot)
and densely where it must be (an input is shared by several slots).

Longer than 300 lines because the whole algebra of maps is one class, and a reader wants it on one page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from .errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Reduction:
    """``out[b, s] = sum over i with assign[b, i] == s of weight[b, i] * x[b, i]``.

    Attributes:
        keep: (B, m) int64, strictly ascending in each row; the input position that each output slot inherits (its RoPE
            position, its grid cell). Rows that keep fewer than ``m`` tokens end in ``-1``. Only :meth:`listed` gives
            another order.
        assign: (B, n) int64; the slot each input goes to, ``-1`` where it is dropped.
        weight: (B, n) float32; the share of each input in its slot. The shares of a slot sum to 1 unless the method
            declares otherwise.
        matrix: (B, m, n) float32 or None; given only by many-to-many maps, and then used instead of assign and weight.
        selects: True for a pure selection; applying it is then one gather, exact in every dtype.
    """

    keep: Tensor
    assign: Tensor
    weight: Tensor
    matrix: Tensor | None = None
    selects: bool = False

    # --- makers -------------------------------------------------------------------------------------------------

    @classmethod
    def take(cls, keep: Tensor, n: int) -> Reduction:
        """Pure selection. keep (B, m) int64 in any order, distinct in a row -> slots in input order."""
        keep = keep.sort(-1).values
        slots = torch.arange(keep.shape[-1], device=keep.device).expand_as(keep)
        assign = keep.new_full((keep.shape[0], n), -1).scatter(1, keep, slots)
        return cls(keep, assign, (assign >= 0).float(), selects=True)

    @classmethod
    def identity(cls, b: int, n: int, device: torch.device | str = "cpu") -> Reduction:
        """Every token kept: (B, n) -> (B, n)."""
        keep = torch.arange(n, device=device).expand(b, n)
        return cls(keep, keep, torch.ones(b, n, device=device), selects=True)

    @classmethod
    def from_mask(cls, mask: Tensor) -> Reduction:
        """mask (B, n) bool, True where kept -> selection; rows may keep different numbers (short rows end in -1)."""
        counts = mask.sum(-1)
        m = int(counts.max()) if mask.numel() else 0
        keep = torch.argsort((~mask).to(torch.uint8), dim=-1, stable=True)[:, :m]
        keep = keep.masked_fill(torch.arange(m, device=mask.device) >= counts[:, None], -1)
        assign = (mask.cumsum(-1) - 1).masked_fill(~mask, -1)
        return cls(keep, assign, mask.float(), selects=True)

    @classmethod
    def merge(cls, into: Tensor, size: Tensor | None = None) -> Reduction:
        """Average tokens into destinations.

        into: (B, n) int64, for each input the *position* of the token it merges into (itself for a token that stays,
            -1 for one that is dropped); a destination must point to itself.
        size: (B, n) float or None, how many original tokens each input stands for; the average is weighted by it.
        """
        b, n = into.shape
        stays = into == torch.arange(n, device=into.device)
        counts = stays.sum(-1)
        if b and bool((counts != counts[0]).any()):
            raise InputError(f"rows merge into different numbers of tokens ({counts.tolist()}); merge them row by row")
        if not bool((stays.gather(1, into.clamp(min=0)) | (into < 0)).all()):
            raise InputError("a token merges into one that is itself merged away; a destination points to itself")
        m = int(counts[0]) if b else 0
        keep = stays.nonzero()[:, 1].view(b, m)
        slot = (stays.cumsum(-1) - 1).gather(1, into.clamp(min=0)).masked_fill(into < 0, -1)
        share = torch.ones(b, n, device=into.device) if size is None else size.float()
        share = share * (slot >= 0)
        if m in (0, n):  # nothing is left, or nothing was merged
            return cls(keep, slot, (slot >= 0).float(), selects=True)
        total = share.new_zeros(b, m).scatter_add(1, slot.clamp(min=0), share)
        return cls(keep, slot, share / total.gather(1, slot.clamp(min=0)).clamp(min=torch.finfo(torch.float32).tiny))

    @classmethod
    def dense(cls, matrix: Tensor, keep: Tensor) -> Reduction:
        """Any linear map. matrix (B, m, n), keep (B, m): the position each slot inherits."""
        matrix = matrix.float()
        if not matrix.shape[1]:
            return cls.from_mask(torch.zeros_like(matrix[:, :0].sum(1), dtype=torch.bool))
        best = _strongest(matrix)
        share = matrix.gather(1, best[:, None])[:, 0]
        return cls(keep, best.masked_fill(share == 0, -1), share, matrix)

    @classmethod
    def cat(cls, parts: Sequence[Reduction]) -> Reduction:
        """Several maps side by side over the token axis (block-diagonal). All parts share the batch size."""
        if len({p.b for p in parts}) != 1:
            raise InputError(f"maps side by side must have the same number of rows. Got {[p.b for p in parts]}.")
        keep, assign, n, m = [], [], 0, 0
        for p in parts:
            keep.append(torch.where(p.keep >= 0, p.keep + n, -1))
            assign.append(torch.where(p.assign >= 0, p.assign + m, -1))
            n, m = n + p.n, m + p.m
        matrix = None
        if any(p.matrix is not None for p in parts):
            dense = [pad(p.to_dense(), (at, n - at - p.n)) for p, at in zip(parts, _starts(parts))]
            matrix = torch.cat(dense, 1)
        selects = all(p.selects for p in parts)
        weight = torch.cat([p.weight for p in parts], 1)
        return cls(torch.cat(keep, 1), torch.cat(assign, 1), weight, matrix, selects)._packed()

    @classmethod
    def stack(cls, rows: Sequence[Reduction]) -> Reduction:
        """Several maps over the same n as one batch; rows that keep fewer tokens end in -1."""
        if len({r.n for r in rows}) != 1:
            raise InputError(f"maps of one batch must take the same number of tokens. Got {[r.n for r in rows]}.")
        m = max(r.m for r in rows)
        keep = torch.cat([pad(r.keep, (0, m - r.m), value=-1) for r in rows])
        matrix = None
        if any(r.matrix is not None for r in rows):
            matrix = torch.cat([pad(r.to_dense(), (0, 0, 0, m - r.m)) for r in rows])
        assign, weight = torch.cat([r.assign for r in rows]), torch.cat([r.weight for r in rows])
        return cls(keep, assign, weight, matrix, all(r.selects for r in rows))

    # --- facts --------------------------------------------------------------------------------------------------

    @property
    def b(self) -> int:
        """Number of rows."""
        return self.assign.shape[0]

    @property
    def n(self) -> int:
        """Tokens in."""
        return self.assign.shape[1]

    @property
    def m(self) -> int:
        """Token slots out (of the longest row)."""
        return self.keep.shape[1]

    @property
    def valid(self) -> Tensor:
        """(B, m) bool: slots that hold a token."""
        return self.keep >= 0

    @property
    def lengths(self) -> Tensor:
        """(B,) int64: tokens out of each row."""
        return self.valid.sum(-1)

    @property
    def kept(self) -> Tensor:
        """(B, n) bool: input positions that an output slot inherits."""
        mask = self.assign.new_zeros(self.b, self.n + 1, dtype=torch.bool)
        return mask.scatter(1, torch.where(self.valid, self.keep, self.n), True)[:, : self.n]

    def size(self, size: Tensor | None = None) -> Tensor:
        """How many original tokens each slot stands for. size (B, n) of the inputs, default ones -> (B, m).

        An input shared by several slots counts in each by its part of the shares, so the sum is that of what was kept.
        """
        size = torch.ones_like(self.weight) if size is None else size.float()
        if self.matrix is not None:
            part = self.matrix.abs()
            part = part / part.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
            return (part @ size[..., None])[..., 0]
        return self._add(size)

    def to_dense(self) -> Tensor:
        """(B, m, n) float32 matrix of the map."""
        if self.matrix is not None:
            return self.matrix
        out = self.weight.new_zeros(self.b, self.m + 1, self.n)
        slot = torch.where(self.assign >= 0, self.assign, self.m)  # dropped inputs go to a spare last slot
        return out.scatter(1, slot[:, None], self.weight[:, None])[:, : self.m]

    def _add(self, x: Tensor) -> Tensor:
        """Sum inputs into their slots. x (B, n, ...) -> (B, m, ...)."""
        if not self.m:
            return x[:, :0].clone()
        x = x.masked_fill(_trailing(self.assign < 0, x.ndim), 0)
        slot = _trailing(self.assign.clamp(min=0), x.ndim).expand_as(x)
        return x.new_zeros(self.b, self.m, *x.shape[2:]).scatter_add(1, slot, x)

    # --- use ----------------------------------------------------------------------------------------------------

    def apply(self, x: Tensor) -> Tensor:
        """x (B, n, ...) -> (B, m, ...), in x's dtype; sums run in float32 or wider. Empty slots read 0."""
        if x.shape[:2] != (self.b, self.n):
            raise InputError(f"this reduction maps ({self.b}, {self.n}) tokens; it was given {tuple(x.shape[:2])}")
        if self.selects and self.matrix is None:
            return self.gather(x).masked_fill(_trailing(~self.valid, x.ndim), 0)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.matrix is None:
            return self._add(wide * _trailing(self.weight, x.ndim)).to(x.dtype)
        out = _product(self.matrix.to(wide.dtype), wide.reshape(self.b, self.n, math.prod(x.shape[2:])))
        return out.to(x.dtype).view(self.b, self.m, *x.shape[2:])

    __call__ = apply

    def expand(self, y: Tensor) -> Tensor:
        """Lift back (virtual unmerging): y (B, m, ...) -> (B, n, ...). Each input reads its slot, dropped ones 0."""
        if y.shape[:2] != (self.b, self.m):
            raise InputError(f"this reduction lifts ({self.b}, {self.m}) slots; it was given {tuple(y.shape[:2])}")
        spare = torch.cat([y, y.new_zeros(self.b, 1, *y.shape[2:])], 1)  # slot -1 is the last one
        rows = torch.arange(self.b, device=y.device)[:, None]
        return spare[rows, self.assign]

    def spread(self, y: Tensor) -> Tensor:
        """Put each slot at the position it inherits: y (B, m, ...) -> (B, n, ...), 0 elsewhere."""
        out = y.new_zeros(self.b, self.n + 1, *y.shape[2:])
        index = _trailing(torch.where(self.valid, self.keep, self.n), y.ndim).expand_as(y)
        return out.scatter(1, index, y)[:, : self.n]

    def gather(self, x: Tensor, dim: int = 1) -> Tensor:
        """Pick what each slot inherits, without mixing (positions, masks, ids): x[b, ..., keep, ...] along ``dim``."""
        if dim != 1:
            return self.gather(x.movedim(dim, 1)).movedim(1, dim)
        index = _trailing(self.keep.clamp(min=0), x.ndim).expand(-1, -1, *x.shape[2:])
        return x.expand(self.b, *x.shape[1:]).gather(1, index)

    def then(self, other: Reduction) -> Reduction:
        """``other`` after ``self``, as one map: ``a.then(b)(x) == b(a(x))``."""
        if (other.b, other.n) != (self.b, self.m):
            raise InputError(f"cannot follow a map to {self.m} tokens by one from {other.n}")
        keep = pad(self.keep, (0, 1), value=-1).gather(1, torch.where(other.valid, other.keep, self.m))
        if self.matrix is not None or other.matrix is not None:
            return Reduction.dense(other.to_dense() @ self.to_dense(), keep)
        at = torch.where(self.assign >= 0, self.assign, self.m)
        assign = pad(other.assign, (0, 1), value=-1).gather(1, at)
        weight = self.weight * pad(other.weight, (0, 1)).gather(1, at)
        return Reduction(keep, assign, weight, None, self.selects and other.selects)

    def restrict(self, start: int, stop: int) -> Reduction:
        """The part of the map on inputs ``start:stop`` and the slots that inherit from there (positions recounted)."""
        inside = (self.keep >= start) & (self.keep < stop)
        rows = []
        for b in range(self.b):
            slots = inside[b].nonzero()[:, 0]
            keep, weight = self.keep[b : b + 1, slots] - start, self.weight[b : b + 1, start:stop]
            if self.matrix is not None:
                rows.append(Reduction.dense(self.matrix[b : b + 1, slots, start:stop], keep))
                continue
            new = self.assign.new_full((self.m + 1,), -1)
            new[slots] = torch.arange(len(slots), device=new.device)
            assign = new[self.assign[b, start:stop]]  # index -1 reads the spare last entry, which is -1
            rows.append(Reduction(keep, assign[None], weight, None, self.selects))
        return Reduction.stack(rows)

    def place(self, where: Tensor, n: int) -> Reduction:
        """The same map on a longer sequence: input i of it is position where[i] of n; all other positions stay.

        where: (n_here,) int64, ascending, shared by all rows.
        """
        kept = torch.ones(self.b, n, dtype=torch.bool, device=self.keep.device)
        kept[:, where] = self.kept
        out = Reduction.from_mask(kept)
        here = pad(out.assign[:, where], (0, 1), value=-1)  # slot of each of our inputs, and -1 for none
        here = here.gather(1, torch.where(self.valid, self.keep, self.n))  # (B, m): our slots in the longer map
        assign, weight = out.assign.clone(), out.weight.clone()
        assign[:, where] = pad(here, (0, 1), value=-1).gather(1, torch.where(self.assign >= 0, self.assign, self.m))
        weight[:, where] = self.weight
        if self.matrix is None:
            return Reduction(out.keep, assign, weight, None, self.selects)
        matrix = out.to_dense()
        for b in range(self.b):
            matrix[b, here[b, self.valid[b], None], where[None]] = self.matrix[b, self.valid[b]]
        return Reduction(out.keep, assign, weight, matrix)

    def listed(self, order: Tensor) -> Reduction:
        """The same map with its slots in another order. order (B, m) int64: the kept positions as they are to come."""
        rank = self.assign.gather(1, order)  # (B, m): the slot that comes s-th
        if self.matrix is not None or not torch.equal(self.keep.gather(1, rank.clamp(min=0)), order):
            raise InputError("only the kept positions of a map without padding or mixing can be listed anew")
        back = torch.empty_like(rank).scatter(1, rank, torch.arange(self.m, device=rank.device).expand_as(rank))
        assign = pad(back, (0, 1), value=-1).gather(1, torch.where(self.assign >= 0, self.assign, self.m))
        return Reduction(order, assign, self.weight, None, self.selects)

    def _packed(self) -> Reduction:
        """The same map with empty slots at the end of each row and none in the longest."""
        if bool(self.valid.all()):
            return self
        m = int(self.lengths.max())
        order = (~self.valid).to(torch.uint8).argsort(stable=True, dim=-1)  # (B, m): slots, full ones first
        back = torch.empty_like(order).scatter(1, order, torch.arange(self.m, device=order.device).expand_as(order))
        assign = pad(back, (0, 1), value=-1).gather(1, torch.where(self.assign >= 0, self.assign, self.m))
        matrix = None
        if self.matrix is not None:
            matrix = self.matrix.gather(1, order[:, :m, None].expand(-1, -1, self.n))
        return Reduction(self.keep.gather(1, order)[:, :m], assign, self.weight, matrix, self.selects)

    def row(self, b: int) -> Reduction:
        """Row b alone, without its padding."""
        m = int(self.lengths[b])
        matrix = None if self.matrix is None else self.matrix[b : b + 1, :m]
        return Reduction(self.keep[b : b + 1, :m], self.assign[b : b + 1], self.weight[b : b + 1], matrix, self.selects)

    def draw(self, image: Image, grid: tuple[int, int], row: int = 0) -> Image:
        """The image with dropped cells darkened. grid: (rows, columns) of tokens; returns a new PIL image."""
        from .show import draw_kept

        drawn: Image = draw_kept(image, self.kept[row].view(grid))
        return drawn

    # --- data ---------------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reduction):
            return NotImplemented
        same = torch.equal(self.keep, other.keep) and torch.equal(self.assign, other.assign)
        if (self.matrix is None) != (other.matrix is None):
            return False
        if self.matrix is not None and other.matrix is not None:
            return torch.equal(self.keep, other.keep) and torch.equal(self.matrix, other.matrix)
        return same and torch.equal(self.weight * (self.assign >= 0), other.weight * (other.assign >= 0))

    __hash__ = None  # type: ignore[assignment]  # compared by value, so not usable as a key

    def __repr__(self) -> str:
        kind = "mix" if self.matrix is not None else "map"
        return f"Reduction({self.b} x {self.n} -> {self.m}, {kind})"

    def to(self, device: torch.device | str) -> Reduction:
        """The same map on another device."""
        matrix = None if self.matrix is None else self.matrix.to(device)
        keep, assign, weight = self.keep.to(device), self.assign.to(device), self.weight.to(device)
        return Reduction(keep, assign, weight, matrix, self.selects)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the map to a safetensors file."""
        from safetensors.torch import save_file

        data = {"keep": self.keep, "assign": self.assign, "weight": self.weight, "selects": torch.tensor(self.selects)}
        if self.matrix is not None:
            data["matrix"] = self.matrix
        save_file({k: v.cpu().clone(memory_format=torch.contiguous_format) for k, v in data.items()}, path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Reduction:
        """Read a map written by :meth:`save`."""
        from safetensors.torch import load_file

        data: dict[str, Any] = load_file(path)
        return cls(**{**data, "selects": bool(data["selects"])})


def _trailing(x: Tensor, ndim: int) -> Tensor:
    """x (B, n) with as many dimensions of size 1 appended as make ``ndim``."""
    return x.reshape(*x.shape, *[1] * (ndim - 2))


def _starts(parts: Sequence[Reduction]) -> list[int]:
    """Where the inputs of each part begin."""
    return [sum(p.n for p in parts[:i]) for i in range(len(parts))]


def _strongest(matrix: Tensor, block: int = 64) -> Tensor:
    """matrix (B, m, n) -> (B, n): the slot with the largest absolute share of each input, the first of equal ones.

    By blocks of slots first: the position of a maximum along this dimension is slow to find, the maximum is not.
    """
    m = matrix.shape[1]
    whole = m // block * block
    if not whole:
        return matrix.abs().argmax(1)
    parts = matrix[:, :whole].unflatten(1, (-1, block))
    peak = torch.maximum(parts.amax(2), -parts.amin(2))  # (B, m / block, n), without a copy of the matrix
    if whole < m:
        peak = torch.cat([peak, matrix[:, whole:].abs().amax(1, keepdim=True)], 1)
    first = peak.argmax(1) * block
    inside = torch.arange(block, device=matrix.device)[:, None] + first[:, None]  # (B, block, n)
    return first + matrix.gather(1, inside.clamp(max=m - 1)).abs().argmax(1)


def _product(matrix: Tensor, x: Tensor) -> Tensor:
    """matrix (B, m, n) @ x (B, n, D); on a CPU a large matrix with few entries is multiplied as such."""
    large = matrix.device.type == "cpu" and matrix.numel() * x.shape[-1] > 1 << 30 and not matrix.requires_grad
    if large and matrix.dtype == torch.float32 and int(matrix.count_nonzero()) < matrix.numel() / 50:
        return torch.stack([torch.sparse.mm(one.to_sparse(), rows) for one, rows in zip(matrix, x)])
    return matrix @ x
