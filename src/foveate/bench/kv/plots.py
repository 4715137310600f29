"""Plots of the study of the cache: accuracy and perplexity against bytes held, speed against length, needles."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..desk import FULL
from ..pareto import front

Row = dict[str, Any]
KINDS = {"evict": ("o", "evicted"), "pack": ("s", "packed"), "stack": ("^", "evicted and packed")}


def plots(path: Path) -> list[Path]:
    """Draw every part of a results file; returns the files written."""
    import matplotlib

    matplotlib.use("Agg")
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    of = {part: [r for r in rows if r["part"] == part] for part in ("lab", "text", "needle", "speed")}
    made = []
    for model in dict.fromkeys(r["model"] for r in of["lab"]):
        out = path.with_name(f"{path.stem}_{model.replace('/', '_')}.png")
        made += _lab([r for r in of["lab"] if r["model"] == model], model, out)
    made += _text(of["text"], path.with_name(f"{path.stem}_text.png"))
    made += _speed(of["speed"], path.with_name(f"{path.stem}_speed.png"))
    return made + _needle(of["needle"], path.with_name(f"{path.stem}_needle.png"))


def _done(figure: Any, out: Path) -> list[Path]:
    import matplotlib.pyplot as plt

    figure.tight_layout()
    figure.savefig(out, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return [out]


def _cloud(axis: Any, points: Sequence[tuple[float, float, Row]], best: int) -> None:
    """Plans as points, those that no smaller one beats named; best: 1 if more is better, -1 if less is."""
    named = [points[i] for i in front([(x, best * y) for x, y, _ in points])]
    for kind, (mark, label) in KINDS.items():
        some = [(x, y) for x, y, r in points if r["kind"] == kind]
        axis.scatter([x for x, _ in some], [y for _, y in some], s=16, marker=mark, color="0.72", lw=0, label=label)
    axis.plot([x for x, _, _ in named], [y for _, y, _ in named], color="tab:blue", lw=1)
    for k, (x, y, r) in enumerate(named):
        axis.scatter(x, y, s=22, marker=KINDS[r["kind"]][0], color="tab:blue", lw=0, zorder=4)
        text = r["method"].replace(" + ", "\n+ ")
        text = text if len(text) < 24 else "+ ".join(part.split("(")[0] for part in r["method"].split(" + "))
        offset = (3, best * (6 + 9 * (k % 3)))
        axis.annotate(text, (x, y), xytext=offset, textcoords="offset points", fontsize=7, color="tab:blue")
    axis.set_xscale("log")
    axis.set_xlabel("bytes held after the prefill, share", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)


def _lab(rows: Sequence[Row], model: str, out: Path) -> list[Path]:
    import matplotlib.pyplot as plt

    tasks = [t for t in rows[0]["tasks"] if t != "overall"]
    plans = [r for r in rows if r["kind"] in KINDS]
    if not tasks or not plans:
        return []
    figure, axes = plt.subplots(1, len(tasks) + 1, figsize=(3.9 * (len(tasks) + 1), 3.8), sharey=True)
    for axis, task in zip(axes, ["overall", *tasks]):
        _cloud(axis, [(r["bytes"], r["tasks"][task]["accuracy"], r) for r in plans], 1)
        whole = next(r for r in rows if r["kind"] == FULL)["tasks"][task]
        axis.axhline(whole["accuracy"], color="0.4", lw=0.8, ls="--")
        axis.set_title(f"{'all tasks' if task == 'overall' else task} ({whole['n']} items)", fontsize=9)
    axes[0].set_ylabel(f"accuracy of {model}", fontsize=9)
    axes[0].legend(frameon=False, fontsize=8)
    return _done(figure, out)


def _text(rows: Sequence[Row], out: Path) -> list[Path]:
    import matplotlib.pyplot as plt

    plans = [r for r in rows if r["kind"] in KINDS]
    if not plans:
        return []
    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    for axis, name, label, best in (
        (axes[0], "perplexity", "perplexity of what follows", -1),
        (axes[1], "copied", "tokens copied right", 1),
    ):
        _cloud(axis, [(r["bytes"], r[name], r) for r in plans], best)
        for kind, style in ((FULL, "--"), ("blind", ":")):
            value = next(r for r in rows if r["kind"] == kind)[name]
            axis.axhline(value, color="0.4", lw=0.8, ls=style, label="whole cache" if kind == FULL else "no cache")
        axis.set_ylabel(label, fontsize=9)
    axes[0].legend(frameon=False, fontsize=8)
    return _done(figure, out)


def _speed(rows: Sequence[Row], out: Path) -> list[Path]:
    import matplotlib.pyplot as plt

    if not rows:
        return []
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4))
    stores = list(dict.fromkeys(r["store"] for r in rows))
    colours = plt.get_cmap("tab20").colors
    lengths = sorted({r["tokens"] for r in rows})
    plain = [next(r["ms_plain"] for r in rows if r["tokens"] == n) for n in lengths]
    axes[0].plot(lengths, [1e3 / ms for ms in plain], color="black", marker="o", ms=3, label="plain cache")
    for store, colour in zip(stores, colours):
        mine = [r for r in rows if r["store"] == store]
        x = [r["tokens"] for r in mine]
        axes[0].plot(x, [r["tokens_per_s"] for r in mine], color=colour, marker="o", ms=3, lw=1, label=store)
        axes[1].plot(x, [r["speedup"] for r in mine], color=colour, marker="o", ms=3, lw=1)
    axes[1].axhline(1, color="black", lw=0.8)
    for axis, label in zip(axes, ("tokens a second", "speed-up over the plain cache")):
        axis.set_xscale("log", base=2)
        axis.set_xticks(lengths, [f"{n // 1024}k" if n >= 1024 else str(n) for n in lengths])
        axis.set_xlabel("tokens of context", fontsize=9)
        axis.set_ylabel(label, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *axes[0].get_legend_handles_labels(), frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    return _done(figure, out)


def _needle(rows: Sequence[Row], out: Path) -> list[Path]:
    import matplotlib.pyplot as plt

    cells = [r for r in rows if r["kind"] == "map"]
    if not cells:
        return []
    titles = list(dict.fromkeys(r["map"] for r in cells))
    lengths, depths = (sorted({r[name] for r in cells}) for name in ("length", "depth"))
    figure, axes = plt.subplots(1, len(titles), figsize=(3 * len(titles), 3.6), sharey=True, squeeze=False)
    for axis, title in zip(axes[0], titles):
        value = {(r["depth"], r["length"]): r["letters"] for r in cells if r["map"] == title}
        grid = [[value.get((d, n), math.nan) for n in lengths] for d in depths]
        axis.imshow(grid, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
        for i, line in enumerate(grid):
            for j, cell in enumerate(line):
                axis.text(j, i, f"{cell:.2f}", ha="center", va="center", fontsize=6)
        axis.set_xticks(range(len(lengths)), [str(n) for n in lengths], fontsize=7)
        axis.set_yticks(range(len(depths)), [f"{d:.0%}" for d in depths], fontsize=7)
        plan = [r["plan"] for r in cells if r["map"] == title][-1]
        axis.set_title(f"{title}\n{plan.replace(' + ', chr(10) + '+ ') or 'whole cache'}", fontsize=6)
        axis.set_xlabel("tokens", fontsize=8)
    axes[0][0].set_ylabel("depth of the needle", fontsize=8)
    return _done(figure, out)
