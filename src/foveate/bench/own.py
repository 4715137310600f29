"""What foveate's own method is held to: no other keeps more of the answers with as few tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .desk import FULL
from .results import goal

OWN = "foveal"
SLACK = 1.02  # a method that leaves up to this many times as much counts as leaving as much


def goals(rows: Sequence[dict[str, Any]], dialogue: str, where: str = "") -> list[dict[str, Any]]:
    """The goals of the rows of one topic; none where the method was not asked. dialogue: the task of several turns."""
    mine = {r["keep"]: r for r in rows if r["method"] == OWN}
    others = [r for r in rows if r["method"] not in (OWN, FULL, "random")]
    chance = {r["keep"]: r for r in rows if r["method"] == "random"}
    out = []
    for keep, row in sorted(mine.items(), reverse=True):
        rivals = [r["tasks"]["overall"]["accuracy"] for r in others if r["kept"] <= SLACK * row["kept"]]
        if rivals:
            ahead = row["tasks"]["overall"]["accuracy"] - max(rivals)
            text = f"{OWN} is ahead of every method that leaves no more than it does, {keep:.0%} kept{where}"
            out.append(goal(text, ahead, 0.0, ahead >= 0))
    if 0.1 in mine and 0.1 in chance:
        lost, bar = (r[0.1]["tasks"]["overall"]["loss"] for r in (mine, chance))
        text = f"{OWN} loses at most half of what random selection loses, 10% kept{where}"
        out.append(goal(text, lost, bar / 2, lost <= bar / 2))
    same = [r["tasks"][dialogue]["loss"] for r in others if r["keep"] == 0.25]
    if 0.25 in mine and same:
        lost, bar = mine[0.25]["tasks"][dialogue]["loss"], max(0.0, min(same)) / 2
        text = f"{OWN} loses at most half of what the best other loses in later questions, 25% kept{where}"
        out.append(goal(text, lost, bar, lost <= bar))
    return out
