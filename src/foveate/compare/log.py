"""The raw log: one JSON line an answer, appended as soon as it is there, each key once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import CacheFileError, InputError


class Log:
    """Answers by key, in a file that one process writes at a time.

    A line that was cut off, by a stop in the middle of writing, is passed over; its answer is asked again.

    Raises:
        CacheFileError: the file cannot be written. InputError: another process writes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, dict[str, Any]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise CacheFileError(f"{path}: cannot be written ({error.strerror or error})") from error
        try:
            self._lock()
            text = path.read_bytes()
        except BaseException:
            os.close(self._file)
            raise
        self._ended = not text or text.endswith(b"\n")
        for line in text.splitlines():
            entry = _read(line)
            if entry is not None:
                self.found.setdefault(entry["key"], entry)

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # not on Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            where = self.path.parent
            raise InputError(f"another run writes {str(where)!r} now; wait for it, or name another --out") from error

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._file)

    def add(self, entry: dict[str, Any]) -> bool:
        """Keep an answer; it is in the file when this returns. False if its key is there already: it is not counted."""
        if entry["key"] in self.found:
            return False
        line = ("" if self._ended else "\n") + json.dumps(entry) + "\n"
        try:
            data = line.encode()
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            self._ended = False
            raise CacheFileError(f"{self.path}: cannot be written ({error.strerror or error})") from error
        self._ended = True
        self.found[entry["key"]] = entry
        return True


def _read(line: bytes) -> dict[str, Any] | None:
    """An answer, or None for a line that holds none."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("key"), str) and "score" in entry else None
