"""From the vision tower's note to what a method sees: one column of the note for each placeholder of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .model import Anatomy
from .reads import CLASS, LAYERED, ONE_BLOCK, side_of
from .vision import Note

#: Signals that come from the vision encoder.
VISION = (*ONE_BLOCK, *LAYERED, "grid", "crop", "pixels", "times")
Columns = list[tuple[Note, Tensor]]


def given(anatomy: Anatomy) -> set[str]:
    """Those that the encoder of this model can give to the LLM's stages."""
    if not anatomy.family.pool or anatomy.encoder is None:
        return set()
    return {s for s in VISION if s not in CLASS or anatomy.prefix}


def columns(anatomy: Anatomy, ids: Tensor, notes: list[Note]) -> Columns:
    """For each note (B, n): the column of the note's T tokens that stands at each placeholder, -1 elsewhere."""
    out = []
    left = list(notes)
    for wanted in (anatomy.image_ids, anatomy.video_ids):
        mine = torch.isin(ids, torch.tensor(wanted, device=ids.device, dtype=ids.dtype)) if wanted else None
        if mine is None or not left or not bool(mine.any()):
            continue
        note = left.pop(0)
        counts = mine.sum(1)
        total = int(counts.sum())
        if note.length is None or total % note.length:
            continue
        repeat = total // note.length  # beams: generate repeats each prompt's rows
        own = counts[::repeat]
        start = (own.cumsum(0) - own).repeat_interleave(repeat)[: len(counts)]
        column = (start[:, None] + mine.cumsum(1) - 1).masked_fill(~mine, -1)
        out.append((note, column))
    return out


def ends(columns: Columns, shape: Sequence[int], device: torch.device) -> Tensor:
    """(B, n) bool: placeholders that only end a line; methods never see them, and they always stay."""
    out = torch.zeros(*shape, dtype=torch.bool, device=device)
    for note, column in columns:
        if note.ends is not None:
            out |= (column >= 0) & note.ends[column.clamp(min=0)]
    return out


def read(anatomy: Anatomy, name: str, places: list[tuple[int, Tensor]], columns: Columns) -> Tensor | None:
    """A signal for items of equal lengths, each a row and its positions (n,), in the shape that Tokens wants."""
    for note, column in columns:
        at = torch.stack([column[row, where] for row, where in places])
        if bool((at < 0).any()):
            continue
        source = "grid" if name == "times" or (name == "crop" and name not in note.scores) else name
        if source not in note.scores:
            return None
        return _shaped(anatomy, name, source, note.scores[source][:, at].movedim(0, 1))
    return None


def _shaped(anatomy: Anatomy, name: str, source: str, value: Tensor) -> Tensor:
    """value (items, C, n) of a note -> the signal."""
    if name == "grid":
        cells: Tensor = value.mT.round().long()
        cells[..., 0] -= cells[..., 0].amin(1, keepdim=True)  # views count from the item's first
        return cells
    if name == "crop":
        if source == "crop":
            return value[:, 0].round().long()
        view = value[:, 0].round().long()
        view = view - view.amin(1, keepdim=True)
        last = view.amax(1, keepdim=True)
        whole = (view == last) if anatomy.family.thumbnail_last else torch.ones_like(view, dtype=torch.bool)
        return torch.where(whole, 0, view + 1)
    if name == "times":  # frames counted; the site knows how long one lasts
        return value[:, 0] - value[:, 0].amin(1, keepdim=True)
    if name in ("metric", "keys"):
        return value.mT
    if name == "pixels":
        coloured: Tensor = value.mT.unflatten(-1, (3, -1, side_of(anatomy.encoder.config)))
        return coloured
    return value if name in ("cls_attention", *LAYERED) else value[:, 0]
