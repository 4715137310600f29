"""Letters: typefaces that come with the dependencies, how wide words are, and where each letter lies."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from PIL import ImageFont

FACES = ("DejaVuSans-Bold", "DejaVuSansMono-Bold", "DejaVuSerif-Bold")


@functools.cache
def typeface(face: int, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """One of FACES as bundled with matplotlib (found without importing it), always laid out the same way."""
    found = importlib.util.find_spec("matplotlib")
    if found is not None and found.origin is not None:
        path = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / f"{FACES[face % len(FACES)]}.ttf"
        if path.exists():
            return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
    return ImageFont.load_default(size)


@functools.lru_cache(maxsize=4096)
def spread(text: str, face: int, size: int) -> tuple[int, tuple[float, ...], int, int]:
    """Width of a word, where each letter starts and the last ends, and the top and height of capitals."""
    font = typeface(face, size)
    edges = tuple(float(font.getlength(text[:i])) for i in range(len(text) + 1))
    _, top, _, bottom = font.getbbox("H")
    return round(edges[-1]), edges, int(top), int(bottom - top)
