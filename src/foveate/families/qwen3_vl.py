"""Qwen3-VL: as Qwen2-VL, with DeepStack features and a timestamp before each frame of a video."""

from . import Family

FAMILY = Family(types=("qwen3_vl",), kind="vlm", tower="packed", pool="groups", drop=True)
