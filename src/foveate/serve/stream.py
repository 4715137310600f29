"""Server-sent events to a client that may be slow, or gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import Response

from .guard import Receive, Scope, Send
from .problems import told

log = logging.getLogger("foveate.serve")

BEAT = 5.0  # seconds of silence after which a comment is sent, so that nobody takes the line for dead


class Events(Response):
    """An ASGI response: every item of an iterator as one event.

    Args:
        items: dicts, sent as JSON; None is a comment that keeps the line open.
        gone: called when the client does not take the rest.
        sending: seconds that the client may take to accept one event.
    """

    def __init__(self, items: AsyncIterator[dict[str, Any] | None], gone: Callable[[], None], sending: float) -> None:
        super().__init__(None, 200)
        self.items, self.gone, self.sending = items, gone, sending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end, a client that leaves, or one that takes nothing any more."""
        writing = asyncio.ensure_future(self._write(send))
        leaving = asyncio.ensure_future(left(receive))
        try:
            await asyncio.wait((writing, leaving), return_when=asyncio.FIRST_COMPLETED)
            if writing.done() and not writing.cancelled():
                writing.result()
        except (TimeoutError, OSError):
            pass  # whoever takes nothing is treated as gone
        finally:
            self.gone()
            for job in (writing, leaving):
                job.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await job

    async def _write(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for item in self.items:
            text = ": waiting\n\n" if item is None else f"data: {json.dumps(item, ensure_ascii=False)}\n\n"
            await self._send(send, text.encode("utf-8", "replace"), True)
        await self._send(send, b"data: [DONE]\n\n", False)

    async def _send(self, send: Send, body: bytes, more: bool) -> None:
        async with asyncio.timeout(self.sending):
            await send({"type": "http.response.body", "body": body, "more_body": more})


async def told_at_the_end(items: AsyncIterator[dict[str, Any] | None]) -> AsyncIterator[dict[str, Any] | None]:
    """The same items; what goes wrong in making them is one more, as the status was sent long before."""
    try:
        async for item in items:
            yield item
    except Exception as error:
        log.exception("a stream failed")
        yield told(error).as_dict()


async def left(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
