"""Results that outlive an interruption: one JSON line each, in a file of its own for every process that writes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import FoveateError


def in_a_line(error: Exception) -> str:
    """Why something could not be measured; faults that are not told to users come with their kind, cut off."""
    text = " ".join(str(error).split())
    return text if isinstance(error, FoveateError) else f"{type(error).__name__}: {text}"[:300]


class Lines:
    """A folder of results by key; without a folder they are remembered, and not on disk."""

    def __init__(self, folder: Path | None, stem: str) -> None:
        self.folder, self.stem = folder, stem
        self.found: dict[str, Any] = {}
        self.read()

    def read(self) -> None:
        """Take in what all processes wrote; a last line that was cut off is passed over."""
        for path in sorted(self.folder.glob(f"{self.stem}-*.jsonl")) if self.folder is not None else []:
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    self.found[entry["key"]] = entry["value"]
                except (ValueError, KeyError, TypeError):
                    continue

    def once(self, parts: list[Any], make: Callable[[], Any]) -> Any:
        """What ``make`` gave the first time for these parts, which are all it depends on, as JSON can say them."""
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
        if self.get(key) is None:
            self.put(key, make())
        return self.get(key)

    def get(self, key: str) -> Any:
        """What was put under a key, or None."""
        return self.found.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep a result; it is on disk when this returns."""
        self.found[key] = value
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self.stem}-{os.getpid()}.jsonl"
        with path.open("a", encoding="utf-8") as out:
            if out.tell() and not _ended(path):
                out.write("\n")
            out.write(json.dumps({"key": key, "value": value}) + "\n")


def _ended(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
