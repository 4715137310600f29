"""The benches of streams and of the store, on minutes that are seconds."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from foveate.bench import memory, streaming
from stream_kit import clip, model


def test_a_short_stream(tmp_path: Path) -> None:
    done = streaming.run(model("qwen2_5_vl", tmp_path), "foveal(keep=0.5)", 3, 8 / 60, 40, 2, seed=5)
    assert [r["minute"] for r in done["rows"]] == [0, 1, 2]
    assert all(0 < r["tokens"] <= 40 and r["rss"] > r["memory"] > 0 for r in done["rows"])
    assert sum("stream" in r for r in done["rows"]) == 2 == done["accuracy"]["alone"]["of"]
    told = {k: v for k, v in done.items() if k != "rows"}
    found = {g["goal"]: g for g in streaming.goals(done["rows"], told)}
    assert found["visual tokens remembered at most"]["holds"]
    streaming.draw(done["rows"], told, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_goals_of_a_stream() -> None:
    rows: list[dict[str, Any]] = [{"rss": 100, "tokens": 5} for _ in range(8)]
    told = {"cap": 5, "trained": True, "accuracy": {"alone": {"right": 10}, "stream": {"right": 8}}}
    assert all(g["holds"] for g in streaming.goals(rows, told))
    rows[-1]["rss"], told["cap"], told["accuracy"]["stream"]["right"] = 111, 4, 7  # type: ignore[index]
    assert not any(g["holds"] for g in streaming.goals(rows, told))


def test_figures_of_a_file(tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    model("qwen2_5_vl", tmp_path)
    name, film = str(tmp_path / "qwen2_5_vl"), str(clip(tmp_path / "a.mp4", 6))
    rows = [
        memory.measured("ask", film, name, "foveal(keep=0.5)", "4"),
        memory.measured("index", film, name, "foveal(keep=0.5)", "2.0", str(tmp_path / "s")),
        memory.measured("again", name, str(tmp_path / "s")),
    ]
    assert [r["what"] for r in rows] == ["ask", "index", "again"]
    assert rows[1]["state"] == "indexed"
    assert len(rows[1]["seconds"]) == len(memory.ASKED)
    found = {g["goal"]: g["value"] for g in memory.goals(rows)}
    assert found["time of the second question over that of the first"] == rows[1]["seconds"][1] / rows[1]["seconds"][0]


def test_pictures_fill_the_time() -> None:
    frames = memory.pictures(1, 1, seed=0)
    first = next(frames)
    assert first.size == memory.SIZE
    assert 1 + sum(1 for _ in frames) == 60


def test_the_command_line(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    memory.add(commands)
    streaming.add(commands)
    assert parser.parse_args(["memory", "--child", "again", "tiny", "x"]).child == ["again", "tiny", "x"]
    assert json.dumps(vars(parser.parse_args(["streaming"])), default=str)
