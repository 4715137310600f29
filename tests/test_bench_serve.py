"""The load test's items and what it is held to."""

from __future__ import annotations

from typing import Any

from foveate.bench.clients import made
from foveate.bench.serve import soak_goals, throughput_goals


def rows(full: float, cut: float, clients: int = 8) -> list[dict[str, Any]]:
    return [
        {"plan": plan, "clients": clients, "answers_per_second": speed}
        for plan, speed in (("none", full), ("foveal", cut))
    ]


def test_questions_are_what_the_server_takes() -> None:
    for kind in ("image", "video", "text"):
        (message,) = made(kind, seed=0, each=1)[0].messages
        kinds = [part["type"] for part in message["content"]]
        assert kinds == ([f"{kind}_url"] if kind != "text" else []) + ["text"]


def test_goals_of_throughput() -> None:
    (goal,) = throughput_goals("image", [*rows(2, 3), *rows(2, 1.9, 16)])
    assert not goal["holds"]
    assert goal["value"] == 0.95
    slow, fast = (throughput_goals("video", rows(2, cut))[1]["holds"] for cut in (2.9, 3.1))
    assert (slow, fast) == (False, True)


def test_goals_of_the_long_run() -> None:
    row = {"clients": 2, "minutes": 1.0, "errors": {}, "different": 0, "memory_early": 100.0, "memory_late": 104.0}
    assert all(g["holds"] for g in soak_goals(row))
    for bad in ({"errors": {"500 x": 1}}, {"different": 1}, {"memory_late": 106.0}):
        assert sum(not g["holds"] for g in soak_goals({**row, **bad})) == 1
