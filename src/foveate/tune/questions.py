"""What a plan is tuned on: tasks of the lab, or a folder of your own media, questions and answers."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from ..errors import InputError
from ..lab.evaluate import tasks_for
from ..lab.tasks import TASKS, Item, generate, score
from ..lab.tasks.seeds import known
from ..load import Loaded
from ..prompt.contents import contents

MATCHES = ("exact", "contains")


@dataclass(frozen=True)
class Question:
    """One thing to ask.

    Attributes:
        messages: in transformers' chat format. answers: those that count as right.
        task: of the lab, whose rule judges the answer; empty for your own data.
        match: of your own data: the answer as a whole, or somewhere in what is said.
        mark: what tells it from others, for results that are kept.
        item: of the lab, which knows where the answer can be seen; None for your own data.
    """

    messages: list[dict[str, Any]] = field(repr=False)
    answers: tuple[str, ...]
    task: str = ""
    match: str = "exact"
    mark: str = ""
    item: Item | None = field(default=None, repr=False, compare=False)

    def score(self, said: str) -> float:
        """How right an answer is, 0 to 1. Of your own data, case, punctuation and spaces do not count."""
        if self.task:
            return max(score(said, a, self.task) for a in self.answers)
        heard = f" {_plain(said)} "
        if self.match == "contains":
            return float(any(f" {_plain(a)} " in heard for a in self.answers))
        return float(any(f" {_plain(a)} " == heard for a in self.answers))


def _plain(text: str) -> str:
    for mark in string.punctuation:
        text = text.replace(mark, " ")
    return " ".join(text.casefold().split())


def questions(data: str | Path, loaded: Loaded, n: int, seed: int) -> list[Question]:
    """At most ``n`` questions in an order in which the first ones are already a fair sample.

    data: a folder with ``*.jsonl`` files, or one such file; else names of lab tasks with commas between, or "lab" for
        all that the model can look at.

    Raises:
        InputError: neither a folder nor tasks, or a line that is no question.
        MediaError: a file of media that is missing or damaged.
    """
    path = Path(data)
    if path.is_dir() or path.suffix == ".jsonl":
        return own(path, n, seed)
    names = tasks_for(loaded) if str(data) == "lab" else [t.strip() for t in str(data).split(",") if t.strip()]
    if not names or "/" in str(data):
        raise InputError(
            f"no folder {str(data)!r}; DATA is a folder with JSONL files, or tasks of the lab such as 'lab'"
        )
    for name in names:
        known("task", name, TASKS)
    found = [generate(name, seed, -(-n // len(names))) for name in names]
    mixed = [item for row in zip(*found) for item in row][:n]
    return [asked(item, seed, i) for i, item in enumerate(mixed)]


def asked(item: Item, seed: int, i: int) -> Question:
    """Item ``i`` that was made from a seed, as a question."""
    return Question(item.messages, (item.answer,), item.turns[-1].task, mark=f"lab/{item.task}/{seed}/{i}", item=item)


def own(path: Path, n: int, seed: int) -> list[Question]:
    """At most ``n`` questions of a folder with JSONL files, or of one such file, in an order drawn from the seed.

    Raises:
        InputError: no such file, or a line that is no question. MediaError: media that are missing or damaged.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{str(path)!r} holds no .jsonl file; write one question a line: {_LINE}")
    lines = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{str(file)!r} cannot be read: {error}") from error
        lines += [
            (f"{file.name}:{k}", file.parent, line) for k, line in enumerate(text.splitlines(), 1) if line.strip()
        ]
    if not lines:
        raise InputError(f"{str(path)!r} holds no question; write one a line: {_LINE}")
    Random(seed).shuffle(lines)
    return [_read(*line) for line in lines[:n]]


_LINE = '{"media": "cat.png", "question": "What is it?", "answer": "a cat"}'


def _read(where: str, folder: Path, line: str) -> Question:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}; a line is {_LINE}") from error
    if not isinstance(entry, dict) or (extra := set(entry) - {"media", "question", "answer", "match"}):
        why = f"unknown {sorted(extra)}" if isinstance(entry, dict) else "not an object"
        raise InputError(f"{where}: {why}; a line is {_LINE}, with 'match' if it is not exact")
    asked, match = entry.get("question"), entry.get("match", "exact")
    media, answers = _texts(where, "media", entry.get("media", [])), _texts(where, "answer", entry.get("answer"))
    if not isinstance(asked, str) or not asked.strip() or not answers or not all(_plain(a) for a in answers):
        raise InputError(f"{where} needs a question and an answer; a line is {_LINE}")
    if match not in MATCHES:
        raise InputError(f"{where}: 'match' must be one of {', '.join(MATCHES)}. Got {match!r}.")
    content = contents([folder / m for m in media])
    told = [{"role": "user", "content": [*content, {"type": "text", "text": asked}]}]
    stamps = [f"{f}:{f.stat().st_size}:{f.stat().st_mtime_ns}" for m in media if (f := folder / m).exists()]
    return Question(told, tuple(answers), match=match, mark=json.dumps([line, str(folder.resolve()), stamps]))


def _texts(where: str, name: str, value: Any) -> Sequence[str]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(v, str) for v in found):
        raise InputError(f"{where}: '{name}' must be text or a list of texts. Got {value!r}.")
    return found
