"""Questions spread over Ray: what workers answer, and a worker that is killed in the middle."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import foveate
from compare_kit import folder, lines
from foveate.compare import Pool, compare
from foveate.compare.asker import Asker
from foveate.compare.pool import Job, Worker
from foveate.compare.source import Source
from foveate.errors import InputError, MissingExtraError
from foveate.spec import Plan

PLAN = "random(keep=0.5)"


def test_a_worker_answers_as_the_driver_would(tmp_path: Path) -> None:
    loaded = foveate.load("tiny")
    source = Source.of(None, folder(tmp_path / "own", 2), loaded, n=2, seed=0, difficulty=0.5, frames=4)
    questions = source.questions("data:own")
    asker = Asker(loaded, 4, 3, 0, "r")
    keys = tuple(asker.key(questions[1], Plan.of(p)) for p in ("", PLAN))
    worker = Worker("tiny", source, 3, "r", "cpu", 1)
    job = Job("data:own", 1, ("", PLAN), keys)
    (made,) = worker({"job": [json.dumps(vars(job))]})["lines"]
    full, half = json.loads(made)
    assert (full["key"], half["key"]) == keys
    assert full["said"] == asker.ask(questions[1], Plan.of(""))["said"]
    assert half["left"] == half["visual"] // 2
    wrong = worker.answers(Job("data:own", 0, ("",), ("0" * 40,)))
    assert "other data" in wrong[0]["failed"]
    assert worker.answers(Job("data:own", 0, ("",), ("0" * 40,))) == [], "what failed is not tried again"


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="'workers'"):
        Pool(workers=0)
    own = folder(tmp_path / "own", 1)
    with pytest.raises(InputError, match="give its name"):
        compare([foveate.load("tiny")], [PLAN], data=own, out=tmp_path / "out", pool=Pool())
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"foveate\[ray\]"):
        compare(["tiny"], [PLAN], data=own, out=tmp_path / "out", pool=Pool())


def test_a_worker_is_killed_in_the_middle(tmp_path: Path, local_ray: None) -> None:
    own, out = folder(tmp_path / "own", 30), tmp_path / "out"
    killed: list[int] = []

    def tell(step: str, done: int, total: int | None) -> None:
        if step == "tiny workers" and done == 6 and not killed:
            killed.append(int(lines(out)[-1]["worker"].rpartition(":")[2]))
            assert killed[0] != os.getpid()
            os.kill(killed[0], signal.SIGKILL)

    def run(**more: Any) -> Any:
        return compare(["tiny"], [PLAN], data=own, out=out, max_new_tokens=2, pool=Pool(1), **more)

    told = run(tell=tell)
    assert killed
    entries = lines(out)
    assert len(entries) == len({e["key"] for e in entries}) == 60, "nothing lost, nothing twice"
    assert {(e["i"], e["plan"]) for e in entries} == {(i, p) for i in range(30) for p in ("none", PLAN)}
    workers = {int(e["worker"].rpartition(":")[2]) for e in entries}
    assert killed[0] in workers
    assert len(workers) > 1, "another worker took over"
    assert [r["n"] for r in told.rows] == [30, 30]
    assert run().about["answered"] == 0
