"""What stands before every route: body limits, API keys, request ids, headers, and one form for all errors."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from .metrics import Metrics
from .problems import Problem, stopping, told
from .settings import Settings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("foveate.serve")

#: What anyone may ask for: the page is of no use without a key, and health is for load balancers.
OPEN = frozenset(("/", "/page/app.js", "/page/draw.js", "/page/style.css", "/health"))
_WITH_BODY = frozenset(("POST", "PUT", "PATCH"))
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", _POLICY.encode()),
)


class Guard:
    """An ASGI application around another one."""

    def __init__(self, app: App, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self._inside = 0  # requests with a body, from their first byte to the end of their answers
        self._most = 2 * (settings.running + settings.waiting)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; the id that the client gave is only repeated, never used to find anything."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {k.lower(): v for k, v in scope["headers"]}
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        name = given if _NAME.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["name"] = name
        started = False

        async def out(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *_HEADERS, (b"x-request-id", name.encode())]
                self.metrics.requests.labels(str(message["status"])).inc()
            await send(message)

        try:
            self._check_key(scope, headers)
            with self._place(scope):
                receive = await self._body(scope, headers, receive)
                await self.app(scope, receive, out)
        except asyncio.CancelledError:  # by the server that runs this one, which would answer in words of its own
            if started:
                raise
            await answer(stopping(), out)
        except Exception as error:
            problem = told(error)
            if problem.status >= 500 and not isinstance(error, Problem):
                log.exception("request %s failed", name)
            if started:
                raise
            await answer(problem, out)

    @contextmanager
    def _place(self, scope: Scope) -> Iterator[None]:
        """One of the places for requests with a body: bodies that wait to be looked at do not fill the memory."""
        if scope["method"] not in _WITH_BODY:
            yield
            return
        if self._inside >= self._most:
            raise Problem(429, "queue_full", "The server has too many requests; try again later.", retry=1)
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    def _check_key(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))
        if not self.settings.keys or path in OPEN:
            return
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        # every key is compared, whether one fitted or not, so that time tells nothing
        fits = [hmac.compare_digest(given.strip(), key.encode()) for key in self.settings.keys]
        if kind.lower() != b"bearer" or not any(fits):
            raise Problem(401, "invalid_api_key", "The API key is missing or wrong.")

    async def _body(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> Receive:
        """Take in the whole body within its limits; returns a receive that gives it again."""
        if scope["method"] not in _WITH_BODY:
            return receive
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json":  # another type could be sent by any web page without asking
            raise Problem(415, "media_type", "Send application/json.")
        most = self.settings.body
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > most:
            raise _too_much(most)
        body = bytearray()
        try:
            async with asyncio.timeout(self.settings.reading):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Problem(499, "cancelled", "The request was cancelled.")
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise _too_much(most)
                    if not message.get("more_body", False):
                        break
        except TimeoutError as error:
            raise Problem(408, "slow_request", "The request took too long to arrive.") from error
        given = False

        async def again() -> MutableMapping[str, Any]:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        return again


async def answer(problem: Problem, send: Send) -> None:
    """Send a problem as a whole answer."""
    body = json.dumps(problem.as_dict()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if problem.retry is not None:
        headers.append((b"retry-after", str(int(problem.retry)).encode()))
    if problem.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _too_much(most: int) -> Problem:
    return Problem(413, "request_too_large", f"A request is at most {most:,} bytes.")
