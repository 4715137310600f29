"""What is asked for: ``"accuracy>=0.98*full"``, ``"ttft<=0.5*full"``, ``"memory<=2GB"``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import InputError

#: What can be asked for, the side on which it has to be, and what it is.
METRICS = {
    "accuracy": (">=", "how right the answers are, 0 to 1"),
    "ttft": ("<=", "time to first token"),
    "flops": ("<=", "FLOPs of a prompt, vision tower included"),
    "kv": ("<=", "bytes of keys and values after a prompt"),
    "memory": ("<=", "bytes of weights, keys and values; on a GPU the peak that torch allocates"),
}
_SIZES = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
#: Units by metric; "" where a bare number will do.
UNITS = {
    "accuracy": {"": 1.0, "%": 0.01},
    "ttft": {"s": 1.0, "ms": 1e-3},
    "flops": {"": 1.0, "GFLOPs": 1e9, "TFLOPs": 1e12},
    "kv": _SIZES,
    "memory": _SIZES,
}
_FORM = re.compile(
    r"\s*(\w+)\s*(<=|>=)\s*(?:(\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)\s*(\*\s*full|[A-Za-z%]*)|(full))\s*", re.I
)


@dataclass(frozen=True)
class Target:
    """A bound on one figure.

    Attributes:
        metric: a key of :data:`METRICS`.
        bound: in units of 1, seconds, FLOPs or bytes; a share of the full model's figure if ``relative``.
        text: as it was written.
    """

    metric: str
    bound: float
    relative: bool
    text: str

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read a target. Raises InputError that says what can be asked for."""
        found = _FORM.fullmatch(text)
        if found is None:
            raise InputError(f"cannot read the target {text!r}; write it as 'accuracy>=0.98*full', 'ttft<=0.5*full' or "
                             "'memory<=2GB'")  # fmt: skip
        metric, side, number, unit, full = found.groups()
        metric = metric.lower()
        if metric not in METRICS:
            raise InputError(f"no target is called {metric!r}; there are {', '.join(METRICS)}")
        if side != METRICS[metric][0]:
            raise InputError(f"{metric} is bounded by {METRICS[metric][0]}. Got {text!r}.")
        relative = full is not None or "*" in unit
        units = UNITS[metric]
        if not relative and unit not in units:
            known = " or ".join(u or "a number" for u in units)
            raise InputError(f"{metric} is given as a share '*full', or in {known}. Got {text!r}.")
        bound = 1.0 if full is not None else float(number) * (1.0 if relative else units[unit])
        if not 0 < bound < float("inf") or (metric == "accuracy" and bound > 1):
            raise InputError(f"the bound on {metric} must be positive{', at most 1' * (metric == 'accuracy')}. "
                             f"Got {text!r}.")  # fmt: skip
        return cls(metric, bound, relative, "".join(text.split()))

    def __str__(self) -> str:
        return self.text
