"""The plan "auto": a table by family, the default where a family was not tuned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import foveate
from foveate import families
from foveate.ask import DEFAULT_PLAN, plan_of
from foveate.errors import PlanError
from foveate.spec import Plan
from foveate.stream import Stream
from foveate.testing import tiny
from stream_kit import clip


def test_what_comes_with_the_library_can_be_read() -> None:
    table = families.auto_table()
    assert families.auto("no such family") == Plan.of(DEFAULT_PLAN)
    for name, entry in table["families"].items():
        assert name in families.families()
        assert families.auto(name)
        assert entry["evidence"]["n"] > 0, "a family's plan has evidence"


def test_a_family_has_its_own(tmp_path: Path) -> None:
    file = tmp_path / "auto.yaml"
    file.write_text("default: {plan: [foveal]}\nfamilies:\n  llava: {plan: [{divprune: {keep: 0.25}}, snapkv]}\n")
    assert str(families.auto("llava", file)) == "divprune(keep=0.25) + snapkv"
    assert str(families.auto("qwen2_vl", file)) == "foveal"
    file.write_text("families: []\n")
    with pytest.raises(PlanError, match="must hold 'default' and 'families'"):
        families.auto("llava", file)


@torch.no_grad()
def test_it_runs_wherever_a_plan_does() -> None:
    t = tiny("llava")
    with foveate.apply(t.model, "auto") as report:
        t.model(**t.inputs)
    assert report.plan == str(families.auto("llava"))
    assert report.rows
    assert not plan_of("auto", visual=False)
    assert plan_of(" Auto ", family="llava") == families.auto("llava")
    said = foveate.ask([], "What?", plan="auto", max_new_tokens=1)
    assert said.plan == ""


OWN = "divprune(keep=0.375)"


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> foveate.Loaded:
    """The built-in model, as if its family had been tuned."""
    loaded = foveate.load("tiny")
    table = {"default": {"plan": ["random"]}, "families": {loaded.family: {"plan": [{"divprune": {"keep": 0.375}}]}}}
    monkeypatch.setattr(families, "auto_table", lambda file=None: table)
    return loaded


def test_streams_and_stores_take_the_familys(tuned: foveate.Loaded, tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    from foveate.archive import ask_store, index

    assert str(Stream(tuned, "auto").plan) == OWN
    (done,) = index([clip(tmp_path / "a.mp4", 4)], tmp_path / "store", model=tuned, plan="auto", fps=1)
    assert done.state == "indexed"
    for plan in ("auto", OWN, None):
        assert ask_store(tmp_path / "store", "What?", model=tuned, plan=plan, max_new_tokens=1).report.plan == OWN


def test_the_server_takes_the_familys(tuned: foveate.Loaded) -> None:
    pytest.importorskip("fastapi")
    from foveate.serve import create_app
    from foveate.serve.plans import client_plan

    server = create_app(tuned, "auto").state.server
    assert str(server.plan) == OWN
    asked = client_plan("Auto", 0.5, Plan.of("snapkv"), ("auto",), server.preparer.auto)
    assert str(asked) == "divprune(keep=0.5)"
