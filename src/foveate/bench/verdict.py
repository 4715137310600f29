"""When a method helps and when it hurts, in words and a small table, from the figures of a study alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: Columns of the table: of pictures, and of clips; the second and the third are what sentences warn of.
SHOWN = {
    "image": {"overall": "all tasks", "small_text": "small text", "dialogue": "multi-turn"},
    "video": {"overall": "all tasks", "needle": "a sign shown for a moment", "dialogue_video": "multi-turn"},
}
CALLED = {
    "attribute": "colours",
    "shape": "shapes",
    "relation": "relations",
    "position": "positions",
    "negation": "what is missing",
    "counting": "counting",
    "read": "reading",
    "small_text": "small text",
    "chart": "charts",
    "detail": "small details",
    "dialogue": "the last question of a conversation",
    "describe": "descriptions",
    "needle": "signs shown for a moment",
    "order": "what comes first",
    "direction": "directions",
    "speed": "speeds",
    "flashes": "counting flashes",
    "state": "last states",
    "cuts": "counting scenes",
    "still": "when something moves",
    "dialogue_video": "the last question of a conversation",
}
#: Task -> what to write of what it loses, and of what the full model does with it.
WARNED = {
    "small_text": ("Small text", "loses", "About small text nothing can be said: the full model reads {} of it."),
    "dialogue": ("Later questions in a conversation", "lose", ""),
    "needle": (
        "A sign shown for a moment",
        "loses",
        "About signs shown for a moment nothing can be said: the full model reads {} of them.",
    ),
    "dialogue_video": ("Later questions in a conversation", "lose", ""),
}
SEEN = {"image": "picture", "video": "clip"}
SMALL = {"image": "single pictures", "video": "clips"}
SOLVED = 0.5  # what the full model itself is seldom right about says nothing about a method
AT = 0.1  # the share that sentences are about, or the nearest there is

Row = dict[str, Any]


def section(name: str, path: Path) -> str | None:
    """Markdown for the page of a method, or None when the study has not been run or says nothing about it."""
    if not path.is_file():
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    rows: list[Row] = data["rows"]
    kind = kind_of(rows)
    if (why := data.get("left_out", {}).get(name)) is not None:
        return f"Not in the study of the lab's {kind} model: {why}."
    if not any(r["method"] == name for r in rows):
        return None
    n = rows[0]["tasks"]["overall"]["n"]
    each = " of each length" if kind == "video" else ""
    about = (
        f"Measured on {n} items{each} that every plan and the full model were asked alike, on the lab's model of "
        "6 million parameters: it ranks methods and does not stand in for a large model. In brackets are 95% "
        f"intervals. In a conversation the {SEEN[kind]} is shortened when the first question is asked."
    )
    told = []
    for length in dict.fromkeys(r.get("frames") for r in rows):
        same = [r for r in rows if r.get("frames") == length]
        if any(r["method"] == name for r in same):
            told.append((f"**{length} frames.** " if length else "") + sentences(name, same))
    return "\n\n".join([*told, table(name, rows), about])


def kind_of(rows: Sequence[Row]) -> str:
    """Of which study these rows are: "image" or "video"."""
    return "video" if "frames" in rows[0] else "image"


def table(name: str, rows: Sequence[Row]) -> str:
    """Accuracy over all tasks and of those warned of, for each share, beneath the full model's."""
    shown, clips = SHOWN[kind_of(rows)], kind_of(rows) == "video"
    head = [*(["frames"] if clips else []), "plan", "tokens left", *shown.values()]
    lines = [head, ["---"] * len(head)]
    mine = [r for r in rows if r["method"] in ("none", name)]
    for row in sorted(_by_share(mine), key=lambda r: r.get("frames") or 0):
        plan = "full model" if row["method"] == "none" else f"`{row['plan']}`"
        cells = (row["tasks"][task] for task in shown)
        start = [str(row["frames"])] if clips else []
        lines.append([*start, plan, _percent(row["kept"]), *(_interval(c) for c in cells)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def sentences(name: str, rows: Sequence[Row]) -> str:
    """What the figures bear out: free down to where, against random and the best, best and worst task, two warnings."""
    full = next(r for r in rows if r["method"] == "none")["tasks"]
    mine = _by_share([r for r in rows if r["method"] == name])
    at = min(mine, key=lambda r: abs((r["keep"] or r["kept"]) - AT))
    out = [_free(mine), _standing(name, at, rows)]
    solved = {t: at["tasks"][t] for t in CALLED if t in full and full[t]["accuracy"] >= SOLVED}
    out += [_helps(solved), _hurts(solved), *_warnings(mine, full)]
    return " ".join(filter(None, out))


def _free(mine: Sequence[Row]) -> str:
    """Down to which share, without a break from the largest, no loss can be seen."""
    free = None
    for row in mine:
        if row["tasks"]["overall"]["loss_low"] > 0:
            break
        free = row
    if free is None:
        first = mine[0]
        lost = _points(first["tasks"]["overall"]["loss"])
        return f"With {_percent(first['kept'])} of the visual tokens left it is already {lost} below the full model."
    if free["kept"] > 0.99:
        return f"On {SMALL[kind_of(mine)]} of this size it removes nothing from the language model's prompt."
    cell = free["tasks"]["overall"]
    most = _points(max(cell["loss_high"], 0))
    return f"Down to {_percent(free['kept'])} of the visual tokens no loss can be seen (it is at most {most})."


def _standing(name: str, at: Row, rows: Sequence[Row]) -> str:
    """Against random selection, and against the best, at the same share."""
    cell = at["tasks"]["overall"]
    said = f"With {_percent(at['kept'])} left it is right {_interval(cell)} of the time"
    if name == "random":
        return f"{said}; this is what every other method is compared with."
    if "gain" not in cell:
        return f"{said}."
    low, high = cell["gain_low"], cell["gain_high"]
    between = f"{_points(cell['gain'], sign=True)} ({_points(low, '', True)} to {_points(high, '', True)})"
    if low > 0:
        said += f", {between} against random selection: it beats it"
    elif high < 0:
        said += f", {between} against random selection: it is worse"
    else:
        said += f", {between} against random selection: these items cannot tell them apart"
    same = [r for r in rows if r["keep"] == at["keep"] and r["method"] not in ("none", "random")]
    best = max(same, key=lambda r: r["tasks"]["overall"]["accuracy"])
    if best["method"] == name:
        return f"{said}. No method of the study is right more often there."
    return f"{said}. The best there is [{best['method']}]({best['method']}.md), {_interval(best['tasks']['overall'])}."


def _helps(cells: dict[str, Row]) -> str:
    """The task with the largest gain over random selection that the interval bears out."""
    sure = {t: c for t, c in cells.items() if c.get("gain_low", 0) > 0}
    if not sure:
        return ""
    task = max(sure, key=lambda t: sure[t]["gain"])
    return f"It helps most with {CALLED[task]} ({_points(sure[task]['gain'], sign=True)} over random selection)."


def _hurts(cells: dict[str, Row]) -> str:
    """The task with the largest loss that the interval bears out, and the one that loses least."""
    sure = {t: c for t, c in cells.items() if c["loss_low"] > 0}
    if not sure:
        return ""
    worst = max(sure, key=lambda t: sure[t]["loss"])
    least = min(cells, key=lambda t: cells[t]["loss"])
    said = f"It hurts most with {CALLED[worst]} ({_points(-sure[worst]['loss'], sign=True)} against the full model)"
    if least in sure:
        return f"{said}."
    return f"{said} and least with {CALLED[least]} ({_points(-cells[least]['loss'], sign=True)})."


def _warnings(mine: Sequence[Row], full: Row) -> list[str]:
    """Of two tasks: the largest share at which each surely loses, where the model can do it at all."""
    out = []
    for task, (what, verb, unknown) in WARNED.items():
        if task not in full:
            continue
        if full[task]["accuracy"] < SOLVED:
            out.append(unknown.format(_interval(full[task])))
            continue
        lost = [r for r in mine if r["tasks"][task]["loss_low"] > 0]
        if lost:
            loss, kept = _points(lost[0]["tasks"][task]["loss"]), _percent(lost[0]["kept"])
            out.append(f"**{what}** already {verb} {loss} with {kept} left.")
    return out


def _by_share(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda r: -float(r["kept"]))


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def _interval(cell: Row) -> str:
    return f"{100 * cell['accuracy']:.0f}% ({100 * cell['low']:.0f} to {100 * cell['high']:.0f})"


def _points(value: float, unit: str = " points", sign: bool = False) -> str:
    """A difference in percentage points, never "-0"."""
    whole = round(100 * value)
    unit = " point" if abs(whole) == 1 and unit else unit
    return (f"{whole:+d}" if sign else f"{whole}") + unit
