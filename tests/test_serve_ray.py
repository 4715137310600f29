"""The server as a deployment of Ray Serve: the example is run on a local cluster, and answers as a server does."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

import foveate  # noqa: E402
from foveate.errors import InputError, MissingExtraError  # noqa: E402
from foveate.serve.ray import application, deployment  # noqa: E402
from serve_kit import asked_alone, events, picture, said, uri  # noqa: E402

PLAN = "divprune(keep=0.5)"
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_without_ray_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match="foveate\\[serve,ray\\]"):
        deployment("tiny")


@pytest.mark.parametrize(
    ("args", "told"),
    [({}, "which model"), ({"model": "tiny", "plam": "none"}, "plam"), ({"model": "tiny", "replicas": "x"}, "number")],
)
def test_arguments_that_are_wrong(args: dict[str, str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        application(args)


@pytest.fixture(scope="module")
def example() -> ModuleType:
    pytest.importorskip("ray.serve", reason="needs ray[serve]", exc_type=ImportError)
    sys.path.insert(0, str(EXAMPLES))
    try:
        import ray_serve
    finally:
        sys.path.remove(str(EXAMPLES))
    return ray_serve


@pytest.fixture(scope="module")
def address(example: ModuleType) -> Iterator[str]:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        yield example.start("tiny", PLAN, 1, port)
    finally:
        from ray import serve

        serve.shutdown()
        ray.shutdown()


def test_it_answers_as_the_library_does(example: ModuleType, address: str) -> None:
    out = example.ask(address, "What is it?", picture(), 6)
    alone = asked_alone(foveate.load("tiny"), "What is it?", picture(), PLAN, 6)
    assert out["choices"][0]["message"]["content"].strip() == alone
    assert out["foveate"]["plan"] == PLAN


def test_streams_and_problems_come_through(address: str) -> None:
    def post(messages: Any, **more: Any) -> Any:
        body = {"messages": messages, "max_tokens": 4, **more}
        return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)

    asked = said("What is it?", ("image", uri(picture())))
    whole, stream = post(asked), post(asked, stream=True)
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in events(stream.text))
    assert text == whole.json()["choices"][0]["message"]["content"]
    assert stream.headers["content-type"].startswith("text/event-stream")
    bad = post(asked, foveate={"plan": "divprun"})
    assert (bad.status_code, bad.json()["error"]["code"]) == (400, "invalid_plan")
    assert httpx.get(f"{address}/health").json()["status"] == "ok"
    assert "<title>foveate</title>" in httpx.get(f"{address}/").text
