"""Results that are made once: kept on disk under a key of all they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import FoveateError
from ...spec import Plan
from .. import desk, exam
from ..kept_lines import Lines

#: The files of the study that figures depend on.
MADE_BY = [f"bench/kv/{name}.py" for name in ("fill", "held", "lab", "ladder", "needle", "reader", "speed", "text")]


class Once:
    """Keeps what was measured in ``folder``; a changed source, model or plan is measured anew."""

    def __init__(self, folder: Path) -> None:
        self.lines = Lines(folder, "cache")
        self.marks = desk.marked() | {"study": exam.sources(*MADE_BY)}

    def get(self, about: list[Any], plan: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gave for this; about: whatever else it depends on, as JSON can say it."""
        methods = [self.marks.get(m.name, "") for m in Plan.of(plan)]
        parts = [about, plan, self.marks[""], self.marks["study"], methods]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
        if self.lines.get(key) is None:
            self.lines.put(key, make())
        return self.lines.get(key)


def told(error: Exception) -> str:
    """Why a plan could not be measured, in a line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, FoveateError) else f"{type(error).__name__}: {text}"[:300]
