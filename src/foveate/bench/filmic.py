"""Which methods are about video, as their papers' titles and their own first lines tell."""

from __future__ import annotations

import re
import sys
from typing import Any

_WORDS = re.compile(r"video|tempor|stream|\bframes?\b|of time\b", re.IGNORECASE)


def of_video(cls: type[Any]) -> bool:
    """Whether the title of a method's paper, or the first paragraph of its file, speaks of video, frames or time."""
    first = (sys.modules[cls.__module__].__doc__ or "").partition("\n\n")[0]
    return _WORDS.search(f"{cls.card.title} {first}") is not None
