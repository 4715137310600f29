"""What each patch shows, for supervising a vision encoder directly."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from .draw import Map, owners
from .things import Scene
from .words import CHARACTERS, COLOURS, KINDS

Labels = dict[str, NDArray[np.int64]]
LEAST = 0.2  # of a patch that an object must cover, or it counts as background
LEAST_LETTER = 0.12
#: Number of classes of each label, background included.
CLASSES = {"colour": 1 + len(COLOURS), "shape": 1 + len(KINDS), "letter": 1 + len(CHARACTERS)}
_COLOUR = {name: 1 + i for i, name in enumerate(COLOURS)}
_KIND = {name: 1 + i for i, name in enumerate(KINDS)}


def label(scene: Scene, grid: tuple[int, int]) -> Labels:
    """Per patch of a grid (rows, cols): "colour", "shape" and "letter" of what covers most of it, "row" and "col".

    Ids are 1 + the place in COLOURS, KINDS and CHARACTERS; 0 is background. An object counts from 20 % of a patch on.
    """
    own, letters = owners(scene)
    thing = covering(own, grid, 1 + len(scene.things))
    colour = np.array([0, *(_COLOUR[t.colour] for t in scene.things)], np.int64)
    shape = np.array([0, *(_KIND[t.shape] for t in scene.things)], np.int64)
    rows, cols = np.indices(grid)
    letter = covering(letters, grid, CLASSES["letter"], LEAST_LETTER)
    return {"colour": colour[thing], "shape": shape[thing], "letter": letter, "row": rows, "col": cols}


def covering(index: Map, grid: tuple[int, int], n: int, least: float = LEAST) -> NDArray[np.int64]:
    """index (H, W) in 0..n-1 -> (rows, cols): the index above 0 with most pixels of each cell, or 0 under ``least``."""
    cells = _cells(index.shape[0], index.shape[1], grid)
    if not index.any():
        return np.zeros(grid, np.int64)
    flat = cells * n + index.reshape(-1)
    count = np.bincount(flat, minlength=grid[0] * grid[1] * n).reshape(*grid, n)
    best = count[..., 1:].argmax(-1) + 1
    enough = count[..., 1:].max(-1) >= least * count.sum(-1)
    return np.where(enough, best, 0).astype(np.int64)


@functools.lru_cache(maxsize=16)
def _cells(height: int, width: int, grid: tuple[int, int]) -> NDArray[np.int64]:
    """The number of each pixel's cell, (H * W,)."""
    y = np.arange(height) * grid[0] // height
    x = np.arange(width) * grid[1] // width
    return (y[:, None] * grid[1] + x).reshape(-1).astype(np.int64)
