"""LLaVA 1.5: CLIP tower, token-wise projector."""

from . import Family

FAMILY = Family(types=("llava",), kind="vlm", pool="one", drop=True)
