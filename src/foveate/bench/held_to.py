"""What a study of accuracy is held to: above all, that its items can tell good selections from bad ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .desk import FULL
from .results import goal

SOLVED = 0.5  # a task counts in goals if the full model is right at least this often


def goals(
    rows: Sequence[dict[str, Any]],
    families: Mapping[str, Sequence[str]],
    hard: tuple[str, str],
    best_at: tuple[float, str],
    where: str = "",
) -> list[dict[str, Any]]:
    """The goals of the rows of one topic.

    families: its tasks. hard: a task that random selection must hurt, and what that is in words. best_at: the share at
    which the best method must gain, and that share in words. where: ends every goal.
    """
    whole = next(r for r in rows if r["method"] == FULL)["tasks"]
    base = whole["overall"]["accuracy"]
    out = [goal(f"the full model is right at least this often, over all tasks{where}", base, 0.8, base >= 0.8)]
    solved = [t for t in dict.fromkeys(t for m in families.values() for t in m) if whole[t]["accuracy"] >= SOLVED]
    chance = next((r["tasks"] for r in rows if r["method"] == "random" and r["keep"] == 0.1), None)
    if chance is not None:
        lost = chance["overall"]["loss"]
        text = f"random selection of a tenth of the tokens loses at least this much{where}"
        out.append(goal(text, lost, 0.15, lost >= 0.15))
        least = min((chance[t]["loss"] for t in solved), default=1.0)
        text = f"some task that the model solves loses less than this by random selection of a tenth{where}"
        out.append(goal(text, least, 0.05, least < 0.05))
        task, called = hard
        lost = chance[task]["loss"]
        out.append(goal(f"{called} loses more than this by random selection of a tenth{where}", lost, 0.3, lost > 0.3))
    share, words = best_at
    at = [r["tasks"]["overall"] for r in rows if r["keep"] == share and r["method"] not in (FULL, "random")]
    if at:
        gain = max(c.get("gain", 0.0) for c in at)
        text = f"the best method gains at least this much over random selection at {words} of the tokens{where}"
        out.append(goal(text, gain, 0.05, gain >= 0.05))
    return out
