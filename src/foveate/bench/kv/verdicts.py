"""What the study of the cache is held to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..desk import FULL
from ..results import goal

Row = dict[str, Any]
#: A policy that looks at nothing: what the others have to beat.
BLIND = "streaming_llm"
FROM = 4096  # tokens of context from which a store must be faster than transformers' own
OFF = 0.02  # how far bytes may be off what was asked for


def goals(rows: Sequence[Row]) -> list[Row]:
    """The goals of all parts that were measured."""
    of = {part: [r for r in rows if r["part"] == part] for part in ("lab", "text", "needle", "speed", "bytes")}
    return [*_lab(of["lab"]), *_text(of["text"]), *_needle(of["needle"]), *_speed(of["speed"]), *_bytes(of["bytes"])]


def _lab(rows: Sequence[Row]) -> list[Row]:
    out = []
    for model in dict.fromkeys(r["model"] for r in rows):
        mine = [r for r in rows if r["model"] == model]
        base = next(r for r in mine if r["kind"] == FULL)["tasks"].get("overall", {}).get("accuracy", 0.0)
        out.append(goal(f"{model} with its whole cache is right at least this often", base, 0.8, base >= 0.8))
        at = [r for r in mine if r["kind"] == "evict" and r["keep"] == 0.1]
        blind = next((r["tasks"]["overall"]["accuracy"] for r in at if r["method"] == BLIND), None)
        if blind is not None and len(at) > 1:
            best = max(r["tasks"]["overall"]["accuracy"] for r in at if r["method"] != BLIND)
            text = f"{model}: the best eviction at a tenth is right more often than {BLIND}, by at least"
            out.append(goal(text, round(best - blind, 4), 0.05, best - blind >= 0.05))
    return out


def _text(rows: Sequence[Row]) -> list[Row]:
    nothing = next((r for r in rows if r["kind"] == "blind"), None)
    small = [r for r in rows if r["kind"] in ("evict", "pack", "stack") and r["bytes"] <= 0.1]
    if nothing is None or not small or nothing["nll_more"] <= 0:
        return []
    lost = min(r["nll_more"] for r in small) / nothing["nll_more"]
    text = "English text: of what the cache brings, the best plan in a tenth of its bytes loses at most"
    return [goal(text, round(lost, 4), 0.5, lost <= 0.5)]


def _needle(rows: Sequence[Row]) -> list[Row]:
    cells = [r for r in rows if r["kind"] == "map"]
    out = []
    for title, bar in (("full", 1.0), ("best eviction", 0.9), ("best quantiser", 0.9), ("their stack", 0.9)):
        mine = [r["letters"] for r in cells if r["map"] == title]
        if mine:
            plan = next(r["plan"] for r in cells if r["map"] == title) or "the whole cache"
            text = f"needle: letters said, mean over depths and lengths ({title}: {plan})"
            value = sum(mine) / len(mine)
            out.append(goal(text, round(value, 4), bar, value >= bar))
    return out


def _speed(rows: Sequence[Row]) -> list[Row]:
    out = []
    for store in dict.fromkeys(r["store"] for r in rows):
        long = [r["speedup"] for r in rows if r["store"] == store and r["tokens"] >= FROM]
        if long:
            text = f"decoding is faster than with the plain cache from {FROM} tokens on ({store})"
            out.append(goal(text, min(long), 1.0, min(long) > 1))
    return out


def _bytes(rows: Sequence[Row]) -> list[Row]:
    out = []
    for measure in ("storages", "process"):
        mine = [r for r in rows if r["measure"] == measure]
        for name in dict.fromkeys(r["method" if measure == "storages" else "plan"] for r in mine):
            some = [r["off"] for r in mine if r["method" if measure == "storages" else "plan"] == name]
            worst = max(map(abs, some))
            what = (
                f"bytes of storages held against asked ({name})"
                if measure == "storages"
                else f"the process grows by what the cache says it holds ({name or 'full cache'})"
            )
            out.append(goal(f"{what}, relative difference", worst, OFF, worst <= OFF))
    return out
