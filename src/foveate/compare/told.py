"""The result of a comparison, and its files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        rows: one for each model, plan and task; see :func:`foveate.compare.rows.row`. Each also has "command",
            "commit", "machine" (a list), "seed" and "log".
        left_out: model -> plan -> why it could not be asked.
        about: what was asked for: tasks, numbers, release; "answered" new questions, "known" from earlier runs.
        notes: what a reader must know of a model's words.
        examples: answers that are not the full model's.
        log: the raw log.
    """

    rows: list[dict[str, Any]]
    left_out: dict[str, dict[str, str]]
    about: dict[str, Any]
    notes: list[str]
    examples: list[dict[str, Any]] = field(repr=False)
    log: Path

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        told = {"about": self.about, "notes": self.notes, "log": str(self.log)}
        return {**told, "left_out": self.left_out, "rows": self.rows, "examples": self.examples}

    def write(self) -> tuple[Path, Path]:
        """``results.json`` and ``index.html`` beside the log, each whole or not at all."""
        from .page import page

        files = self.log.with_name("results.json"), self.log.with_name("index.html")
        for path, text in zip(files, (json.dumps(self.as_dict(), indent=1) + "\n", page(self))):
            part = path.with_name(path.name + ".part")
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        return files
