"""Plots of a study: accuracy against what is left and against FLOPs, a file for each family, a line for each length."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

#: Family in the results -> the plot's title and the end of its file's name; the overall plot is named as the results.
TITLES = {
    "overall": ("all tasks", ""),
    "objects": ("objects: colour, shape, place", "_objects"),
    "counting": ("counting", "_counting"),
    "fine": ("small detail: reading, charts", "_detail"),
    "dialogue": ("the last question of a conversation", "_dialogue"),
    "motion": ("motion: which way, how fast", "_motion"),
    "moment": ("what happens when, and last", "_moment"),
    "needle": ("a sign shown for a moment", "_needle"),
    "dialogue_video": ("the last question of a conversation", "_dialogue"),
}
MARKS = {"encoder": "^", "inputs": "o", "layers": "s"}
#: What a plan costs, by the name of the axis.
COSTS: dict[str, Callable[[dict[str, Any]], float]] = {
    "visual tokens left at the end, share": lambda r: float(r["kept"]),
    "FLOPs up to the first token, share": lambda r: float(r["flops"] / r["flops_full"]),
}
WHERE = {"encoder": "in the encoder", "inputs": "before the LLM", "layers": "inside the LLM"}


def plots(path: Path) -> list[Path]:
    """Draw every family of a results file; returns the files written."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return [_plot(path, rows, family) for family in TITLES if family in rows[0]["tasks"]]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Numbers of the (cost, value) points that no cheaper or equally cheap point equals or beats, by rising cost."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    out: list[int] = []
    for i in order:
        if not out or points[i][1] > points[out[-1]][1]:
            out.append(i)
    return out


def _plot(path: Path, rows: Sequence[dict[str, Any]], family: str) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    title, end = TITLES[family]
    out = path.with_name(f"{path.stem}{end}.png")
    lengths = list(dict.fromkeys(r.get("frames") for r in rows))
    figure, lines = plt.subplots(len(lengths), 2, figsize=(10.5, 0.6 + 3.8 * len(lengths)), sharey="row", squeeze=False)
    for axes, length in zip(lines, lengths):
        _line(axes, [r for r in rows if r.get("frames") == length], family)
        if length is not None:
            axes[0].set_title(f"{length} frames", fontsize=9, loc="left")
        axes[0].set_ylabel("accuracy", fontsize=9)
    for axis, label in zip(lines[-1], COSTS):
        axis.set_xlabel(label, fontsize=9)
    n = rows[0]["tasks"][family]["n"]
    figure.suptitle(f"{title} ({n} items; named: the best for what is left)", fontsize=10)
    figure.legend(*lines[0, 1].get_legend_handles_labels(), frameon=False, fontsize=8, loc="lower center", ncols=5)
    figure.tight_layout(rect=(0, 0.05 / len(lengths), 1, 1))
    figure.savefig(out, dpi=120)
    plt.close(figure)
    return out


def _line(axes: Sequence[Any], rows: Sequence[dict[str, Any]], family: str) -> None:
    """One panel for each cost, of the rows of pictures, or of clips of one length."""
    from matplotlib.ticker import PercentFormatter

    whole = next(r for r in rows if r["method"] == "none")
    plans = [r for r in rows if r["method"] != "none" and family in r["tasks"]]
    for axis, cost in zip(axes, COSTS.values()):
        points = [(cost(r), r["tasks"][family]["accuracy"]) for r in plans]
        best = front(points)
        for stage, mark in MARKS.items():
            at = [p for p, r in zip(points, plans) if r["stage"] == stage]
            axis.scatter(*_columns(at), s=16, marker=mark, color="0.72", label=WHERE[stage], linewidths=0, zorder=2)
        chance = sorted(p for p, r in zip(points, plans) if r["method"] == "random")
        axis.plot(*_columns(chance), color="tab:red", lw=1.2, marker="o", ms=3, label="random selection", zorder=3)
        axis.plot(*_columns([points[i] for i in best]), color="tab:blue", lw=1, zorder=3)
        axis.axhline(whole["tasks"][family]["accuracy"], color="0.4", lw=0.8, ls="--", label="full model", zorder=1)
        for i in best:
            axis.scatter(*points[i], s=22, marker=MARKS[plans[i]["stage"]], color="tab:blue", linewidths=0, zorder=4)
        _label(axis, [(points[i], plans[i]["method"]) for i in best if plans[i]["method"] != "random"])
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _label(axis: Any, named: Sequence[tuple[tuple[float, float], str]]) -> None:
    """Names above the front, each a line higher than the one before where they would meet."""
    last, level = -1.0, 0
    for (x, y), name in named:
        level = level + 1 if last >= 0 and x - last < 0.12 else 0
        last = x
        axis.annotate(
            name,
            (x, y),
            xytext=(2, 7 + 9 * (level % 3)),
            textcoords="offset points",
            fontsize=7,
            color="tab:blue",
            arrowprops={"arrowstyle": "-", "lw": 0.4, "color": "0.6", "shrinkB": 2} if level % 3 else None,
        )
