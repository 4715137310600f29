"""A server of a small model in a thread of its own, as clients meet it."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

import foveate
from foveate.serve import Settings, create_app


@contextmanager
def serving(model: Any = "tiny", plan: Any = None, opener: Any = None, **limits: Any) -> Iterator[Served]:
    """A running server at a free port."""
    app = create_app(model, plan, settings=Settings(**limits), opener=opener)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Served(f"http://127.0.0.1:{port}", app.state.server)
    finally:
        server.should_exit = True
        thread.join()


class Served:
    """Where it is, and what is behind it."""

    def __init__(self, url: str, server: Any) -> None:
        self.url, self.server, self.engine = url, server, server.engine

    def openai(self, key: str = "none", **more: Any) -> Any:
        from openai import OpenAI

        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, **more)

    def settled(self, seconds: float = 5.0) -> bool:
        """Whether nothing runs, waits or is held after a while."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not (self.engine.running or self.engine.waiting or self.engine.kv_bytes or self.engine._now):
                return True
            time.sleep(0.01)
        return False


def picture(seed: int = 0, side: int = 112) -> Image.Image:
    """Squares of random colours."""
    small = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.NEAREST)


def uri(image: Image.Image) -> str:
    """A picture as a data URI."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def clip(seed: int = 0, frames: int = 8) -> str:
    """A short video as a data URI: an animated GIF, four frames a second."""
    pictures = [picture(seed + i) for i in range(frames)]
    file = io.BytesIO()
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=250, loop=0)
    return "data:image/gif;base64," + base64.b64encode(file.getvalue()).decode()


def said(text: str, *media: tuple[str, str]) -> list[dict[str, Any]]:
    """One question about media, each (kind, url)."""
    content = [{"type": f"{kind}_url", f"{kind}_url": {"url": url}} for kind, url in media]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def asked_alone(loaded: Any, text: str, media: Any, plan: str, new: int) -> str:
    """What the library answers by itself."""
    return foveate.ask(media, text, model=loaded, plan=plan, max_new_tokens=new).text


def events(raw: str) -> list[Any]:
    """The events of a stream."""
    return [json.loads(e[6:]) for e in raw.split("\n\n") if e.startswith("data: ") and e != "data: [DONE]"]
