"""A needle at every depth: how much of a code that a text tells once can still be said once the cache was shortened.

The model is written, not trained (see :mod:`foveate.bench.kv.reader`), and finds every needle while the cache is whole.
The first letter of a code comes from the prefill, so it is the others that count.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...apply import apply
from ...errors import FoveateError
from ..kept_lines import in_a_line
from . import ladder, reader
from .fill import held_bytes
from .once import Once

LENGTHS = (128, 256, 512, 1024)
DEPTHS = tuple(k / 8 for k in range(9))
KEEP = 0.1
#: Where plans are tried before the maps are drawn.
TRIED = 512


def rows(
    items: int, lengths: tuple[int, ...], only: tuple[str, ...], folder: Path
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One row for each plan tried, and one for each plan, length and depth of the maps; what could not run, and why."""
    model, once = reader.reader(torch.bfloat16), Once(folder, "needle")
    out: list[dict[str, Any]] = []
    left: dict[str, str] = {}
    tries = [("full", "", None), *ladder.plans(TRIED, (KEEP,), only)]
    for kind, plan, keep in tries:
        if kind == "stack":
            continue
        try:
            got = once.get(["needle", items], plan, lambda: _tried(model, plan, items))  # noqa: B023  (called at once)
        except Exception as error:  # one method's fault must not end the study; it is named in the results
            left[plan] = in_a_line(error)
            continue
        name = plan.split("(")[0] or "none"
        out.append({"part": "needle", "kind": kind, "method": name, "plan": plan, "keep": keep, "length": TRIED, **got})
        print(
            f"  {plan or 'full cache'}: {got['letters']:.2f} of the letters, {got['bytes']:.0%} of the bytes",
            flush=True,
        )
    for title, plan in chosen(out, model).items():
        for n in lengths:
            for depth in DEPTHS:
                fit = _fitted(plan, n)
                key = ["needle", items, n, depth]
                try:
                    got = once.get(key, fit, lambda: _cell(model, fit, n, depth, items))  # noqa: B023
                except FoveateError as error:
                    left[fit] = in_a_line(error)
                    continue
                about = {"part": "needle", "kind": "map", "map": title, "plan": fit, "length": n, "depth": depth}
                out.append({**about, "letters": got})
    return out, left


def chosen(tried: list[dict[str, Any]], model: Any) -> dict[str, str]:
    """Title of a map -> plan: the full cache, the best eviction, the smallest quantiser as good as any, both."""
    out = {"full": ""}
    small_enough = [r for r in tried if r["kind"] == "evict" and r["bytes"] <= 1.5 * KEEP]  # some have no such budget
    best = sorted(small_enough, key=lambda r: (-r["letters"], r["bytes"]))
    packed = [r for r in tried if r["kind"] == "pack"]
    most = max((r["letters"] for r in packed), default=0.0)
    small = min((r for r in packed if r["letters"] >= most - 0.01), key=lambda r: float(r["bytes"]), default=None)
    if best:
        out["best eviction"] = best[0]["plan"]
    if small is not None:
        out["best quantiser"] = small["plan"]
        even = next((r["plan"] for r in best if _even(model, r["plan"])), None)
        if even is not None:
            out["their stack"] = f"{even} + {small['plan']}"
    return out


@torch.inference_mode()
def _even(model: Any, plan: str) -> bool:
    """Whether all heads keep as many entries: what others leave cannot be packed."""
    with apply(model, plan):
        cache = model(input_ids=reader.text(0, TRIED, 0.5)[0][None], use_cache=True).past_key_values
    return not any(layer.ragged for layer in cache.layers)


def _fitted(plan: str, n: int) -> str:
    """A plan whose counts were made for texts of TRIED tokens, for texts of n."""
    parts = []
    for part in filter(None, plan.split(" + ")):
        name = part.split("(")[0]
        evicts = name in ladder.evictions()
        parts.append(ladder.evicting(name, KEEP, n) if evicts else part)
    return " + ".join(parts)


def _tried(model: Any, plan: str, items: int) -> dict[str, float]:
    """The share of letters right over all depths, and of the bytes held after the prefill."""
    right = sum(_cell(model, plan, TRIED, depth, items) for depth in DEPTHS) / len(DEPTHS)
    ids, _ = reader.text(0, TRIED, 0.5)
    with torch.inference_mode():
        full = held_bytes(model(input_ids=ids[None], use_cache=True).past_key_values)
        with apply(model, plan):
            held = held_bytes(model(input_ids=ids[None], use_cache=True).past_key_values)
    return {"letters": round(right, 4), "bytes": round(held / full, 4)}


def _cell(model: Any, plan: str, n: int, depth: float, items: int) -> float:
    """Of some texts of one length and depth, the share of letters right, the first of each code aside."""
    made = [reader.text(seed, n, depth) for seed in range(items)]
    ids, want = torch.stack([t for t, _ in made]), torch.stack([c for _, c in made])
    with apply(model, plan):
        said = reader.answers(model, ids)
    return float((said == want)[:, 1:].float().mean())
