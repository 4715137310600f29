"""What several runs of a packed vision tower give, each over some frames of a video, as one run would give it.

A packed tower's attention never crosses frames (of Qwen-VL: pairs of frames), so the features are the same, up to the
rounding of products over fewer rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .vision import NOTE, Note


def joined(outs: Sequence[Any], videos: Sequence[int], views: Sequence[int]) -> Any:
    """The output object of the first run, filled with what all of them gave.

    outs: of ``get_video_features``, in order; at least one. videos: number of each run's video, ascending. views: how
    many slices of time each run had.
    """
    first = outs[0]
    first.pooler_output = _by_video([_flat(o.pooler_output) for o in outs], videos)
    if getattr(first, "last_hidden_state", None) is not None:
        first.last_hidden_state = torch.cat([o.last_hidden_state for o in outs])
    if getattr(first, "deepstack_features", None) is not None:
        layers = zip(*(o.deepstack_features for o in outs), strict=True)
        first.deepstack_features = [_by_video([_flat(part) for part in layer], videos) for layer in layers]
    notes = [note for o in outs if (note := getattr(o, NOTE, None)) is not None]
    if len(notes) == len(outs):
        setattr(first, NOTE, _note(notes, views))
    return first


def _flat(features: Any) -> Tensor:
    """Features of one run, (T, D), whether it gives them in one piece or video by video."""
    return features if isinstance(features, Tensor) else torch.cat(list(features))


def _by_video(parts: list[Tensor], videos: Sequence[int]) -> tuple[Tensor, ...]:
    return tuple(torch.cat([p for p, v in zip(parts, videos) if v == one]) for one in dict.fromkeys(videos))


def _note(notes: list[Note], views: Sequence[int]) -> Note:
    """Signals side by side; views of the grid are counted on."""
    whole = Note()
    for name in notes[0].scores:
        parts, before = [], 0
        for note, count in zip(notes, views, strict=True):
            part = note.scores[name]
            if name == "grid":
                part = part + part.new_tensor([[before], [0], [0]])
            parts.append(part)
            before += count
        whole.scores[name] = torch.cat(parts, -1)
    return whole
