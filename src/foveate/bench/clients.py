"""A server in a process of its own, and a client that asks it the lab's questions."""

from __future__ import annotations

import argparse
import asyncio
import base64
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, MissingExtraError
from .process import resident

TASKS = {"image": ("attribute", "counting", "position"), "video": ("needle", "order"), "text": ("copy",)}


@dataclass(frozen=True)
class Question:
    """One question with its media as the server takes them."""

    kind: str
    messages: list[dict[str, Any]]


class Process:
    """A server in a process of its own."""

    def __init__(self, model: str, clients: int, frames: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "foveate", "serve", model, "--plan", "none", "--port", str(port)]
        command += ["--max-running", str(clients), "--max-waiting", str(2 * clients), "--frames", str(frames)]
        self._command = command

    def __enter__(self) -> Process:
        self._run = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        return self

    def __exit__(self, *error: object) -> None:
        self._run.terminate()
        try:
            self._run.wait(30)
        except subprocess.TimeoutExpired:
            self._run.kill()
            self._run.wait()

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._run.poll() is not None

    @property
    def nbytes(self) -> int:
        """Main memory that the process holds."""
        return resident(self._run.pid)


class Client:
    """Asks the server over HTTP."""

    def __init__(self, url: str, args: argparse.Namespace) -> None:
        try:
            import httpx
        except ImportError as error:
            raise MissingExtraError("the load test needs: pip install httpx 'foveate[serve]'") from error
        limits = httpx.Limits(max_connections=256, max_keepalive_connections=256)
        self._http = httpx.AsyncClient(base_url=url, timeout=600, limits=limits, trust_env=False)
        self.args = args

    async def close(self) -> None:
        """Hang up."""
        await self._http.aclose()

    async def ready(self, server: Process, seconds: float = 300) -> None:
        """Wait until the server answers."""
        import httpx

        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if server.ended:
                raise InputError("the server ended before it answered; run it by hand to see why: foveate serve MODEL")
            try:
                if (await self._http.get("/health")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.2)
        raise InputError(f"the server did not answer within {seconds:.0f} seconds")

    async def ask(self, question: Question, plan: str, reuse: bool) -> dict[str, Any]:
        """The answer's text, tokens and seconds, or "error"."""
        own = {"plan": plan, "reuse": reuse}
        body = {"messages": question.messages, "max_tokens": self.args.new_tokens, "foveate": own}
        begun = time.monotonic()
        reply = await self._http.post("/v1/chat/completions", json=body)
        seconds = time.monotonic() - begun
        if reply.status_code != 200:
            return {"error": f"{reply.status_code} {reply.text[:200]}", "seconds": seconds}
        data = reply.json()
        return {
            "text": data["choices"][0]["message"]["content"],
            "tokens": data["usage"]["completion_tokens"],
            "first": data["foveate"]["first_token_seconds"],
            "seconds": seconds,
        }


def made(kind: str, seed: int, each: int = 4) -> list[Question]:
    """Items of the lab as a client sends them."""
    from ..lab.tasks import generate, write

    out = []
    with tempfile.TemporaryDirectory() as folder:
        for task in TASKS[kind]:
            for item in generate(task, seed=seed, n=each):
                content: list[dict[str, Any]] = []
                if kind != "text":
                    path = write(item, folder).path
                    assert path is not None
                    name = f"{kind}_url"
                    data = base64.b64encode(path.read_bytes()).decode("ascii")
                    content.append({"type": name, name: {"url": f"data:;base64,{data}"}})
                content.append({"type": "text", "text": item.question})
                out.append(Question(kind, [{"role": "user", "content": content}]))
    return out
