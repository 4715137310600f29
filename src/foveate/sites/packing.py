"""Families that pack crops into lines with newline tokens: their own packing is run on the signals too."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from . import geometry
from .model import Anatomy
from .vision import Note


def follow_packing(anatomy: Anatomy, current: Callable[[], Note | None], stack: ExitStack) -> None:
    """Let the model's packing run on the signals of the current note as well, so that columns agree.

    Newline tokens are marked in ``note.ends``; their signals read 0. The wrapped methods are instance attributes,
    removed at exit.
    """
    core = anatomy.core
    videos = [1]  # how many are being encoded

    def wrap(name: str, on_note: Callable[..., None]) -> None:
        if not hasattr(core, name):
            return
        real = getattr(core, name)

        def named(*args: Any, **kwargs: Any) -> Any:
            features = kwargs.pop("image_features") if "image_features" in kwargs else args[0]
            note = current()
            if note is not None:
                on_note(note, real, features, args[1:], kwargs)
            return real(features, *args[1:], **kwargs)

        core.__dict__[name] = named
        stack.callback(core.__dict__.pop, name)

    def crops(note: Note, real: Any, features: Any, args: Any, kwargs: Any) -> None:
        sizes, n = [len(f) for f in features], features[0].shape[1]
        device = features[0].device

        def pack(parts: list[Tensor], fill: list[float]) -> list[Tensor]:
            given = (
                {**kwargs, "image_newline": torch.tensor(fill, device=device)} if "image_newline" in kwargs else kwargs
            )
            done, _ = real(parts, *args, **given)
            return [*done]

        which = [torch.arange(c, device=device).float()[:, None, None].expand(c, n, 1) for c in sizes]
        marked = pack([torch.cat([w, torch.zeros_like(w)], -1) for w in which], [-1.0, 1.0])
        ends = [m[:, 1] > 0.5 for m in marked]
        crop = [m[:, 0].round().long().masked_fill(e, -1) for m, e in zip(marked, ends)]
        cells = [geometry.stitched(c, e, math.isqrt(n)) for c, e in zip(crop, ends)]
        first = torch.arange(len(cells), device=device)
        cells = [c + torch.stack([2 * i, 0 * i, 0 * i])[:, None] for c, i in zip(cells, first)]
        note.ends = torch.cat(ends)
        note.scores |= {"crop": torch.cat(crop)[None].float(), "grid": torch.cat(cells, 1).float()}
        for name, raw in note.raw.items():
            split = raw.mT.split(sizes)  # each (crops, N, C)
            note.scores[name] = torch.cat(pack(list(split), [0.0] * raw.shape[1])).mT

    def frames(note: Note, real: Any, features: Tensor, args: Any, kwargs: Any) -> None:
        n = real(features[:, :, :1], *args, **kwargs).shape[1]
        each = len(features) // videos[0]
        cells = [geometry.filmed(each, n, features.device) for _ in range(videos[0])]
        shift = [torch.tensor([[each * i], [0], [0]], device=features.device) for i in range(videos[0])]
        note.scores["grid"] = torch.cat([c + s for c, s in zip(cells, shift)], 1).float()
        note.ends = torch.cat([c[2] < 0 for c in cells])
        note.scores["crop"] = torch.where(note.ends, -1.0, 0.0)[None]
        for name, raw in note.raw.items():
            pooled = real(raw.mT.contiguous(), *args, **kwargs)  # (frames of all videos, N', C)
            pooled = pooled.reshape(videos[0], -1, pooled.shape[-1])
            pooled = torch.nn.functional.pad(pooled, (0, 0, 0, 1))  # a newline ends each video
            note.scores[name] = pooled.flatten(0, 1).mT

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
