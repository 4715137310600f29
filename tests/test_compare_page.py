"""``foveate bench``: the command, what it writes, and a stop in the middle of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from compare_kit import folder, lines
from foveate.bench.exam import sources
from foveate.cli import app
from foveate.compare import Comparison, load
from foveate.compare.cells import COLUMNS, cells
from foveate.compare.chart import chart
from foveate.compare.page import page
from foveate.tune.questions import Question

CALL = ["--plan", "random(keep=0.5)", "--max-new-tokens", "2"]


def test_the_command_writes_table_page_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    call = ["bench", "tiny", "--data", str(folder(tmp_path / "own", 3)), "--out", str(out), *CALL]
    monkeypatch.setattr(sys, "argv", ["foveate", *call])
    first = CliRunner().invoke(app, call)
    assert first.exit_code == 0, first.output
    assert "random(keep=0.5)" in first.stdout
    assert "6 answers, 0 known before" in first.stdout
    assert "untrained" in first.stdout
    told = json.loads((out / "results.json").read_text())
    assert {r["plan"] for r in told["rows"]} == {"none", "random(keep=0.5)"}
    assert all(r["command"].startswith("foveate bench tiny --data") for r in told["rows"])
    assert "foveate bench" in (out / "index.html").read_text()
    again = CliRunner().invoke(app, [*call, "--json"])
    assert again.exit_code == 0, again.output
    data = json.loads(again.stdout)
    assert data["about"]["answered"] == 0
    assert [r["accuracy"] for r in data["rows"]] == [r["accuracy"] for r in told["rows"]]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--tasks", "atribute"], "did you mean 'attribute'"),
        (["--plan", "divprun"], "divprune"),
        (["--concurrency", "one"], "whole numbers"),
        (["--ray", "--workers", "0"], "'workers' must be at least 1"),
    ],
)
def test_what_is_refused(tmp_path: Path, words: list[str], why: str) -> None:
    out = CliRunner().invoke(app, ["bench", "tiny", "--out", str(tmp_path), *words])
    assert out.exit_code == 2
    assert why in out.output


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    own, out = folder(tmp_path / "own", 40), tmp_path / "out"
    call = ["bench", "tiny", "--data", str(own), "--out", str(out), *CALL]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    source = sources.__wrapped__("")
    process = subprocess.Popen([sys.executable, "-m", "foveate", *call], env=env, stdout=subprocess.DEVNULL)
    log = out / "answers.jsonl"
    until = time.monotonic() + 240
    while (not log.exists() or log.read_bytes().count(b"\n") < 5) and process.poll() is None:
        assert time.monotonic() < until, "it never began"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = log.read_bytes()
    kept = before.count(b"\n")
    assert 5 <= kept < 80
    sources.cache_clear()
    done = CliRunner().invoke(app, [*call, "--json"])
    assert done.exit_code == 0, done.output
    if sources.__wrapped__("") != source:
        pytest.skip("the source changed while the test ran, so earlier answers do not count")
    about = json.loads(done.stdout)["about"]
    assert (about["known"], about["answered"]) == (kept, 80 - kept)
    assert log.read_bytes().startswith(before)
    entries = lines(out)
    assert len(entries) == len({e["key"] for e in entries}) == 80
    assert len({e["run"] for e in entries}) == 2


# --- the page ---------------------------------------------------------------------------------------------------------


class _Tags(HTMLParser):
    """Open tags with their attributes; complains of tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "line", "circle", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def told(**more: Any) -> dict[str, Any]:
    base = {"model": "m<i>", "plan": "none", "task": "all", "n": 4, "accuracy": 0.5, "low": 0.2, "high": 0.8,
            "evidence": None, "visual": 100.0, "left": 100.0, "sites": {}, "first_token": 0.1, "per_token": None,
            "peak": None, "kv": 2048.0, "flops": 1e9, "commit": "c", "machine": [{"cpu": "<b>"}],
            "throughput": {"2": {"answers_per_second": 3.0, "errors": 1}}}  # fmt: skip
    return base | more


def test_the_page_stands_alone_and_escapes_everything() -> None:
    bad = "<script>alert(1)</script>"
    against = {"loss": 0.4, "loss_low": 0.1, "loss_high": 0.7, "p": 0.01, "better": 0, "worse": 2, "loyalty": 0.5}
    cut = told(plan=bad, left=25.0, sites={"inputs": 0.25}, **against)
    rows = [told(), cut, told(task="lab:read"), {**cut, "task": "lab:read"}]
    about = {"tasks": [bad], "n": 4, "seed": 0, "command": bad, "foveate": "0", "answered": 1, "known": 2,
             "workers": 1, "same_questions_left_out": 1}  # fmt: skip
    example = {"model": bad, "plan": bad, "task": bad, "question": bad, "wanted": [bad], "full": bad, "said": bad}
    made = page(Comparison(rows, {"m<i>": {bad: bad}}, about, [bad], [example], Path("answers.jsonl")))
    assert bad not in made
    assert "<b>" not in made
    tags = _Tags()
    tags.feed(made)
    assert tags.open == []
    names = {name for name, _ in tags.seen}
    assert not names & {"script", "img", "link", "iframe"}
    assert not re.search(r"https?://", made)
    assert sum(attrs.get("class") == "worse" for name, attrs in tags.seen if name == "tr") == 2
    assert "2: 3.00/s, 1 errors" in made


def test_every_column_has_a_figure() -> None:
    row = told(loss=0.1, loss_low=0.0, loss_high=0.2, p=0.5, loyalty=0.9, evidence=0.25, per_token=0.005, peak=1024,
               first_token_of_full=0.5)  # fmt: skip
    assert len(cells(row)) == len(COLUMNS)
    assert all(cells(row))
    found = dict(zip(COLUMNS, cells(row)))
    assert (found["first token"], found["KV"], found["GFLOPs"]) == ("100.0 ms", "2.0 KiB", "1.00")


def test_the_chart_has_a_point_for_each_plan() -> None:
    made = chart([told(), told(plan="a", left=25.0)], "m")
    assert made.count("<circle") == 2
    assert "25.0% of visual tokens" in made
    assert chart([told(visual=0.0)], "m") == ""


# --- throughput -------------------------------------------------------------------------------------------------------


def test_questions_as_a_client_sends_them(tmp_path: Path) -> None:
    picture = Image.new("RGB", (28, 28))
    picture.save(tmp_path / "a.png")
    text = {"type": "text", "text": "What?"}
    content = [{"type": "image", "image": picture}, {"type": "image", "image": str(tmp_path / "a.png")},
               {"type": "video", "video": [picture] * 2, "times": [0.0, 0.5]}, text]  # fmt: skip
    talk = [{"role": "user", "content": content}, {"role": "assistant", "content": [text]}]
    made = load.wire(talk)
    assert made is not None
    assert [c["type"] for c in made[0]["content"]] == ["image_url", "image_url", "video_url", "text"]
    assert made[1] == {"role": "assistant", "content": "What?"}
    part = {"type": "video", "video": "a.mp4", "start": 1.0, "stop": 2.0}
    assert load.wire([{"role": "user", "content": [part, text]}]) is None


def test_throughput_is_measured_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[tuple[str, int]] = []

    class Server:
        url = ""

        def __init__(self, *given: Any) -> None: ...
        def __enter__(self) -> Server:
            return self

        def __exit__(self, *error: object) -> None: ...

    class Client:
        def __init__(self, *given: Any) -> None: ...
        async def ready(self, server: Any) -> None: ...
        async def close(self) -> None: ...
        async def ask(self, *given: Any) -> dict[str, Any]:
            return {}

    async def measure(client: Any, questions: Any, plan: str, level: int, seconds: float) -> dict[str, Any]:
        turns.append((plan, level))
        return {"answers": level, "errors": 0, "tokens": 10, "first": [], "seconds": seconds}

    monkeypatch.setattr(load, "Process", Server)
    monkeypatch.setattr(load, "Client", Client)
    monkeypatch.setattr(load, "measure", measure)
    question = Question([{"role": "user", "content": [{"type": "text", "text": "What?"}]}], ("x",))
    found = load.throughput("m", ["none", "a"], [question], [1, 2], 2.0, 4)
    assert turns == [(p, level) for level in (1, 2) for p in ("none", "a", "a", "none")]
    assert found["a"]["2"] == {"answers_per_second": 2.0, "tokens_per_second": 10.0, "answers": 4, "errors": 0}
