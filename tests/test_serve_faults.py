"""Faults around the scheduler: clients that cannot be told, readers that leave, stops, and places that are taken."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

from foveate.serve import Settings  # noqa: E402
from foveate.serve.asked import Chat  # noqa: E402
from foveate.serve.guard import Guard  # noqa: E402
from foveate.serve.metrics import Metrics  # noqa: E402
from serve_kit import Served, events, picture, said, serving, uri  # noqa: E402


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving("tiny", "divprune(keep=0.5)") as at:
        yield at


def post(at: Served, **more: Any) -> Any:
    asked = said("What is it?", ("image", uri(picture())))
    return httpx.post(f"{at.url}/v1/chat/completions", json={"messages": asked, "max_tokens": 4, **more}, timeout=60)


def test_one_who_cannot_be_told_stops_nobody(served: Served) -> None:
    """A loop of events that was closed between two tokens must not end the thread that owns the model."""

    def gone(event: Any) -> None:
        raise RuntimeError("Event loop is closed")

    chat = Chat.model_validate({"messages": said("Hello?")})
    for seconds in (60.0, -1.0):  # told of its beginning, and of its end
        served.engine.reserve()
        task = served.server.preparer.task(chat, time.monotonic() - 300 + seconds, gone, "gone")
        served.engine.submit(task)
    assert served.settled()
    assert served.engine.alive
    assert post(served).status_code == 200


def test_what_fails_beside_the_model_ends_a_stream_cleanly(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> Any:
        raise OSError("secret words")

    monkeypatch.setattr("foveate.serve.chat.overlay", broken)
    out = post(served, stream=True, foveate={"overlay": True})
    assert out.status_code == 200
    assert events(out.text)[-1]["error"]["code"] == "internal_error"
    assert "secret" not in out.text
    assert post(served, foveate={"overlay": True}).status_code == 500
    assert served.settled()
    assert post(served, stream=True).text.endswith("data: [DONE]\n\n")


def test_a_reader_that_leaves_does_not_take_the_server_with_it(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(*args: Any) -> Any:
        raise SystemExit(3)

    with monkeypatch.context() as for_now:
        for_now.setattr(served.server.preparer, "task", leave)
        out = post(served)
    assert (out.status_code, out.json()["error"]["code"]) == (500, "internal_error")
    assert served.settled()
    assert post(served).status_code == 200


def test_no_page_answers_in_another_form(served: Served) -> None:
    for path in ("/v1/models/", "/v1/chat/completions/", "/nothing", "/page/../app.js"):
        out = httpx.get(f"{served.url}{path}")
        assert out.status_code in (404, 405), path
        assert out.json()["error"]["message"]


class Line:
    """One request to a guard, and what it answered."""

    def __init__(self, guard: Guard) -> None:
        self.guard, self.sent = guard, list[dict[str, Any]]()

    async def __call__(self) -> None:
        scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", b"application/json")]}

        async def receive() -> Any:
            return {"type": "http.request", "body": b"{}"}

        async def send(message: Any) -> None:
            self.sent.append(message)

        await self.guard(scope, receive, send)

    @property
    def told(self) -> tuple[int, str]:
        return self.sent[0]["status"], json.loads(self.sent[1]["body"])["error"]["code"]


async def hang(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(60)


def test_a_request_that_is_cut_off_by_the_stop_is_told_so() -> None:
    line = Line(Guard(hang, Settings(), Metrics()))

    async def run() -> None:
        job = asyncio.ensure_future(line())
        await asyncio.sleep(0.01)
        job.cancel()
        await job

    asyncio.run(run())
    assert line.told == (503, "stopping")


def test_bodies_that_wait_are_bounded() -> None:
    guard = Guard(hang, Settings(running=1, waiting=1), Metrics())

    async def run() -> Line:
        jobs = [asyncio.ensure_future(Line(guard)()) for _ in range(4)]
        await asyncio.sleep(0.01)
        more = Line(guard)
        await more()
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs)
        again = asyncio.ensure_future(Line(guard)())  # their places are free again
        await asyncio.sleep(0.01)
        assert not again.done()
        again.cancel()
        await again
        return more

    more = asyncio.run(run())
    assert more.told == (429, "queue_full")
    assert (b"retry-after", b"1") in more.sent[0]["headers"]
