"""The table of what decisions cost: which shapes a method is timed on, and what it is held to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from foveate.bench import methods
from foveate.bench.filmic import of_video
from foveate.spec import get


def row(method: str, size: int, dtype: str, share: float) -> dict[str, Any]:
    more = {"size": size, "shape": methods.shape(size), "dtype": dtype, "share": share}
    return {"method": method, "stage": get(method).stage, **more}


def test_shapes_of_clips() -> None:
    assert [methods.shape(n) for n in methods.SIZES] == ["1 x 576", "5 x 576", "32 x 196", "128 x 64"]
    given = methods.tokens(get("dycoke"), 8192, methods.SIZES[8192], torch.float32)
    assert given.grid is not None
    assert given.grid[0, -1].tolist() == [127, 7, 7]


def test_long_clips_are_for_methods_that_know_of_frames() -> None:
    assert [n for n in ("dycoke", "hired", "tempme", "holitom_merge") if not methods.filmic(get(n))] == []
    assert [n for n in ("divprune", "fastv", "tome") if methods.filmic(get(n))] == []
    assert of_video(get("dycoke"))
    assert not of_video(get("hired"))


def test_goals_and_plot(tmp_path: Path) -> None:
    rows = [row("dycoke", n, kind, 0.01 * n / 6272) for n in methods.SIZES for kind in methods.DTYPES]
    rows += [row("fastv", n, kind, 0.03) for n in (576, 6272) for kind in methods.DTYPES]
    found = methods.verdicts(rows)
    assert len(found) == 3
    assert [g["holds"] for g in found] == [True, True, False]
    assert "(dycoke, 128 x 64 tokens, bfloat16)" in found[1]["goal"]
    assert len(methods.verdicts([r for r in rows if r["size"] == 576])) == 2
    path = tmp_path / "methods_speed.json"
    path.write_text(json.dumps({"rows": rows}), encoding="utf-8")
    methods.plot(path)
    assert path.with_suffix(".png").stat().st_size > 5000
