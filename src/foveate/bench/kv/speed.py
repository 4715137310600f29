"""Tokens a second against the length of the context, for every store, paired with transformers' own cache.

The model has random weights and the shape of Qwen2.5 0.5 B; caches are filled, not prefilled (see
:mod:`foveate.bench.kv.fill`). Steps with the plain cache and steps with the stores take turns in one process. With one
thread its own time on the processor is taken, with several the time that passes.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ...apply import apply
from .. import shapes
from ..kept_lines import in_a_line
from . import fill
from .once import Once

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
    "tiers, 30% read": "leoam()",
    "paged, all held": "delta()",
    "30% of the entries, 4 bits": "snapkv(keep=0.3) + kivi(bits=4, value_bits=4)",
}


#: A step with the plain cache is timed before every so many stores.
BETWEEN = 4


def rows(
    lengths: tuple[int, ...], repeats: int, only: tuple[str, ...], folder: Path, small: bool = False
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One row for each store and length; what could not run, and why."""
    made, once = shapes.qwen2(torch.bfloat16, small), Once(folder, "speed")
    stores = {s: p for s, p in STORES.items() if not only or s in only or p.split("(")[0] in only}
    out: list[dict[str, Any]] = []
    left: dict[str, str] = {}
    for n in lengths:
        about = ["speed", n, repeats, small, torch.get_num_threads()]
        got = once.get(about, " + ".join(stores.values()), lambda: timed(made, stores, n, repeats))  # noqa: B023
        left |= {f"{store} ({n} tokens)": why for store, why in got["left_out"].items()}
        for store, found in got["stores"].items():
            out.append({"part": "speed", "store": store, "plan": STORES[store], "tokens": n, **found})
            print(f"  {n} {store}: {found['speedup']:.2f} times as fast, {found['ms']:.0f} ms a token", flush=True)
    return out, left


@torch.inference_mode()
def timed(made: Any, stores: dict[str, str], n: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of a step with each store and with the plain cache, in turns; medians, and that of their ratios."""
    plain, caches, left = fill.plain(made, n), dict[str, Any](), dict[str, str]()
    for store, plan in stores.items():
        try:
            caches[store] = fill.stored(made, plan, n)
        except Exception as error:  # one store's fault must not end the study; it is named in the results
            left[store] = in_a_line(error)
    full, held = fill.held_bytes(plain), {store: fill.held_bytes(cache) for store, cache in caches.items()}
    pairs: dict[str, list[tuple[float, float]]] = {store: [] for store in caches}
    for turn in range(repeats + 1):  # the first warms up: stores make room for tokens to come
        base = 0.0
        for i, (store, cache) in enumerate(list(caches.items())):
            if i % BETWEEN == 0:
                base = _step(made, plain)
            try:
                with apply(made, stores[store]):
                    pairs[store] += [(base, _step(made, cache))] * (turn > 0)
            except Exception as error:
                left[store] = in_a_line(error)
                del caches[store]
    return {"stores": {s: _told(pairs[s], held[s] / full) for s in caches}, "left_out": left}


def _told(pairs: list[tuple[float, float]], share: float) -> dict[str, float]:
    ratios, ms = [a / b for a, b in pairs], median(b for _, b in pairs)
    found = {"ms_plain": median(a for a, _ in pairs), "ms": ms, "speedup": median(ratios), "slowest": min(ratios)}
    return {name: round(v, 4) for name, v in {**found, "tokens_per_s": 1e3 / ms, "bytes": share}.items()}


def _step(made: Any, cache: Any) -> float:
    # one thread: its own time, which other processes on the machine do not lengthen
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    begun = clock()
    out = made(input_ids=torch.tensor([[7]]), past_key_values=cache, use_cache=True, logits_to_keep=1)
    out.logits.argmax(-1).tolist()
    return 1e3 * (clock() - begun)
