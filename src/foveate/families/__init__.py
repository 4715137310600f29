"""What discovery cannot know about a model family, as data: one small file each, found by file name."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A model family.

    Attributes:
        types: values of ``config.model_type`` it covers.
        kind: "vlm", "vit" or "lm".
        scope: "run" when each run of visual placeholders is one image, "row" when all of a prompt's belong together.
        tower: "batch" when the vision tower takes (images, patches, width), "packed" when it takes one long sequence.
        pool: how encoder tokens become LLM tokens: "one" to one, merge "groups" of the tower, pixel "shuffle" and
            "average" over squares, or the model's own "pack" of crops; None when the family has no encoder.
        thumbnail_last: of crops that make up one item, the last shows the whole image.
        drop: whether a token dropped in the encoder can be dropped in the LLM too (one LLM token a token or group).
    """

    types: tuple[str, ...]
    kind: str
    scope: str = "run"
    tower: str = "batch"
    pool: str | None = None
    drop: bool = False
    thumbnail_last: bool = False


@functools.cache
def families() -> dict[str, Family]:
    """model_type -> family."""
    found: dict[str, Family] = {}
    for info in pkgutil.iter_modules(__path__):
        family: Family = importlib.import_module(f"{__name__}.{info.name}").FAMILY
        found.update(dict.fromkeys(family.types, family))
    return found
