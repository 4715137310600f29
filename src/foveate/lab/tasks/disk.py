"""Items as files: pictures as PNG, videos as H.264, and a line of JSON each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import InputError, MediaError
from ...video import write_video
from .item import Item, chat
from .turn import Evidence, Turn

INDEX = "items.jsonl"


def write(item: Item, folder: str | Path, crf: int = 18) -> Item:
    """Write the media of an item into a folder and append a line to its ``items.jsonl``.

    Returns the item with ``path`` set and messages that name the file. crf: quality of H.264, 0 (best) to 51.

    Raises:
        MediaError: a file cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        index = folder / INDEX
        number = index.read_text(encoding="utf-8").count("\n") if index.exists() else 0
        path: Path | None = None
        if item.times:
            path = write_video(folder / f"{number:05d}-{item.task}.mp4", item.media, item.fps, crf=crf)
        elif item.media:
            path = folder / f"{number:05d}-{item.task}.png"
            item.media[0].save(path)
        with index.open("a", encoding="utf-8") as out:
            out.write(json.dumps(_line(item, path)) + "\n")
    except OSError as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return replace(item, path=path, messages=_messages(path, bool(item.times), item.turns))


def load(folder: str | Path) -> list[Item]:
    """The items of a folder, their media left in their files.

    Raises:
        InputError: there is no ``items.jsonl``, or a line of it is not an item.
    """
    index = Path(folder) / INDEX
    if not index.exists():
        raise InputError(f"{folder} has no {INDEX}; write items into it first")
    lines = index.read_text(encoding="utf-8").splitlines()
    try:
        return [_item(json.loads(line), Path(folder)) for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{index}: a line is not an item ({error})") from error


def _line(item: Item, path: Path | None) -> dict[str, Any]:
    kept = ("task", "family", "answer", "times", "turns", "size", "fps")
    return {"media": path.name if path else None, **{k: getattr(item, k) for k in kept}}


def _item(line: dict[str, Any], folder: Path) -> Item:
    turns = tuple(Turn(q, a, task, tuple(_evidence(e) for e in seen)) for q, a, task, seen in line["turns"])
    path = folder / line["media"] if line["media"] else None
    width, height = line["size"]
    return Item(
        line["task"],
        line["family"],
        _messages(path, bool(line["times"]), turns),
        line["answer"],
        turns[-1].evidence,
        times=tuple(line["times"]),
        path=path,
        turns=turns,
        size=(width, height),
        fps=line["fps"],
    )


def _evidence(raw: list[Any]) -> Evidence:
    (x0, y0, x1, y1), time = raw
    return Evidence((x0, y0, x1, y1), (time[0], time[1]) if time else None)


def _messages(path: Path | None, video: bool, turns: Iterable[Turn]) -> list[dict[str, Any]]:
    kind = "video" if video else "image"
    return chat([{"type": kind, kind: str(path)}] if path else [], tuple(turns))
