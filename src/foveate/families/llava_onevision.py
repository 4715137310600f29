"""LLaVA-OneVision: crops as in LLaVA-NeXT; video frames pooled 2 x 2."""

from . import Family

FAMILY = Family(types=("llava_onevision",), kind="vlm", pool="pack")
