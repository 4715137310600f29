"""``foveate doctor``: what this machine has, and how fast it multiplies."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import time
from typing import Annotated, Any

import typer

from .output import console, print_json

#: The first transformers release that foveate works with.
FLOOR = (5, 16, 1)

#: Optional extras and the modules that show that they are installed.
EXTRAS = {
    "serve": ("fastapi", "uvicorn", "prometheus_client"),
    "ray": ("ray",),
    "vllm": ("vllm",),
    "eval": ("lmms_eval",),
}

#: Video codecs worth naming; PyAV brings its own decoders.
CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg")


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure, in seconds, what the guard counts with, and keep it.")
    ] = False,
) -> None:
    """Report versions, processor, memory, GPU, extras and codecs, and measure one second of matrix products."""
    if calibrate:
        from ..calibration import calibrate as run

        run()
    found = examine()
    if as_json:
        print_json(found)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    for key, value in found.items():
        table.add_row(key.replace("_", " "), _text(value))
    console().print(table)


def examine(seconds: float = 1.0) -> dict[str, Any]:
    """Everything ``foveate doctor`` tells, as plain data. seconds: how long to multiply, over all types."""
    import torch

    from .. import __version__
    from ..memory import available

    version = importlib.metadata.version("transformers")
    floor = ".".join(map(str, FLOOR))
    free = available()
    return {
        "foveate": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version,
        "transformers_ok": _number(version) >= FLOOR,
        "transformers_needed": f">={floor}",
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu_features": _features(),
        "memory_gib": {"free": None if free is None else round(free / 2**30, 1), "total": _total()},
        "gpu": _gpus(),
        "extras": {name: all(map(_installed, modules)) for name, modules in EXTRAS.items()},
        "torchvision": _installed("torchvision"),
        "pyav": importlib.metadata.version("av"),
        "ffmpeg": shutil.which("ffmpeg"),
        "codecs": _codecs(),
        "guard": _guard(),
        "matmul_gflops": {name: round(rate, 1) for name, rate in measure(seconds).items()},
    }


def _guard() -> dict[str, Any]:
    """Where measured costs are kept, and of what; a damaged file is told, not raised."""
    from ..errors import CacheFileError
    from ..sites import costs

    try:
        return {"costs": str(costs.path()), "measured": list(costs.read(costs.path()))}
    except CacheFileError as error:
        return {"costs": str(costs.path()), "measured": [], "error": str(error)}


def measure(seconds: float = 1.0) -> dict[str, float]:
    """GFLOP/s of a 1024 x 1024 matrix product in float32 and bfloat16, on the CPU and on the GPU if there is one."""
    import torch

    places = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
    out = {}
    for place in places:
        for name, kind in kinds.items():
            out[f"{place}_{name}"] = _rate(place, kind, seconds / (len(places) * len(kinds)))
    return out


def _rate(place: str, kind: Any, seconds: float) -> float:
    import torch

    n = 1024
    a, b = (torch.ones(n, n, dtype=kind, device=place) for _ in range(2))

    def wait() -> None:
        if place == "cuda":
            torch.cuda.synchronize()

    a @ b
    wait()
    count, start = 0, time.perf_counter()
    while True:
        a @ b
        wait()
        count += 1
        if (spent := time.perf_counter() - start) >= seconds:
            return 2 * n**3 * count / spent / 1e9


def _number(version: str) -> tuple[int, ...]:
    parts = version.split("+")[0].split(".")[:3]
    return tuple(int("".join(c for c in p if c.isdigit()) or 0) for p in parts)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _cpuinfo() -> dict[str, str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            pairs = (line.split(":", 1) for line in lines if ":" in line)
            return {k.strip(): v.strip() for k, v in pairs}
    except OSError:
        return {}


def _cpu_name() -> str:
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def _features() -> dict[str, bool]:
    flags = set((_cpuinfo().get("flags") or _cpuinfo().get("Features") or "").split())
    return {name: name in flags for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16")}


def _total() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _gpus() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    found = (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
    return [f"{p.name}, {p.total_memory / 2**30:.0f} GiB" for p in found]


def _codecs() -> dict[str, bool]:
    import av

    known = av.codecs_available
    return {c: c in known or (c == "av1" and bool({"libdav1d", "libaom-av1"} & set(known))) for c in CODECS}


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
