"""What the study of the cache found about one method, as Markdown for its page; from the figures alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..desk import FULL
from .verdicts import FROM, OFF

Row = dict[str, Any]


def section(name: str, path: Path) -> str | None:
    """Tables and sentences, or None where there are no results or none about the method."""
    if not path.is_file():
        return None
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    made = [*_answers(name, rows), *_text(name, rows), *_needle(name, rows), *_speed(name, rows), *_bytes(name, rows)]
    return "\n\n".join(made) or None


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def _short(plan: str) -> str:
    return f"`{plan}`"


def _answers(name: str, rows: Sequence[Row]) -> list[str]:
    out = []
    for model in dict.fromkeys(r["model"] for r in rows if r["part"] == "lab"):
        of = [r for r in rows if r["part"] == "lab" and r["model"] == model]
        mine = [r for r in of if r["method"] == name]
        whole = next(r for r in of if r["kind"] == FULL)
        if not mine:
            continue
        tasks = list(whole["tasks"])
        lines = [["the whole cache", "100%", *(f"{whole['tasks'][t]['accuracy']:.0%}" for t in tasks)]]
        lines += [
            [_short(r["plan"]), f"{r['bytes']:.0%}", *(f"{r['tasks'][t]['accuracy']:.0%}" for t in tasks)] for r in mine
        ]
        n = whole["tasks"]["overall"]["n"]
        out.append(f"Of {n} items, `{model}` is right, with so much of its cache:")
        out.append(_table(["plan", "bytes", *("all tasks" if t == "overall" else t for t in tasks)], lines))
    return out


def _text(name: str, rows: Sequence[Row]) -> list[str]:
    of = [r for r in rows if r["part"] == "text"]
    mine = [r for r in of if r["method"] == name]
    if not mine:
        return []
    ends = [next(r for r in of if r["kind"] == kind) for kind in (FULL, "blind")]
    lines = [
        [told, f"{r['bytes']:.0%}", f"{r['perplexity']:.1f}", f"{r['copied']:.1%}"]
        for told, r in [("the whole cache", ends[0]), *((_short(r["plan"]), r) for r in mine), ("no cache", ends[1])]
    ]
    return [
        "A small language model on English text that goes on behind a cached passage, and on the passage once more:",
        _table(["plan", "bytes", "perplexity", "copied right"], lines),
    ]


def _needle(name: str, rows: Sequence[Row]) -> list[str]:
    tried = [r for r in rows if r["part"] == "needle" and r["kind"] in ("evict", "pack") and r["method"] == name]
    return [
        f"Needle in {r['length']} tokens, at every depth: {r['letters']:.0%} of the letters with {_short(r['plan'])}, "
        f"which holds {r['bytes']:.0%} of the bytes."
        for r in tried
    ]


def _speed(name: str, rows: Sequence[Row]) -> list[str]:
    mine = [r for r in rows if r["part"] == "speed" and r["plan"].split("(")[0] == name and " + " not in r["plan"]]
    out = []
    for plan in dict.fromkeys(r["plan"] for r in mine):
        some = sorted((r for r in mine if r["plan"] == plan), key=lambda r: int(r["tokens"]))
        told = ", ".join(f"{r['speedup']:.2f} at {r['tokens']:,}" for r in some)
        out.append(f"Tokens a second while decoding with {_short(plan)}, times the plain cache's: {told} tokens.")
        slow = [r["tokens"] for r in some if r["tokens"] >= FROM and r["speedup"] <= 1]
        if slow:
            out.append(f"**Not faster than the plain cache at {', '.join(f'{n:,}' for n in slow)} tokens.**")
    return out


def _bytes(name: str, rows: Sequence[Row]) -> list[str]:
    off = [r["off"] for r in rows if r["part"] == "bytes" and r["measure"] == "storages" and r["method"] == name]
    if not off or max(map(abs, off)) <= OFF:
        return []
    return [f"**Bytes held are up to {max(map(abs, off)):.1%} off what `keep` asks for.**"]
