"""Idefics3 and SmolVLM: an image is cut into crops, each a run of placeholders of its own."""

from . import Family

FAMILY = Family(types=("idefics3", "smolvlm"), kind="vlm", scope="row", pool="shuffle")
