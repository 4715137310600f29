"""What the vision tower leaves for the LLM: which tokens it dropped, and signals, one column for each LLM token."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..reduction import Reduction
from ..report import Report
from . import geometry
from .model import Anatomy, attention_of
from .reads import LAYERED, ONE_BLOCK, Reads, pixels_of, side_of
from .tap import Watch

#: Attribute of the tower's output object that carries the note to the prefill (generate encodes before it runs it).
NOTE = "foveate_note"


@dataclass
class Note:
    """Of one run of the tower, over the T tokens it gives to the LLM.

    Attributes:
        kept: (T,) bool, False where the encoder dropped or merged away the token; None when it dropped nothing there.
        ends: (T,) bool, True at tokens that only end a line; None when there are none.
        scores: by signal name, (C, T) float: C channels.
        raw: by signal name, (images, C, N), not yet pooled to LLM tokens.
    """

    kept: Tensor | None = None
    ends: Tensor | None = None
    scores: dict[str, Tensor] = field(default_factory=dict)
    raw: dict[str, Tensor] = field(default_factory=dict)

    @property
    def length(self) -> int | None:
        """T, or None where nothing tells it."""
        sizes = [t.shape[-1] for t in self.scores.values()] + ([len(self.kept)] if self.kept is not None else [])
        return sizes[0] if sizes else None


def pool(name: str, raw: Tensor, anatomy: Anatomy) -> Tensor:
    """raw (images, C, N) over encoder tokens -> (C, T) over LLM tokens; where several become one they are averaged.

    Pixels are not: they are listed side by side.
    """
    how = anatomy.family.pool
    if how == "groups":
        raw = raw.unflatten(-1, (-1, anatomy.unit))  # (images, C, T, unit)
    elif how in ("shuffle", "average"):
        side = math.isqrt(raw.shape[-1])
        f = factor(anatomy, side)
        raw = raw.unflatten(-1, (side // f, f, side // f, f)).transpose(3, 4).flatten(4).flatten(2, 3)
    else:
        raw = raw[..., None]
    if name == "pixels":  # (images, 3, values, T, patches) -> all patches of a token side by side under each colour
        raw = raw.unflatten(1, (3, -1)).permute(0, 1, 4, 2, 3).flatten(1, 3)[..., None]
    pooled: Tensor = raw.mean(-1)
    return pooled.movedim(1, 0).flatten(1)


def factor(anatomy: Anatomy, side: int) -> int:
    """How many patches on a side become one LLM token, for families that shuffle or average squares."""
    config = anatomy.model.config
    if anatomy.family.pool == "average":
        return int(side // round(config.mm_tokens_per_image**0.5))
    ratio: float = getattr(config, "scale_factor", None) or 1 / config.downsample_ratio
    return round(float(ratio))


def window_order(tower: Any, grid: Tensor) -> Tensor | None:
    """For towers with window attention: (groups,) the raster position of each group in window order, else None."""
    if not hasattr(tower, "window_size"):
        return None
    from transformers.vision_utils import get_vision_window_index

    index, _ = get_vision_window_index(
        grid, spatial_merge_size=tower.spatial_merge_size, window_size=tower.window_size, patch_size=tower.patch_size
    )
    return torch.as_tensor(index, device=grid.device)


class Tower:
    """Hooks around the whole tower: collect what is read, pool it, and leave the note on the output."""

    def __init__(self, anatomy: Anatomy, want: frozenset[str], report: Report) -> None:
        self.anatomy, self.want = anatomy, want
        at, p = anatomy.feature_block, anatomy.prefix
        self.reads: dict[int, Reads] = {}
        if one := want & {*ONE_BLOCK}:
            self.reads[at] = Reads(one, p, report)
        self.layered: list[Reads] = []
        if every := want & {*LAYERED}:
            self.layered = [Reads(every, p, report) for _ in range(at + 1)]
        self.note: Note | None = None
        self.recent: list[Note] = []
        self.order: Tensor | None = None
        self.grid: Tensor | None = None
        self.values: Tensor | None = None

    @property
    def packed(self) -> bool:
        """Whether the tower takes one long sequence of patches."""
        return self.anatomy.family.tower == "packed"

    def watchers(self) -> dict[nn.Module, list[Watch]]:
        """What to install in the tap."""
        out: dict[nn.Module, list[Watch]] = {}
        for i, reads in [*self.reads.items(), *enumerate(self.layered)]:
            out.setdefault(attention_of(self.anatomy.blocks[i]), []).append(reads)
        return out

    def start(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Pre-hook of the tower."""
        self.note = Note()
        for reads in [*self.reads.values(), *self.layered]:
            reads.parts = {}  # of a run that failed half-way
        names = ("pixel_values", "hidden_states", "flatten_patches")
        self.values = next((kwargs[k] for k in names if k in kwargs), args[0] if args else None)
        if self.packed:
            grid: Tensor = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
            self.grid, self.order = grid, window_order(module, grid)

    def finish(self, lift: Reduction | None, kept: Tensor | None, images: int, patches: int) -> Note:
        """Pool what was read. ``lift``: the encoder's map up to the block read, to bring scores back to all tokens.

        images, patches: the tower's rows, and patches in one of them, before any map.
        """
        note = self.note or Note()
        note.kept = kept
        for reads in self.reads.values():
            note.raw |= reads.take(self.packed)
        if lift is not None:
            note.raw = {k: _lift(v, lift, self.anatomy) for k, v in note.raw.items()}
        layers = [reads.take(self.packed) for reads in self.layered]
        note.raw |= {k: torch.cat([taken[k] for taken in layers], 1) for k in (layers[0] if layers else ())}
        if "pixels" in self.want and self.values is not None:
            note.raw["pixels"] = pixels_of(self.values, self.anatomy.encoder.config)
        if lead := self.anatomy.lead:  # class tokens have no score, and are always kept
            note.raw = {k: pad(v, (lead, 0)) for k, v in note.raw.items()}
        if self.anatomy.family.pool != "pack":
            note.scores = {k: self.raster(pool(k, v, self.anatomy)) for k, v in note.raw.items()}
            if self.want:
                self._cells(note, images, patches)
        self.recent.append(note)
        return note

    def _cells(self, note: Note, images: int, patches: int) -> None:
        """Add the signals grid and crop."""
        a = self.anatomy
        if self.packed and self.grid is not None:
            cells = geometry.packed(self.grid, math.isqrt(a.unit))
        else:
            f = factor(a, math.isqrt(patches)) if a.family.pool in ("shuffle", "average") else 1
            device = self.values.device if self.values is not None else torch.device("cpu")
            cells = geometry.square(images, patches // f**2, device, self._rows(patches, f))
            if a.lead:
                ends = torch.zeros(images, a.lead + patches, dtype=torch.bool, device=device)
                ends[:, : a.lead] = True
                note.ends = ends.flatten()
                cells = pad(cells.unflatten(1, (images, -1)), (a.lead, 0), value=-1).flatten(1)
        note.scores["grid"] = cells.float()

    def cells(self, images: int, n: int) -> Tensor | None:
        """Cells of what the blocks work on, (B, n, 3): patches, with -1 at class tokens, or groups of a packed tower.

        None where the patches form no grid.
        """
        if self.packed and self.grid is not None:
            cells = geometry.packed(self.grid, math.isqrt(self.anatomy.unit))
            return (cells if self.order is None else cells[:, self.order]).T[None]
        p = self.anatomy.prefix
        rows = self._rows(n - p, 1)
        if rows is None and math.isqrt(n - p) ** 2 != n - p:
            return None
        device = self.values.device if self.values is not None else torch.device("cpu")
        one = geometry.square(1, n - p, device, rows).T[None]
        return pad(one, (0, 0, p, 0), value=-1).expand(images, -1, -1)

    def _rows(self, patches: int, f: int) -> int | None:
        """Rows of the grid of LLM tokens of one image, from the shape of the pixels."""
        config = self.anatomy.encoder.config
        if self.values is None or self.values.ndim != 4 or not hasattr(config, "patch_size"):
            return None
        p = side_of(config)
        rows, cols = self.values.shape[-2] // p, self.values.shape[-1] // p
        return rows // f if rows * cols == patches else None

    def raster(self, t: Tensor) -> Tensor:
        """(..., groups) in the tower's order -> in the order of the LLM's tokens."""
        return t if self.order is None else torch.empty_like(t).index_copy(-1, self.order.to(t.device), t)


def _lift(raw: Tensor, lift: Reduction, anatomy: Anatomy) -> Tensor:
    """(images, C, m) of a shortened tower -> (images, C, N): every token reads the score of the slot it went to."""
    if anatomy.family.tower == "packed":
        raw = raw.unflatten(-1, (-1, anatomy.unit)).mean(-1)
        full = lift.expand(raw.mT)
        return full.mT.repeat_interleave(anatomy.unit, dim=-1)
    p = anatomy.prefix
    padded = pad(raw, (p, 0))
    return lift.expand(padded.mT).mT[..., p:]
