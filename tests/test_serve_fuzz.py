"""Requests made from the server's own OpenAPI schema, and right ones with something broken: never a server error.

``FOVEATE_FUZZ=500 pytest tests/test_serve_fuzz.py`` tries so many of each kind instead of a few.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

import hypothesis  # noqa: E402
from hypothesis import HealthCheck, Phase, given  # noqa: E402
from hypothesis import settings as limits  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from serve_kit import Served, clip, events, picture, said, serving, uri  # noqa: E402

MANY = int(os.environ.get("FOVEATE_FUZZ", "12"))
ROUTES = ("POST /v1/chat/completions", "GET /v1/models", "GET /v1/models/{name}", "GET /health", "GET /metrics")
FEW = limits(
    max_examples=MANY,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),  # what is found is told as it is: making it smaller takes minutes
    suppress_health_check=list(HealthCheck),
    database=None,
)
WAIT = 60.0  # seconds for one answer; a server that hangs fails the test


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving("tiny", "divprune(keep=0.5)", new_tokens=2, default_new_tokens=2, fetch=False) as at:
        yield at


def fine(status: int, text: str, kind: str) -> None:
    """No server error, nothing of the inside, and a form that clients can read."""
    assert status < 500, text
    assert "Traceback" not in text
    assert 'File "' not in text
    if kind.startswith("text/event-stream"):
        assert all(e.get("error", {}).get("type") != "server_error" for e in events(text))
        assert text.endswith("data: [DONE]\n\n")
    elif kind.startswith("application/json"):
        json.loads(text)
    else:
        assert kind.startswith("text/plain; version"), kind  # metrics, in Prometheus' form


@pytest.mark.parametrize(
    ("route", "right"),
    [*((r, True) for r in ROUTES), (ROUTES[0], False)],  # of the others nothing could be wrong
)
def test_requests_made_from_the_schema(served: Served, route: str, right: bool) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    method, path = route.split()
    schema = schemathesis.openapi.from_dict(httpx.get(f"{served.url}/openapi.json").json())
    mode = schemathesis.GenerationMode.POSITIVE if right else schemathesis.GenerationMode.NEGATIVE

    @hypothesis.seed(0)
    @FEW
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    def one(case: Any) -> None:
        reply = case.call(base_url=served.url, timeout=WAIT)
        fine(reply.status_code, reply.content.decode(), reply.headers["content-type"][0])

    one()


def test_every_route_is_tried(served: Served) -> None:
    paths = httpx.get(f"{served.url}/openapi.json").json()["paths"]
    assert {f"{m.upper()} {p}" for p, there in paths.items() for m in there} == set(ROUTES)


WHOLE: dict[str, Any] = {
    "model": "tiny",
    "messages": [
        {"role": "system", "content": "Be short."},
        *said("What is it?", ("image", uri(picture()))),
        {"role": "assistant", "content": "A"},
        *said("And this?", ("video", clip(frames=2))),
    ],
    "max_tokens": 2,
    "temperature": 0.5,
    "top_p": 0.9,
    "seed": 1,
    "stop": ["x"],
    "stream": False,
    "stream_options": {"include_usage": True},
    "foveate": {"plan": "foveal(keep=0.5)", "keep": 0.25, "overlay": True, "frames": 2, "reuse": True, "seconds": 60},
}
PLANS = st.sampled_from(
    ["none", "auto", "foveal", "snapkv(keep=0.3)", "tome", "bolt", "foveal(keep=-1)", "fastv(layer=99)", "given",
     "divprune + foveal", "random(keep=0)", "snapkv(window=0)", "token_recycling", "(", "foveal(keep=1e9)"]
)  # fmt: skip
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    PLANS,
    st.sampled_from(["data:image/png;base64,AAAA", "data:,", "file:///etc/passwd", "http://127.0.0.1/", "/etc/passwd"]),
    st.just([]),
    st.just({}),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.sampled_from(["type", "text", "url", "role"]), st.text(max_size=5), max_size=2),
)


def places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything inside."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield (*at, key)
        yield from places(value, (*at, key))


def test_right_requests_with_something_broken(served: Served) -> None:
    statuses: set[int] = set()

    @hypothesis.seed(0)
    @FEW
    @given(
        broken=st.lists(st.tuples(st.sampled_from(list(places(WHOLE))), ODD, st.booleans()), min_size=1, max_size=3),
        plan=PLANS,
        stream=st.booleans(),
    )
    @hypothesis.example(broken=[], plan="foveal", stream=False)
    @hypothesis.example(broken=[], plan="foveal", stream=True)
    def one(broken: list[tuple[tuple[Any, ...], Any, bool]], plan: str, stream: bool) -> None:
        body = copy.deepcopy(WHOLE)
        body["foveate"]["plan"], body["stream"] = plan, stream
        for path, value, gone in broken:
            inside: Any = body
            try:
                for key in path[:-1]:
                    inside = inside[key]
                if gone:
                    del inside[path[-1]]
                else:
                    inside[path[-1]] = value
            except (KeyError, IndexError, TypeError):
                continue  # an earlier one broke the way to it
        reply = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=WAIT)
        statuses.add(reply.status_code)
        fine(reply.status_code, reply.text, reply.headers["content-type"])

    one()
    assert 200 in statuses
    assert statuses & {400, 422}
    assert served.settled()
    assert served.engine.alive
