"""What foveal is held to in the studies, and the ablation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from foveate.bench import ablation, own


def row(method: str, keep: float, accuracy: float, loss: float, later: float = 0.0) -> dict[str, Any]:
    tasks = {"overall": {"accuracy": accuracy, "loss": loss}, "dialogue": {"loss": later}}
    return {"method": method, "keep": keep, "kept": keep, "tasks": tasks}


def test_ahead_of_all_that_leave_no_more() -> None:
    rows = [row("foveal", 0.25, 0.8, 0.1), row("a", 0.25, 0.79, 0.1), row("b", 0.5, 0.9, 0.0), row("c", 0.1, 0.81, 0.0)]
    (first, _) = own.goals(rows, "dialogue")
    assert first["goal"].startswith("foveal is ahead")
    assert abs(first["value"] + 0.01) < 1e-9
    assert not first["holds"]  # c leaves less and is right more often
    assert own.goals(rows[:3], "dialogue")[0]["holds"]


def test_half_of_the_loss() -> None:
    rows = [row("foveal", 0.1, 0.8, 0.11), row("random", 0.1, 0.7, 0.2)]
    (found,) = own.goals(rows, "dialogue")
    assert (found["bar"], found["holds"]) == (0.1, False)


def test_later_questions() -> None:
    rows = [
        row("foveal", 0.25, 0.9, 0.0, later=0.02),
        row("a", 0.25, 0.8, 0.1, later=0.05),
        row("b", 0.25, 0.8, 0.1, 0.06),
    ]
    found = own.goals(rows, "dialogue")[-1]
    assert (found["value"], found["bar"], found["holds"]) == (0.02, 0.025, True)


def test_nothing_is_said_where_it_was_not_asked() -> None:
    assert own.goals([row("a", 0.1, 0.8, 0.1), row("random", 0.1, 0.5, 0.4)], "dialogue") == []


def test_the_ablation_changes_one_thing_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "foveal.json"
    ablation.run(out, "lab/image", 12, 3, (0.1,))
    found = json.loads(out.read_text(encoding="utf-8"))
    changed = {r["change"]: r for r in found["rows"] if "change" in r}
    assert list(changed) == list(ablation.CHANGES)
    assert "against_whole" not in changed["as it is"]
    assert all(len(r["against_whole"]) == 3 for c, r in changed.items() if c != "as it is")
    assert len(found["goals"]) == 4
