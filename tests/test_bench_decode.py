"""The study of decoding, in its smallest form."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from foveate.bench.__main__ import main
from foveate.bench.decode_draws import RULES, chi_square


def test_a_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "decode.json"
    args = ["decode", "--model", "tiny", "--tasks", "copy", "image", "--prompts", "1", "--new", "6", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["bench", *args, "--only", "prompt_lookup", "token_recycling"])
    main()
    data = json.loads(out.read_text(encoding="utf-8"))
    assert {r["drafter"] for r in data["rows"]} == {
        "plain", "transformers prompt lookup", "prompt_lookup", "token_recycling"
    }  # fmt: skip
    assert all(r["same"] == r["prompts"] == 1 for r in data["rows"])
    assert "the same" in capsys.readouterr().out


@pytest.mark.parametrize("name", RULES)
def test_rules_keep_the_distribution(name: str) -> None:
    assert chi_square(name, 3000 if "beams" in name else 40_000, 0) < 44.3  # 15 degrees of freedom, 1 in 10,000
