"""LLaVA-NeXT: crops of a high-resolution image, packed with a newline after each row."""

from . import Family

FAMILY = Family(types=("llava_next",), kind="vlm", pool="pack")
