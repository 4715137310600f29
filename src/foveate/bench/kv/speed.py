"""Tokens a second against the length of the context, for every store, paired with transformers' own cache.

The model has random weights and the shape of Qwen2.5 0.5 B; caches are filled, not prefilled (see
:mod:`foveate.bench.kv.fill`). A step with the plain cache and a step with the store take turns in one process.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ...apply import apply
from .. import shapes
from . import fill
from .once import Once, told

LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)
#: What is timed: the store in words -> a plan that fills it.
STORES = {
    "even, 30% of the entries": "snapkv(keep=0.3)",
    "ragged, 30% of the entries": "adakv(keep=0.3)",
    "packed, 4 bits": "kivi(bits=4, value_bits=4)",
    "packed, 2 bits": "kivi(bits=2, value_bits=2)",
    "spectral, 1.5 bits": "vidkv()",
    "mixed, 4 and 2 bits": "zipcache()",
    "low rank and outliers, 2 bits": "gear(bits=2)",
    "projected, half the channels": "cskv(bits=16)",
    "projected, 4 bits": "cskv()",
    "half the key channels": "think()",
    "sparse, half the numbers": "mustafar()",
    "30% of the entries, 4 bits": "snapkv(keep=0.3) + kivi(bits=4, value_bits=4)",
}


def rows(
    lengths: tuple[int, ...], repeats: int, only: tuple[str, ...], folder: Path, small: bool = False
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One row for each store and length; what could not run, and why."""
    made, once = shapes.qwen2(torch.bfloat16, small), Once(folder)
    out: list[dict[str, Any]] = []
    left: dict[str, str] = {}
    for n in lengths:
        for store, plan in STORES.items():
            if only and store not in only and plan.split("(")[0] not in only:
                continue
            try:
                about = ["speed", n, repeats, small, torch.get_num_threads()]
                got = once.get(about, plan, lambda: paired(made, plan, n, repeats))  # noqa: B023  (called at once)
            except Exception as error:  # one store's fault must not end the study; it is named in the results
                left[f"{store} ({n} tokens)"] = told(error)
                continue
            out.append({"part": "speed", "store": store, "plan": plan, "tokens": n, **got})
            print(f"  {n} {store}: {got['speedup']:.2f} times as fast, {got['ms']:.0f} ms a token", flush=True)
    return out, left


@torch.inference_mode()
def paired(made: Any, plan: str, n: int, repeats: int) -> dict[str, float]:
    """Milliseconds of a step with the plain cache and with the plan's, in turns; medians, and that of their ratios."""
    plain, ours = fill.plain(made, n), fill.stored(made, plan, n)
    full, held = fill.held_bytes(plain), fill.held_bytes(ours)
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    for turn in range(repeats + 1):  # the first warms up: stores make room for tokens to come
        for which in ("plain", "ours") if turn % 2 else ("ours", "plain"):
            if which == "plain":
                took = _step(made, plain)
            else:
                with apply(made, plan):
                    took = _step(made, ours)
            times[which] += [took] * (turn > 0)
    ratios = [a / b for a, b in zip(times["plain"], times["ours"])]
    found = {"ms_plain": median(times["plain"]), "ms": median(times["ours"]), "speedup": median(ratios)}
    found |= {"slowest": min(ratios), "tokens_per_s": 1e3 / found["ms"], "bytes": held / full}
    return {name: round(value, 4) for name, value in found.items()}


def _step(made: Any, cache: Any) -> float:
    begun = time.perf_counter()
    out = made(input_ids=torch.tensor([[7]]), past_key_values=cache, use_cache=True, logits_to_keep=1)
    out.logits.argmax(-1).tolist()
    return 1e3 * (time.perf_counter() - begun)
