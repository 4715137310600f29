"""What the vision tower leaves for the LLM: which tokens it dropped, and scores, one column for each LLM token."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..parts.score import attention_rows, received
from ..reduction import Reduction
from ..report import Report
from .model import Anatomy, attention_of
from .tap import Seen, Watch

#: Attribute of the tower's output object that carries the note to the prefill (generate encodes before it runs it).
NOTE = "foveate_note"


@dataclass
class Note:
    """Of one run of the tower, over the T tokens it gives to the LLM.

    Attributes:
        kept: (T,) bool, False where the encoder dropped or merged away the token; None when it dropped nothing there.
        scores: by signal name, (C, T) float: C channels (heads).
        raw: by signal name, (images, C, N), not yet pooled to LLM tokens.
    """

    kept: Tensor | None = None
    scores: dict[str, Tensor] = field(default_factory=dict)
    raw: dict[str, Tensor] = field(default_factory=dict)


class Rows(Watch):
    """Watches the attention of the block that feeds the projector and keeps the rows that methods need."""

    def __init__(self, want: frozenset[str], prefix: int, report: Report) -> None:
        self.want, self.prefix, self.report = want, prefix, report
        self.parts: dict[str, list[Tensor]] = {}

    def after(self, seen: Seen) -> None:
        """Called once for each image batch, or once for each segment of a packed tower."""
        row = self.report.row("encoder", "signals: " + ", ".join(sorted(self.want)))
        with self.report.clock(row, seen.q.device):
            self._read(seen)

    def _read(self, seen: Seen) -> None:
        p = self.prefix
        if "cls_attention" in self.want:
            mask = None if seen.mask is None else seen.mask[:, :, :1]
            row = attention_rows(seen.q[:, :, :1], seen.k, seen.scaling, mask)[:, :, 0, p:]
            self.parts.setdefault("cls_attention", []).append(row)
        if "received_attention" in self.want:
            row = received(seen.q, seen.k, seen.scaling, seen.mask)[:, None, p:]
            self.parts.setdefault("received_attention", []).append(row)

    def take(self, packed: bool) -> dict[str, Tensor]:
        """name -> (images, C, N), or (1, C, all patches) of a packed tower; forgets them."""
        out = {k: torch.cat(v, dim=-1 if packed else 0) for k, v in self.parts.items()}
        self.parts = {}
        return out


def pool(raw: Tensor, anatomy: Anatomy) -> Tensor:
    """raw (images, C, N) over encoder tokens -> (C, T) over LLM tokens, averaged where several become one."""
    how = anatomy.family.pool
    if how == "groups":
        raw = raw.unflatten(-1, (-1, anatomy.unit)).mean(-1)
    elif how in ("shuffle", "average"):
        side = round(raw.shape[-1] ** 0.5)
        f = _factor(anatomy, side)
        raw = raw.unflatten(-1, (side // f, f, side // f, f)).mean((3, 5)).flatten(2)
    return raw.movedim(1, 0).flatten(1)


def _factor(anatomy: Anatomy, side: int) -> int:
    config = anatomy.model.config
    if anatomy.family.pool == "average":
        return int(side // round(config.mm_tokens_per_image**0.5))
    ratio: float = getattr(config, "scale_factor", None) or 1 / config.downsample_ratio
    return round(float(ratio))


def follow_packing(anatomy: Anatomy, current: Callable[[], Note | None], stack: ExitStack) -> None:
    """For families that pack crops with newlines: run their own packing on the scores too, so that columns agree.

    Newline tokens score infinity: they are always kept. The wrapped methods are instance attributes, removed at exit.
    """
    core = anatomy.core

    def wrap(name: str, on_scores: Callable[..., Tensor]) -> None:
        if not hasattr(core, name):
            return
        real = getattr(core, name)

        def both(features: Any, *args: Any, **kwargs: Any) -> Any:
            note = current()
            if note is not None:
                note.scores.update({k: on_scores(real, v, features, args, kwargs) for k, v in note.raw.items()})
            return real(features, *args, **kwargs)

        def named(*args: Any, **kwargs: Any) -> Any:
            features = kwargs.pop("image_features") if "image_features" in kwargs else args[0]
            return both(features, *args[1:], **kwargs)

        core.__dict__[name] = named
        stack.callback(core.__dict__.pop, name)

    def crops(real: Any, raw: Tensor, features: Any, args: Any, kwargs: Any) -> Tensor:
        split = raw.mT.split([len(f) for f in features])  # each (crops, N, C)
        newline = torch.full((raw.shape[1],), torch.inf, device=raw.device)
        given = {**kwargs, "image_newline": newline} if "image_newline" in kwargs else kwargs
        packed, _ = real(list(split), *args, **given)
        return torch.cat(list(packed)).mT

    def frames(real: Any, raw: Tensor, features: Tensor, args: Any, kwargs: Any) -> Tensor:
        pooled = real(raw.mT.contiguous(), *args, **kwargs)  # (frames of all videos, N', C)
        pooled = pooled.reshape(videos[0], -1, pooled.shape[-1])
        return pad(pooled, (0, 0, 0, 1), value=torch.inf).flatten(0, 1).mT  # a newline ends each video

    videos = [1]  # how many are being encoded
    if hasattr(core, "get_video_features"):
        encode = core.get_video_features

        @functools.wraps(encode)  # generate reads its signature
        def counted(*args: Any, **kwargs: Any) -> Any:
            named = [kwargs[k] for k in ("pixel_values_videos", "pixel_values") if k in kwargs]
            videos[0] = (args or named)[0].shape[0]
            return encode(*args, **kwargs)

        core.__dict__["get_video_features"] = counted
        stack.callback(core.__dict__.pop, "get_video_features")
    wrap("pack_image_features", crops)
    wrap("apply_pooling", frames)


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
    """Hooks around the whole tower: collect rows, pool them, and leave the note on the output."""

    def __init__(self, anatomy: Anatomy, want: frozenset[str], report: Report) -> None:
        self.anatomy, self.rows = anatomy, Rows(want, anatomy.prefix, report)
        self.note: Note | None = None
        self.recent: list[Note] = []
        self.order: Tensor | None = None
        self.grid: Tensor | None = None

    @property
    def packed(self) -> bool:
        """Whether the tower takes one long sequence of patches."""
        return self.anatomy.family.tower == "packed"

    @property
    def block(self) -> nn.Module:
        """The block whose attention is read."""
        return self.anatomy.blocks[self.anatomy.feature_block]

    def watchers(self) -> dict[nn.Module, list[Watch]]:
        """What to install in the tap."""
        return {attention_of(self.block): [self.rows]} if self.rows.want else {}

    def start(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Pre-hook of the tower."""
        self.note = Note()
        self.rows.parts = {}  # of a run that failed half-way
        if self.packed:
            grid: Tensor = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
            self.grid, self.order = grid, window_order(module, grid)

    def finish(self, lift: Reduction | None, kept: Tensor | None) -> Note:
        """Pool what was read. ``lift``: the encoder's map up to the block read, to bring scores back to all tokens."""
        note = self.note or Note()
        note.kept = kept
        note.raw = self.rows.take(self.packed)
        if lift is not None:
            note.raw = {k: _lift(v, lift, self.anatomy) for k, v in note.raw.items()}
        if lead := self.anatomy.lead:  # class tokens have no score, and are always kept
            note.raw = {k: pad(v, (lead, 0), value=torch.inf) for k, v in note.raw.items()}
        if self.anatomy.family.pool != "pack":
            note.scores = {k: self.raster(pool(v, self.anatomy)) for k, v in note.raw.items()}
        self.recent.append(note)
        return note

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
