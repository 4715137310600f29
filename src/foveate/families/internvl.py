"""InternVL: pixel shuffle before the projector."""

from . import Family

FAMILY = Family(types=("internvl",), kind="vlm", pool="shuffle", thumbnail_last=True)
