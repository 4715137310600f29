"""Questions about drawn pictures in a folder, as users write them."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image


def folder(home: Path, n: int = 6) -> Path:
    """A folder with n pictures of 56 x 56 pixels and a question about each."""
    home.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(n):
        Image.new("RGB", (56, 56), (40 * i % 256, 90, 255 - 5 * i)).save(home / f"{i}.png")
        lines.append({"media": f"{i}.png", "question": f"What colour is number {i}?", "answer": ["blue", "a blue"]})
    (home / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return home


def lines(out: Path) -> list[dict]:
    """The log of a comparison."""
    return [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
