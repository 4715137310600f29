"""Answers a second of a server with a plan, for some numbers of clients at a time; see :mod:`foveate.bench.serve`."""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image

from ..bench.clients import Client, Process
from ..bench.clients import Question as Wired
from ..bench.serve import measure
from ..errors import InputError
from ..tune.questions import Question
from ..video import write_video

FPS = 8.0  # of frames without times


def throughput(
    model: str, plans: Sequence[str], questions: Sequence[Question], levels: Sequence[int], seconds: float, frames: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """plan -> clients at a time -> {"answers_per_second", "tokens_per_second", "answers", "errors"}.

    The server runs in a process of its own and reuses nothing; plans are measured in turns, forth and back.

    Args:
        plans: as text, "none" for the full model. questions: asked over and over; those that cannot be sent are not.
        levels: clients. seconds: of each measurement. frames: sampled from a video.

    Raises:
        InputError: no question can be sent, or the server does not start. MissingExtraError: httpx is not installed.
    """
    wired = [Wired("", w) for q in questions if (w := wire(q.messages)) is not None]
    if not wired:
        raise InputError("none of these questions can be sent to a server, so its throughput cannot be measured")
    return asyncio.run(_levels(model, plans, wired, levels, seconds, frames))


async def _levels(
    model: str, plans: Sequence[str], questions: list[Wired], levels: Sequence[int], seconds: float, frames: int
) -> dict[str, dict[str, dict[str, Any]]]:
    out: dict[str, dict[str, dict[str, Any]]] = {plan: {} for plan in plans}
    with Process(model, max(levels), frames) as server:
        client = Client(server.url, argparse.Namespace(new_tokens=16))
        try:
            await client.ready(server)
            for plan in plans:  # whatever is made ready on first use is made ready now
                await client.ask(questions[0], plan, False)
            for level in levels:
                runs: dict[str, list[dict[str, Any]]] = {plan: [] for plan in plans}
                for plan in (*plans, *reversed(plans)):
                    runs[plan].append(await measure(client, questions, plan, level, seconds / 2))
                for plan, found in runs.items():
                    out[plan][str(level)] = _sum(found)
        finally:
            await client.close()
    return out


def _sum(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    gone = sum(f["seconds"] for f in found)
    done, tokens = sum(f["answers"] for f in found), sum(f["tokens"] for f in found)
    rates = {"answers_per_second": round(done / gone, 4), "tokens_per_second": round(tokens / gone, 4)}
    return {**rates, "answers": done, "errors": sum(f["errors"] for f in found)}


def wire(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """A conversation as a client sends it, media as data URIs; None where that cannot be: parts of videos."""
    out = []
    for message in messages:
        content: list[dict[str, Any]] = []
        for entry in message["content"]:
            if entry["type"] == "text":
                content.append(entry)
            elif "start" in entry or "stop" in entry:
                return None
            else:
                name = f"{entry['type']}_url"
                data = base64.b64encode(_bytes(entry)).decode("ascii")
                content.append({"type": name, name: {"url": f"data:;base64,{data}"}})
        if message["role"] != "user":
            content = " ".join(c["text"] for c in content)  # type: ignore[assignment]
        out.append({"role": message["role"], "content": content})
    return out


def _bytes(entry: dict[str, Any]) -> bytes:
    """The file of an image or video."""
    media = entry[entry["type"]]
    if isinstance(media, Image):
        made = io.BytesIO()
        media.save(made, format="PNG")
        return made.getvalue()
    if isinstance(media, list | tuple):
        times = entry.get("times") or []
        fps = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else FPS
        with tempfile.TemporaryDirectory() as folder:
            return Path(write_video(Path(folder) / "clip.mp4", media, fps)).read_bytes()
    return Path(media).read_bytes()
