"""Rows of the store's two tables: what they hold, their schemas, and the checksums that tell damage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save as pack
from torch.nn.functional import normalize

from ..stream.seen import Seen
from .coding import coded
from .recipe import Recipe


@dataclass(frozen=True)
class Video:
    """A row of the table of videos.

    Attributes:
        key: of the entry. media: hash of the file. name, path: of the file when it was indexed.
        recipe: what it was made with. seconds: its length. clips, tokens: what is stored of it. width: of a token.
    """

    key: str
    media: str
    name: str
    path: str
    recipe: Recipe
    seconds: float
    clips: int
    tokens: int
    width: int


@dataclass(frozen=True)
class Clip:
    """A row of the table of clips, without its tokens. start, stop: seconds; fit: how it fits the question."""

    key: str
    number: int
    start: float
    stop: float
    tokens: int
    fit: float = 0.0


def rows(key: str, recipe: Recipe, clips: Iterable[tuple[int, Seen]]) -> list[dict[str, Any]]:
    """Numbered clips of one video as rows of the table. The vector is the mean of the tokens' directions, so that
    comparing it by product with a question says how well the clip fits on average, whatever all tokens share."""
    out = []
    for number, seen in clips:
        seen = seen.moved("cpu")
        start, stop = seen.span
        payload = pack({k: v.contiguous() for k, v in coded(seen.tensors(), recipe.bits).items()})
        row: dict[str, Any] = {"id": f"{key}/{number}", "key": key, "recipe": recipe.id, "number": number}
        row |= {"start": start, "stop": stop, "tokens": seen.n}
        row["vector"] = normalize(seen.x.float(), dim=-1).mean(0).tolist()
        row["payload"], row["check"] = payload, clip_check(row, payload)
        out.append(row)
    return out


def stored(clips: Iterable[dict[str, Any]]) -> int:
    """Bytes of the tokens in some rows of the table of clips."""
    return sum(len(c["payload"]) for c in clips)


def clip_check(row: dict[str, Any], payload: bytes) -> str:
    """SHA-256 over everything else in a clip's row, hexadecimal."""
    told = [row["id"], row["key"], row["recipe"], row["number"], repr(row["start"]), repr(row["stop"]), row["tokens"]]
    vector = torch.tensor(row["vector"], dtype=torch.float32).numpy().tobytes()
    return hashlib.sha256(json.dumps(told).encode() + b"\n" + vector + payload).hexdigest()


def clip_schema(width: int) -> Any:
    """Arrow schema of the clips of models whose tokens are ``width`` wide."""
    import pyarrow as pa

    words = [pa.field(n, pa.string(), False) for n in ("id", "key", "recipe", "check")]
    numbers = [("number", pa.int64()), ("start", pa.float64()), ("stop", pa.float64()), ("tokens", pa.int64())]
    vector = pa.field("vector", pa.list_(pa.float32(), width), False)
    return pa.schema([*words, *(pa.field(n, t, False) for n, t in numbers), vector, pa.field("payload", pa.binary())])


def video_schema() -> Any:
    """Arrow schema of the videos."""
    import pyarrow as pa

    words = [(n, pa.string()) for n in ("row", "key", "media", "name", "path", "recipe", "check")]
    numbers = [("seconds", pa.float64()), *((n, pa.int64()) for n in ("clips", "tokens", "width"))]
    return pa.schema([pa.field(n, t, False) for n, t in [*words, *numbers]])


def video_check(row: dict[str, Any]) -> str:
    """SHA-256 over everything else in a video's row, hexadecimal."""
    told = [row[n] for n in ("row", "key", "media", "name", "path", "recipe", "clips", "tokens", "width")]
    return hashlib.sha256(json.dumps([*told, repr(row["seconds"])]).encode()).hexdigest()


def clip_table(width: int, clips: list[dict[str, Any]]) -> bytes:
    """Rows of the table of clips as an Arrow stream, to send to another process."""
    import pyarrow as pa

    schema = clip_schema(width)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as out:
        out.write_table(pa.Table.from_pylist(clips, schema=schema))
    sent: bytes = sink.getvalue().to_pybytes()
    return sent


def clip_rows(sent: bytes) -> list[dict[str, Any]]:
    """From :func:`clip_table`."""
    import pyarrow as pa

    with pa.ipc.open_stream(sent) as read:
        out: list[dict[str, Any]] = read.read_all().to_pylist()
    return out
