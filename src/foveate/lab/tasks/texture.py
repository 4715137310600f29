"""Backgrounds that look like photographs from some distance: noise of many octaves, horizons, stripes, soft lights.

They stay of little colour and middle brightness, so that what is asked for stands out. Each process makes its own bank.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import InputError

SIDE = 448
BANK = 48  # textures of each split
PHOTOS = ("astronaut", "camera", "cat", "coffee", "coins", "rocket", "moon", "brick", "grass", "gravel")

Pixels = NDArray[np.uint8]
Real = NDArray[np.float32]


@functools.lru_cache(maxsize=4 * BANK)
def texture(split: str, index: int, photos: bool = False) -> Pixels:
    """Background ``index`` of a split -> (448, 448, 3), never written to. The two splits share none.

    photos: those that scikit-image brings along in place of drawn ones.

    Raises:
        InputError: photos without scikit-image.
    """
    rng = np.random.default_rng([index, split == "test"])
    made = _photo(split, index) if photos else _KINDS[index % len(_KINDS)](rng)
    made.setflags(write=False)
    return made


def _octaves(rng: np.random.Generator, first: int = 2, fall: float = 0.55) -> Real:
    """Noise summed over octaves -> (SIDE, SIDE) in [0, 1]."""
    total, weight = np.zeros((SIDE, SIDE), np.float32), 1.0
    for k in range(first, 9):
        n = min(2**k, SIDE)
        grid = Image.fromarray(rng.random((n, n), np.float32))
        total += weight * np.asarray(grid.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        weight *= fall
    low, high = total.min(), total.max()
    return np.asarray((total - low) / (high - low), np.float32)


def _tones(rng: np.random.Generator, n: int = 3) -> Real:
    """A few muted colours from dark to bright -> (n, 3) in 0..255."""
    light = np.sort(rng.uniform(70, 195, n))[:, None]
    tint = rng.uniform(-1, 1, (n, 3)) * 14 + rng.uniform(-1, 1, (1, 3)) * 16
    return np.asarray(light + tint - tint.mean(1, keepdims=True), np.float32)


def _coloured(value: Real, tones: Real) -> Pixels:
    """(SIDE, SIDE) in [0, 1] and (n, 3) colours to run through -> pixels."""
    steps = np.linspace(0, 1, len(tones))
    channels = [np.interp(value, steps, tones[:, c]) for c in range(3)]
    return np.stack(channels, -1).clip(0, 255).astype(np.uint8)


def _clouds(rng: np.random.Generator) -> Pixels:
    return _coloured(_octaves(rng, 2, rng.uniform(0.45, 0.65)), _tones(rng, 4))


def _gravel(rng: np.random.Generator) -> Pixels:
    return _coloured(_octaves(rng, 5, 0.8), _tones(rng, 3))


def _horizon(rng: np.random.Generator) -> Pixels:
    y = np.linspace(0, 1, SIDE, dtype=np.float32)[:, None] + 0.15 * (_octaves(rng, 1, 0.4) - 0.5)
    line = rng.uniform(0.3, 0.7)
    above = _coloured(np.asarray((y / line).clip(0, 1), np.float32), _tones(rng, 2))
    below = _coloured(_octaves(rng, 4, 0.7), _tones(rng, 3))
    return np.where((y < line)[..., None], above, below)


def _stripes(rng: np.random.Generator) -> Pixels:
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    angle, pitch = rng.uniform(0, np.pi), rng.uniform(14, 60)
    phase = (x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / pitch + 5 * _octaves(rng, 2)
    return _coloured(np.asarray(0.5 + 0.3 * np.sin(phase) + 0.4 * (_octaves(rng, 4) - 0.5), np.float32), _tones(rng, 3))


def _lights(rng: np.random.Generator) -> Pixels:
    value = 0.4 * _octaves(rng, 1, 0.4)
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    for _ in range(28):
        u, v, r = rng.uniform((0, 0, 12), (SIDE, SIDE, 60))
        value += rng.uniform(0.1, 0.4) / (1 + np.exp((((x - u) ** 2 + (y - v) ** 2 - r * r) / (r * 6)).clip(-30, 30)))
    return _coloured(np.asarray((value / 1.4).clip(0, 1), np.float32), _tones(rng, 4))


def _weave(rng: np.random.Generator) -> Pixels:
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    a, b = rng.uniform(0.25, 0.9, 2)
    value = 0.5 + 0.16 * np.sin(a * x) * np.sin(b * y) + 0.7 * (_octaves(rng, 1) - 0.5)
    return _coloured(np.asarray(value.clip(0, 1), np.float32), _tones(rng, 3))


_KINDS = (_clouds, _gravel, _horizon, _stripes, _lights, _weave)


def _photo(split: str, index: int) -> Pixels:
    """One of scikit-image's bundled photographs with its colours muted; every second one belongs to the test split."""
    if importlib.util.find_spec("skimage") is None:
        raise InputError("ground='photos' needs scikit-image; install it, or leave ground at 'texture'")
    data: Any = importlib.import_module("skimage.data")
    own = PHOTOS[split == "test" :: 2]
    raw = np.asarray(getattr(data, own[index % len(own)])())
    picture = Image.fromarray(raw).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    colour = np.asarray(picture, np.float32)
    grey = colour.mean(-1, keepdims=True)
    muted: Pixels = (60 + 0.55 * (grey + 0.4 * (colour - grey))).clip(0, 255).astype(np.uint8)
    return muted
