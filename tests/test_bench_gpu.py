"""The study of large models, dry: tiny shapes on the CPU, what is left out, and what it is held to."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from foveate.bench import gpu
from foveate.bench.gpu_shapes import SIZED
from foveate.bench.shapes import VIDEO
from foveate.errors import InputError


def options(out: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    gpu.add(parser.add_subparsers(dest="what"))
    given = ["gpu", "--out", str(out), "--shape", "tiny", "--device", "cpu", "--new-tokens", "3", "--repeats", "1"]
    return parser.parse_args([*given, *more])


@pytest.mark.parametrize("name", ["Qwen2.5-VL-7B", "Qwen3-VL-8B"])
def test_a_dry_run(name: str, tmp_path: Path) -> None:
    gpu.main(options(tmp_path / "gpu.json", "--models", name, "--sizes", "256", "--rows", "1", "2"))
    data = json.loads((tmp_path / "gpu.json").read_text())
    rows = data["rows"]
    assert [(r["tokens"], r["rows"]) for r in rows] == [(256, 1), (256, 2)]
    for r in rows:
        assert r["kept"] == r["visual_tokens"] // 4
        assert r["kv_bytes"] < r["kv_bytes_full"]
        assert all(r[side]["first_token_s"] > 0 and r[side]["tokens_per_s"] > 0 for side in gpu.SIDES)
    assert any("share of the oracle" in g["goal"] for g in data["goals"])


def test_nothing_is_begun_that_would_not_end_in_time(tmp_path: Path) -> None:
    gpu.main(options(tmp_path / "gpu.json", "--models", "Qwen2.5-VL-7B", "--minutes", "0"))
    data = json.loads((tmp_path / "gpu.json").read_text())
    assert {r["skipped"] for r in data["rows"]} == {"no time was left"}
    assert not next(g for g in data["goals"] if g["goal"].startswith("cells measured"))["holds"]
    assert gpu.expected((100, 1, 2.0), (100, 4)) == 8.0
    assert gpu.expected((100, 4, 2.0), (400, 1)) == 8.0


def test_a_side_without_memory_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = gpu.run

    def short(sized: Any, device: Any, side: str, row: dict[str, Any], args: Any) -> Any:
        if side == "full" and row["rows"] * row["tokens"] >= 512:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(sized, device, side, row, args)

    monkeypatch.setattr(gpu, "run", short)
    out = tmp_path / "gpu.json"
    gpu.main(options(out, "--models", "Qwen2.5-VL-7B", "--sizes", "256", "--rows", "1", "2", "--repeats", "2"))
    small, large = json.loads(out.read_text())["rows"]
    assert small["out_of_memory"] == []
    assert large["out_of_memory"] == ["full"]
    assert large["full"] is None
    assert large["share_of_oracle"] > 0
    assert "speedup" not in large


@pytest.mark.parametrize("name", list(SIZED))
def test_shapes_are_those_of_the_models(name: str) -> None:
    """Counted without memory: about 7 and 8 billion weights."""
    model = SIZED[name](torch.device("meta"), False).model
    billions = sum(p.numel() for p in model.parameters()) / 1e9
    assert billions == pytest.approx(
        {"Qwen2.5-VL-7B": 8.29, "Qwen3-VL-8B": 8.77, "LLaVA-OneVision-7B": 8.03}[name], abs=0.02
    )


@torch.no_grad()
def test_the_oracles_prompt() -> None:
    sized = SIZED["Qwen3-VL-8B"](torch.device("cpu"), True)
    given = sized.inputs(512, 2)
    place = given["input_ids"][0] == VIDEO
    text = int((~place).sum())
    embeds = sized.kept_only(given, 300)
    assert embeds.shape[:2] == (2, text + 300)
    features = sized.features(given)
    assert torch.equal(embeds[1, 10 : 10 + 256], features[1, :256])


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--shape", "full"], "want a GPU"),
        (["--plan", "snapkv"], "stage inputs"),
        (["--new-tokens", "1"], "at least 2"),
    ],
)
def test_what_cannot_be_run(tmp_path: Path, more: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        gpu.main(options(tmp_path / "gpu.json", *more))
