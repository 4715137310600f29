"""Bytes that a plan was asked for against those it holds: of the tensors' storages, and of the process.

Storages are measured for every policy that has a budget. The process is measured in a fresh one for each plan: what
its memory grows by while a cache of a long context is filled, once everything else was given back.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from ... import spec
from ...method import options
from ..kept_lines import in_a_line
from ..process import resident
from . import fill, ladder
from .once import Once

#: The cache of the 0.5 B shape, of which as many layers are filled as a figure needs.
SHAPE = fill.Shape(24, 14, 2, 64, torch.bfloat16)
TOKENS, LONG = 4096, 32768
#: Plans whose process is measured.
PROCESSES = (
    *("", "snapkv(keep=0.3)", "adakv(keep=0.3)", "kivi(bits=4, value_bits=4)", "kivi(bits=2, value_bits=2)"),
    *("gear(bits=2)", "cskv(keep=0.25)", "mustafar()", "snapkv(keep=0.3) + kivi(bits=4, value_bits=4)"),
)


def rows(tokens: int, long: int, only: tuple[str, ...], folder: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A row for each policy and share, one for each plan whose process is measured; what could not run, and why."""
    once = Once(folder, "bytes")
    out: list[dict[str, Any]] = []
    left: dict[str, str] = {}
    for name in ladder.evictions():
        if "keep" not in dict(options(spec.get(name))) or (only and name not in only):
            continue
        for keep in ladder.KEEPS:
            plan = str(spec.get(name)(keep=keep))
            try:
                got = once.get(["held", tokens], plan, lambda: _held(plan, tokens))  # noqa: B023  (called at once)
            except Exception as error:  # one method's fault must not end the study; it is named in the results
                left[plan] = in_a_line(error)
                break
            asked = SHAPE.nbytes(tokens) * keep / SHAPE.layers
            row = {"part": "bytes", "measure": "storages", "method": name, "plan": plan, "keep": keep, "tokens": tokens}
            out.append({**row, "asked": round(asked), "held": got, "off": round(got / asked - 1, 5)})
    for plan in PROCESSES:
        if only and plan.split("(")[0] not in only:
            continue
        got = once.get(["process", long], plan, lambda: _process(plan, long))  # noqa: B023  (called at once)
        row = {
            "part": "bytes",
            "measure": "process",
            "method": plan.split("(")[0] or "none",
            "plan": plan,
            "tokens": long,
        }
        out.append({**row, **got, "off": round(got["grown"] / got["held"] - 1, 5)})
        print(f"  {plan or 'full cache'}: {got['held']:,} bytes held, process grew by {got['grown']:,}", flush=True)
    return out, left


def _held(plan: str, tokens: int) -> float:
    """Mean bytes of a layer over all layers, which may have budgets of their own."""
    shape = SHAPE
    sizes = [fill.held_bytes(fill.stored(shape, plan, tokens, layer=i, copies=1)) for i in (0, *_others(plan))]
    return sum(sizes) / len(sizes)


def _others(plan: str) -> range:
    """The other layers, where budgets differ from layer to layer."""
    return range(1, SHAPE.layers if plan.split("(")[0] in ("pyramidkv",) else 1)


def _process(plan: str, tokens: int) -> dict[str, int]:
    """Bytes that a fresh process grows by when its cache holds a plan's entries, and those that storages hold."""
    command = [sys.executable, "-m", __name__, plan, str(tokens)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, int] = json.loads(out.stdout.strip().splitlines()[-1])
    return found


def settled() -> int:
    """Bytes of the process that are in memory, after free ones were given back to the system."""
    gc.collect()
    with contextlib.suppress(OSError):  # another C library gives back by itself
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return resident()


def main() -> None:
    """What runs in the fresh process."""
    plan, tokens = sys.argv[1], int(sys.argv[2])
    warm = fill.stored(SHAPE, plan, tokens, copies=1)  # code and buffers that any run loads
    del warm
    before = settled()
    cache = fill.stored(SHAPE, plan, tokens)
    grown = settled() - before
    print(json.dumps({"grown": grown, "held": fill.held_bytes(cache)}))


if __name__ == "__main__":
    main()
