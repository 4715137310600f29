"""Qwen2.5-VL: as Qwen2-VL, with window attention in the tower."""

from . import Family

FAMILY = Family(types=("qwen2_5_vl",), kind="vlm", tower="packed", pool="groups", drop=True)
