"""Qwen2-VL: dynamic resolution, packed tower, 2 x 2 merger, M-RoPE."""

from . import Family

FAMILY = Family(types=("qwen2_vl",), kind="vlm", tower="packed", pool="groups", drop=True)
