"""Gemma 3: average pooling to 256 tokens an image, image tokens see each other both ways."""

from . import Family

FAMILY = Family(types=("gemma3",), kind="vlm", pool="average")
