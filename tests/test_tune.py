"""The whole of tuning, on an untrained model: what is written, what is refused, what goes on after a stop."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

import foveate
from foveate import families
from foveate.cli import app
from foveate.errors import InputError, MediaError
from foveate.load import Loaded
from foveate.spec import Plan
from foveate.tune import asking, tune
from foveate.tune.questions import questions

SMALL = ["--methods", "random,fastv", "--keeps", "0.5,0.25", "--items", "4", "--held-out", "3", "--batch", "4",
         "--generations", "1", "--children", "2", "--rounds", "1"]  # fmt: skip


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return foveate.load("tiny")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    lines = []
    for i in range(7):
        Image.new("RGB", (168, 168), (30 * i, 90, 200)).save(folder / f"{i}.png")
        lines.append({"media": f"{i}.png", "question": "What colour is it?", "answer": ["blue", "Blue-ish"]})
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_the_command_writes_a_plan_with_its_evidence(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "plan.yaml"
    call = ["tune", "tiny", str(own), "--target", "kv<=0.9*full", "--out", str(file), *SMALL]
    monkeypatch.setattr(sys, "argv", ["foveate", *call])
    first = CliRunner().invoke(app, [*call, "--json"])
    assert first.exit_code == 0, first.output
    told, written = json.loads(first.stdout), yaml.safe_load(file.read_text())
    assert told["supported"] is written["supported"] is True
    assert str(Plan.of(file)) == told["plan"]
    assert written["claims"][0].startswith("kv<=0.9*full is supported")
    assert written["not"] == []
    seen = written["evidence"]
    assert seen["n"] == 3
    assert seen["low"] <= seen["accuracy"] <= seen["high"]
    assert seen["loss_low"] <= seen["loss"] <= seen["loss_high"]
    assert seen["cost"]["kv"] <= 0.9
    assert written["about"]["command"].startswith("foveate tune tiny ")
    assert {"seed", "items", "held_out", "machine", "foveate", "weights", "plans_tried"} <= set(written["about"])
    assert written["full"]["plan"] == "none"
    assert written["full"]["kv"] == 1
    kv = [r["kv"] for r in written["front"]]
    assert kv == sorted(kv)

    again = CliRunner().invoke(app, call)
    assert again.exit_code == 0, again.output
    assert "Pareto front" in again.stdout
    assert "untrained" in again.stdout
    second = yaml.safe_load(file.read_text())
    assert second["about"].pop("questions_asked") == 0, "everything was known"
    assert written["about"].pop("questions_asked") > 0
    for data in (written, second):
        data["about"].pop("command")
    assert second == written


def test_what_the_items_do_not_support_is_not_claimed(own: Path, tmp_path: Path) -> None:
    """An untrained model is never right, and a share of nothing is no evidence of anything."""
    file = tmp_path / "plan.yaml"
    out = CliRunner().invoke(
        app, ["tune", "tiny", str(own), "--target", "accuracy>=0.98*full", "--out", str(file), *SMALL]
    )
    assert out.exit_code == 1, out.output
    written = yaml.safe_load(file.read_text())
    assert written["supported"] is False
    assert written["claims"] == []
    assert "NOT supported" in written["not"][0]
    assert "NOT supported" in out.stdout
    assert Plan.of(file)
    with pytest.raises(InputError, match="not supported"):
        families.entered(file, tmp_path / "auto.yaml")


def test_a_supported_plan_can_stand_for_its_family(tmp_path: Path) -> None:
    file, table = tmp_path / "plan.yaml", tmp_path / "auto.yaml"
    data = {"plan": [{"divprune": {"keep": 0.25}}], "supported": True, "family": "llava", "claims": ["a"], "model": "m",
            "evidence": {"n": 9}, "about": {"seed": 0}}  # fmt: skip
    file.write_text(yaml.safe_dump(data))
    table.write_text("# kept\ndefault:\n  plan: [foveal]\n  evidence: null\nfamilies: {}\n")
    families.entered(file, table)
    assert table.read_text().startswith("# kept\n")
    assert str(families.auto("llava", table)) == "divprune(keep=0.25)"
    assert str(families.auto("qwen2_vl", table)) == "foveal"
    assert families.auto_table(table)["families"]["llava"]["evidence"]["n"] == 9
    file.write_text(yaml.safe_dump({**data, "family": "no such"}))
    with pytest.raises(InputError, match="no such"):
        families.entered(file, table)


def test_the_choice_follows_the_scores(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are made up: all plans are right but those that keep a tenth. The cheapest right one is chosen."""

    def say(self: asking.Asker, plan: str, first: int, n: int) -> asking.Said:
        right = 0.0 if "keep=0.1)" in plan else 1.0
        return asking.Said(["x"] * n, [right] * n, [1] * n)

    monkeypatch.setattr(asking.Asker, "say", say)
    monkeypatch.setattr(asking.Asker, "times", lambda self, plan, rounds: ([1.0] * 6, [2.0] * 6))
    found = tune(loaded, "attribute", "accuracy>=0.9*full", methods=["random"], keeps=(0.5, 0.25, 0.1),
                 items=60, held_out=60, generations=0)  # fmt: skip
    assert found.plan == str(Plan.of("random(keep=0.25)"))
    assert found.supported
    assert found.evidence["full"]["accuracy"] == 1
    fast = tune(loaded, "attribute", ["ttft<=0.6*full", "accuracy>=0.9*full"], methods=["random"], keeps=(0.5, 0.1),
                items=60, held_out=60, generations=0)  # fmt: skip
    assert fast.plan == "random(keep=0.5)"
    assert [f.supported for f in fast.findings] == [True, True]
    slow = tune(loaded, "attribute", "ttft<=0.4*full", methods=["random"], keeps=(0.5,), items=8, held_out=8,
                generations=0)  # fmt: skip
    assert not slow.supported


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"data": "no/such"}, "no folder 'no/such'"),
        ({"data": "atribute"}, "did you mean 'attribute'"),
        ({"methods": ["divprun"]}, "did you mean 'divprune'"),
        ({"keeps": [1.5]}, "'keeps' must be shares"),
        ({"items": 0}, "'items' must be at least 1"),
        ({"targets": []}, "say what to tune for"),
    ],
)
def test_what_cannot_be(loaded: Loaded, given: dict[str, object], why: str) -> None:
    call = {"data": "attribute", "targets": "kv<=0.5*full", "items": 1, "held_out": 1} | given
    with pytest.raises(InputError, match=why):
        tune(loaded, **call)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "is not JSON"),
        ('{"question": "a", "answer": "b", "medium": "c.png"}', "unknown .'medium'."),
        ('{"question": " ", "answer": "b"}', "needs a question and an answer"),
        ('{"question": "a"}', "'answer' must be text"),
        ('{"question": "a", "answer": "b", "match": "near"}', "exact, contains"),
        ('{"question": "a", "answer": "...", "media": []}', "needs a question and an answer"),
    ],
)
def test_lines_that_are_no_questions_are_named(loaded: Loaded, tmp_path: Path, line: str, why: str) -> None:
    (tmp_path / "a.jsonl").write_text(f"\n{line}\n")
    with pytest.raises(InputError, match=rf"a.jsonl:2.*{why}"):
        questions(tmp_path, loaded, 4, 0)


def test_own_data(loaded: Loaded, own: Path, tmp_path: Path) -> None:
    found = questions(own, loaded, 7, 0)
    assert found == questions(own, loaded, 7, 0)
    assert [q.mark for q in found] != [q.mark for q in questions(own, loaded, 7, 1)]
    assert found[0].score(" BLUE ish.") == 1
    assert found[0].score("it is blue") == 0
    (tmp_path / "a.jsonl").write_text('{"question": "a", "answer": "red", "match": "contains"}')
    (one,) = questions(tmp_path / "a.jsonl", loaded, 4, 0)
    assert one.score("It is red, I think.") == 1
    assert one.score("It is reddish.") == 0
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no"):
        questions(tmp_path / "empty", loaded, 4, 0)
    (tmp_path / "a.jsonl").write_text('{"question": "a", "answer": "red", "media": "gone.png"}')
    with pytest.raises(MediaError, match="gone"):
        questions(tmp_path, loaded, 4, 0)


def test_lab_tasks_are_mixed_evenly(loaded: Loaded) -> None:
    tasks = [q.task for q in questions("attribute,counting", loaded, 5, 0)]
    assert len(tasks) == 5
    assert abs(tasks.count("attribute") - tasks.count("counting")) == 1
    assert tasks[0] != tasks[1]
