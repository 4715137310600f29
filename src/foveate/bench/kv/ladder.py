"""Plans of stage cache for a share of the entries, or for a number of bits, of a prompt of a known length.

Many options are counts that suit prompts of thousands of tokens: a window of 64 queries whose entries always stay is
more than a twentieth of a short prompt holds. So counts of latest entries are cut down to half of the budget.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ... import spec
from ...method import options

KEEPS = (0.5, 0.3, 0.2, 0.1, 0.05)
#: Options that count latest entries (or queries) that stay whatever their score is.
LATEST = ("window", "recent", "local", "stable")
#: Entries that quantisers leave whole at the end of a short prompt.
WHOLE = 32
#: What else a method needs to land near a share of n entries.
_OWN: dict[str, Callable[[float, int], dict[str, Any]]] = {
    "actqkv": lambda keep, n: {"block": max(1, min(32, int(keep * n) // 4))},
    "chunkkv": lambda keep, n: {"chunk": max(1, min(20, int(keep * n) // 2))},
    "duoattention": lambda keep, n: {"full": keep, "sinks": 4, "recent": max(1, int(keep * n) // 2)},
    "lagkv": lambda keep, n: {"lag": max(1, n // 8)},
    "razorattention": lambda keep, n: {"full": keep, "local": max(6, int(keep * n) // 2)},
    "videoxl2": lambda keep, n: {"chunk": max(1, n // 12), "pool": max(2, round(1 / keep)), "best": 0.0},
}
#: Settings of methods that compress, from more bits to fewer.
_PACKED: dict[str, tuple[dict[str, Any], ...]] = {
    "kivi": tuple({"bits": b, "value_bits": b, "recent": WHOLE} for b in (8, 4, 3, 2, 1.58, 1)),
    "gear": tuple({"bits": b, "group": WHOLE, "recent": WHOLE} for b in (4, 2)),
    "zipcache": ({"recent": WHOLE}, {"keep": 0.2, "recent": WHOLE}),
    "mikv": ({"recent": 8}, {"keep": 0.1, "recent": 8}),
    "vidkv": ({"bits": 2, "key_bits": 2}, {}, {"bits": 1, "key_bits": 1}),
    "cskv": ({"bits": 16}, {}, {"keep": 0.25}),
    "think": ({"recent": 8}, {"keep": 0.2, "recent": 8}),
    "mustafar": ({"recent": 8}, {"sparsity": 0.8, "value_sparsity": 0.8, "recent": 8}),
}


def own() -> dict[str, Any]:
    """foveate's own methods of stage cache by name."""
    return {
        name: cls
        for name, cls in spec.methods().items()
        if cls.stage == "cache" and cls.__module__.startswith("foveate.")
    }


def evictions() -> list[str]:
    """Those that keep some entries and free the others."""
    return [name for name, cls in own().items() if not hasattr(cls, "pack")]


def packings() -> list[str]:
    """Those that keep all entries in fewer bits."""
    return [name for name, cls in own().items() if hasattr(cls, "pack")]


def evicting(name: str, keep: float, n: int) -> str:
    """The plan of a method for a share of n entries."""
    has: dict[str, Any] = dict(options(spec.get(name)))
    room = max(1, int(keep * n) // 2)
    given: dict[str, Any] = {}
    for option in LATEST:
        if option in has and type(has[option].default) is int:
            given[option] = min(has[option].default, room)
    if "keep" in has:
        given["keep"] = keep
    own_ = _OWN.get(name)
    return str(spec.get(name)(**given | (own_(keep, n) if own_ else {})))


def packing(name: str) -> list[str]:
    """The plans of a method that compresses, as it is by default where it has no settings here."""
    return [str(spec.get(name)(**given)) for given in _PACKED.get(name, ({},))]


def stacks(n: int) -> list[str]:
    """An eviction, and what is left in few bits."""
    few = ((0.3, 4), (0.3, 2), (0.1, 4))
    return [f"{evicting('snapkv', k, n)} + kivi(bits={b}, value_bits={b}, recent={WHOLE})" for k, b in few]


def plans(n: int, keeps: tuple[float, ...], only: tuple[str, ...] = ()) -> list[tuple[str, str, float | None]]:
    """(kind, plan, share wanted or None): "evict", "pack" or "stack"; ``only``: names of methods, none for all."""
    out: list[tuple[str, str, float | None]] = []
    for name in evictions():
        if not only or name in only:
            found = {evicting(name, k, n): k for k in keeps}
            out += [("evict", plan, k if len(found) == len(keeps) else None) for plan, k in found.items()]
    for name in packings():
        if not only or name in only:
            out += [("pack", plan, None) for plan in packing(name)]
    return out + [("stack", plan, None) for plan in stacks(n)]
