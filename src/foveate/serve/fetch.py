"""Fetch media from web addresses that strangers name: only public ones, checked at every hop, bounded in all ways.

The address that was checked is the one that is connected to: a name is resolved once for each hop, so a second answer
of its DNS server cannot lead elsewhere. Proxies of the environment are not used.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO
from urllib.parse import SplitResult, urljoin, urlsplit

from .addresses import allowed, resolve
from .problems import Problem, bad

_MOVED = (301, 302, 303, 307, 308)
_AT_ONCE = 65_536


@dataclass(frozen=True)
class Fetcher:
    """Fetches within limits.

    Attributes:
        most: bytes of one file. seconds: for all hops of one file together. redirects: hops that are followed.
        private: names of hosts that may have private addresses, lower case.
        resolve: host, port -> addresses; another one is for tests.
        context: for https.
    """

    most: int
    seconds: float
    redirects: int = 3
    private: frozenset[str] = frozenset()
    resolve: Callable[[str, int], list[str]] = resolve
    context: ssl.SSLContext = field(default_factory=ssl.create_default_context)

    def fetch(self, url: str, out: BinaryIO) -> int:
        """Write what lies at an address to a file; returns its bytes.

        Raises:
            Problem: an address that is not allowed, too much, too slow, or no success; the words are fixed.
        """
        until = time.monotonic() + self.seconds
        for _ in range(self.redirects + 1):
            moved, size = self._one(url, out, until)
            if moved is None:
                return size
            url = urljoin(url, moved)
        raise _denied(f"A media address moves more than {self.redirects} times.")

    def _one(self, url: str, out: BinaryIO, until: float) -> tuple[str | None, int]:
        """One hop: where to go on, or None and the bytes that were written."""
        target, host, port = parts(url)
        try:
            connection = self._connect(target, host, port, until)
            # timeouts of a socket begin anew with every byte; this one does not, so that nobody can drip
            watch = threading.Timer(_left(until), _hang_up, [connection.sock])
            watch.daemon = True
            watch.start()
            try:
                found = self._read(connection, target, out)
                _left(until)  # a line that was hung up on looks like one that ended
                return found
            finally:
                watch.cancel()
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            _left(until)
            raise Problem(400, "media_unreachable", "A media address could not be read.", "messages") from error

    def _connect(self, target: SplitResult, host: str, port: int, until: float) -> http.client.HTTPConnection:
        addresses = self.resolve(host, port)
        if host not in self.private and not allowed(addresses):
            raise _denied("A media address does not lie in the public internet.")
        connection = http.client.HTTPConnection(host, port, timeout=_left(until))
        connection.auto_open = 0  # it never looks the name up itself
        problem: OSError | None = None
        for address in addresses:
            try:
                plain = socket.create_connection((address, port), timeout=_left(until))
            except OSError as error:
                problem = error
                continue
            try:
                wrap = target.scheme == "https"
                connection.sock = self.context.wrap_socket(plain, server_hostname=host) if wrap else plain
            except BaseException:
                plain.close()
                raise
            return connection
        raise problem or OSError("no address")

    def _read(
        self, connection: http.client.HTTPConnection, target: SplitResult, out: BinaryIO
    ) -> tuple[str | None, int]:
        path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        headers = {"Accept": "image/*,video/*", "Accept-Encoding": "identity", "User-Agent": "foveate"}
        connection.request("GET", path, headers=headers)
        reply = connection.getresponse()
        if reply.status in _MOVED:
            where = reply.getheader("Location")
            if not where:
                raise ValueError("moved nowhere")
            return where, 0
        if reply.status != 200 or (reply.getheader("Content-Encoding") or "identity").lower() != "identity":
            raise ValueError(f"status {reply.status}")
        told = reply.getheader("Content-Length")
        if told is not None and told.isdigit() and int(told) > self.most:
            raise too_large(self.most)
        size = 0
        while piece := reply.read1(_AT_ONCE):
            size += len(piece)
            if size > self.most:
                raise too_large(self.most)
            out.write(piece)
        if told is not None and told.isdigit() and size < int(told):
            raise ValueError("cut off")
        return None, size


def _hang_up(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def parts(url: str) -> tuple[SplitResult, str, int]:
    """A web address in pieces: its parts, host and port.

    Raises:
        Problem: it is none, names a user, or a port of another service.
    """
    try:
        target = urlsplit(url)
        host, port = target.hostname, target.port
    except ValueError as error:
        raise _denied("A media address cannot be read.") from error
    if target.scheme not in ("http", "https") or not host:
        raise _denied("Media are http or https addresses, or data URIs.")
    if any(c in url for c in "\r\n\t \\") or not url.isascii() or "@" in target.netloc:
        raise _denied("A media address holds characters that are not allowed in one; encode them.")
    port = port if port is not None else (443 if target.scheme == "https" else 80)
    if port not in (80, 443) and port < 1024:
        raise _denied("A media address names a port that belongs to another service.")
    return target, host.lower(), port


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise _slow()
    return left


def _denied(message: str) -> Problem:
    return bad(message, "messages", "media_address")


def _slow() -> Problem:
    return Problem(400, "media_timeout", "A media address took too long to answer.", "messages")


def too_large(most: int) -> Problem:
    """A file over the limit."""
    return Problem(413, "media_too_large", f"A picture or video is larger than {most:,} bytes.", "messages")
