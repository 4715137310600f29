"""What work costs in time on a machine, as the guard counts it, and the file that keeps what was measured there.

A count of FLOPs says little about time: few tokens leave a fast machine idle, and a layer takes its time however little
there is to do. So products and attention have a rate for each number of tokens, and a layer has a least time.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CacheFileError, InputError
from .cost import attention_width, linear_flops

VERSION = 1
#: Deciding is small operations: this many FLOPs could have run in the time one of them takes, measured on two cores.
STEP = 3e6
_AGAIN = "delete it, or measure again: foveate doctor --calibrate"

Rates = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Costs:
    """Times in seconds; in FLOPs for :data:`COUNTED`, which was not measured here.

    Attributes:
        products: (tokens, FLOP/s) of products of that many tokens with a weight matrix, tokens ascending.
        attention: the same for attention among that many tokens.
        step: one small operation, as methods decide with.
        layer: what a layer takes at the least, however few its tokens.
        requests: prompts that are read together. Their products fill the machine together, so few tokens are no longer
            slow; deciding is done for one after the other, so it does not become cheaper.
        measured: whether this is time on this machine.
    """

    products: Rates
    attention: Rates
    step: float
    layer: float = 0.0
    requests: int = 1
    measured: bool = True

    def __post_init__(self) -> None:
        for name in ("products", "attention"):
            rates = tuple((int(n), float(r)) for n, r in getattr(self, name))
            at = [n for n, _ in rates]
            if not rates or at != sorted(set(at)) or at[0] < 1 or not all(0 < r < math.inf for _, r in rates):
                raise InputError(f"'{name}' must list (tokens, FLOP/s), ascending and positive. Got {rates}.")
            object.__setattr__(self, name, rates)
        for name in ("step", "layer"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"'{name}' must be a time of at least 0. Got {getattr(self, name)}.")
        if self.requests < 1:
            raise InputError(f"'requests' must be at least 1. Got {self.requests}.")

    def busy(self, requests: int) -> Costs:
        """The same machine while so many prompts are read together. Raises InputError below 1."""
        return replace(self, requests=requests)

    def work(self, flops: float, tokens: float) -> float:
        """Of products of ``tokens`` rows."""
        return flops / _rate(self.products, tokens * self.requests)

    def block(self, block: nn.Module, q: float, kv: float) -> float:
        """Of a transformer layer on q tokens that attend to kv each."""
        seen = 4.0 * q * kv * attention_width(block) / _rate(self.attention, kv)
        return max(self.layer / self.requests, self.work(q * linear_flops(block), q) + seen)

    def said(self, cost: float) -> str:
        """A cost in words."""
        return f"{cost * 1e3:.3f} ms" if self.measured else f"{cost / 1e9:.3f} GFLOPs"


#: Where nothing was measured: every FLOP costs the same.
COUNTED = Costs(((1, 1.0),), ((1, 1.0),), STEP, measured=False)


def _rate(rates: Rates, tokens: float) -> float:
    """Between measured numbers of tokens on straight lines over their logarithms; beyond them as at the last."""
    below = [p for p in rates if p[0] <= tokens]
    above = [p for p in rates if p[0] > tokens]
    if not below or not above:
        return (below or above)[-1 if below else 0][1]
    (n, low), (more, high) = below[-1], above[0]
    part = math.log(tokens / n) / math.log(more / n)
    return math.exp((1 - part) * math.log(low) + part * math.log(high))


# --- the file ---------------------------------------------------------------------------------------------------------


def path() -> Path:
    """Where measured costs are kept: ``foveate/costs.json`` in the user's cache folder (XDG_CACHE_HOME, ~/.cache)."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "foveate" / "costs.json"


def key(device: torch.device, dtype: torch.dtype) -> str:
    """What costs are filed under: other processors, threads, releases of torch and types are other machines."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{device.type}, {_cpu()}, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}, {str(dtype).removeprefix('torch.')}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def read(file: Path) -> dict[str, Costs]:
    """Every machine's costs in a file; none when there is no file.

    Raises:
        CacheFileError: a file that cannot be read, is damaged, or is of another version.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        version, machines = data["version"], data["machines"]
        if version != VERSION:
            raise CacheFileError(f"the measured costs in {str(file)!r} are of version {version!r}; {_AGAIN}")
        return {str(k): _costs(v) for k, v in machines.items()}
    except FileNotFoundError:
        return {}
    except CacheFileError:
        raise
    except OSError as error:
        raise CacheFileError(f"the measured costs in {str(file)!r} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CacheFileError(f"the measured costs in {str(file)!r} are damaged; {_AGAIN}") from error


def _costs(found: Mapping[str, Any]) -> Costs:
    return Costs(found["products"], found["attention"], float(found["step"]), float(found["layer"]))


def write(file: Path, found: Mapping[str, Costs]) -> None:
    """Write costs whole or not at all.

    Raises:
        CacheFileError: the file cannot be written.
    """
    kept = ("products", "attention", "step", "layer")
    machines = {k: {name: v for name, v in asdict(c).items() if name in kept} for k, c in found.items()}
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"version": VERSION, "machines": machines}, indent=1) + "\n", encoding="utf-8")
        part.replace(file)
    except OSError as error:
        raise CacheFileError(f"the measured costs cannot be written to {str(file)!r}: {error.strerror}") from error


def costs_for(guard: bool | Costs, model: nn.Module) -> Costs | None:
    """What the guard counts with: None when it is off, what was measured for this model's device and type, or FLOPs.

    Raises:
        CacheFileError: what was measured is damaged.
    """
    if isinstance(guard, Costs) or not guard:
        return guard or None
    first = next(model.parameters())
    return read(path()).get(key(first.device, first.dtype), COUNTED)
