"""Results that are made once: kept on disk under a key of all they depend on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...spec import Plan
from .. import desk, exam
from ..kept_lines import Lines

#: The files that figures depend on: those of all parts, and of each.
ALL = ("fill", "ladder")
OWN = {"lab": ("lab",), "text": ("text",), "needle": ("needle", "reader"), "speed": ("speed",), "bytes": ("held",)}


class Once:
    """Keeps what a part measured in ``folder``; after a change of source, model or plan it is measured anew."""

    def __init__(self, folder: Path, part: str) -> None:
        self.lines = Lines(folder, "cache")
        self.marks = desk.marked() | {"study": exam.sources(*(f"bench/kv/{name}.py" for name in ALL + OWN[part]))}

    def get(self, about: list[Any], plan: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gave for this; about: whatever else it depends on, as JSON can say it."""
        methods = [self.marks.get(m.name, "") for m in Plan.of(plan)]
        parts = [about, plan, self.marks[""], self.marks["study"], methods]
        return self.lines.once(parts, make)
