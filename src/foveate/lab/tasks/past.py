"""What has happened up to a frame of a clip, for supervising a decoder at every visual token.

Answers about movement and order are few: some per clip. What each thing has done so far can be told of every cell of
every frame, and a decoder that is asked for it learns to find a thing again in earlier frames.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .draw import owners
from .film import Actor, Clip
from .labels import Labels, covering
from .words import WAYS

FAR = (0.0, 0.1, 0.2, 0.35)  # shares of the side: a thing has gone none, up to a tenth, ...
#: Number of classes of each label. 0 is background, but for "cuts" and "flashes", which are counts of the whole frame.
CLASSES = {"way": 2 + len(WAYS), "gone": 2 + len(FAR), "came": 4, "moves": 3, "cuts": 5, "flashes": 5}
_WAY = {name: 2 + i for i, name in enumerate(WAYS)}


def past(clip: Clip, frame: int, grid: tuple[int, int]) -> Labels:
    """Per cell of a grid (rows, cols), of the thing that covers most of it and of all frames up to this one.

    "way": 1 not moved yet, 2.. the way it went. "gone": 1.. how far, by FAR. "came": 1 there from the start, 2 the
    first to come, 3 a later one. "moves": 1 not since the frame before, 2 it does. "cuts" and "flashes": how many so
    far, at most four.
    """
    shot = clip.at(frame)
    own, _ = owners(shot)
    thing = covering(own, grid, 1 + len(shot.things))
    seen = [a for a in clip.actors if a.born <= frame]  # the things of a frame are its actors, then its signs
    births = sorted(a.born for a in clip.actors if a.born > 0)
    told = {k: np.zeros(1 + len(shot.things), np.int64) for k in ("way", "gone", "came", "moves")}
    for i, actor in enumerate(seen, 1):
        for name, value in _of(clip, actor, frame, births).items():
            told[name][i] = value
    out = {k: v[thing] for k, v in told.items()}
    cuts = sum(1 for start, _ in clip.looks[1:] if start <= frame)
    flashes = sum(1 for start, _ in clip.flashes if start <= frame)
    return out | {"cuts": _all(cuts, grid), "flashes": _all(flashes, grid)}


def _of(clip: Clip, actor: Actor, frame: int, births: list[int]) -> dict[str, int]:
    box, first = actor.at(frame), actor.at(actor.born)
    gone = max(abs(box[0] - first[0]) / clip.size[0], abs(box[1] - first[1]) / clip.size[1])
    moves = frame > actor.born and box != actor.at(frame - 1)
    return {
        "way": _WAY[actor.way] if gone > 0 else 1,
        "gone": 1 + sum(gone > limit for limit in FAR),
        "came": 1 if actor.born == 0 else 2 + (actor.born > births[0]),
        "moves": 1 + moves,
    }


def _all(count: int, grid: tuple[int, int]) -> NDArray[np.int64]:
    return np.full(grid, min(4, count), np.int64)
