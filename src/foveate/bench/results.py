"""Results files: one JSON a study, with the goals it is held to."""

from __future__ import annotations

import functools
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch


def goal(text: str, value: float, bar: float, holds: bool) -> dict[str, Any]:
    """One figure that was asked for: what it is, what came out, what it is held to, and whether it holds."""
    return {"goal": text, "value": value, "bar": bar, "holds": bool(holds)}


def machine() -> dict[str, Any]:
    """What ran it."""
    import transformers

    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


@functools.cache
def commit() -> str:
    """The commit of foveate's source when first asked, with a plus sign when tracked files differed from it.

    "unknown" where foveate does not run from a checkout.
    """
    try:
        _git(
            "ls-files", "--error-unmatch", "__init__.py"
        )  # an installed copy may lie inside another project's checkout
        head, dirty = _git("rev-parse", "--short", "HEAD"), _git("status", "--porcelain", "-uno", ".")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if dirty else "")


def _git(*words: str) -> str:
    """What git says about the folder of the package."""
    root = Path(__file__).resolve().parents[1]
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()


def save(path: Path, seed: int, rows: list[dict[str, Any]], goals: list[dict[str, Any]], **more: Any) -> None:
    """Write a results file whole, or not at all."""
    data = {
        "command": "python -m foveate.bench " + shlex.join(sys.argv[1:]),
        "commit": commit(),
        "machine": machine(),
        "seed": seed,
        **more,
        "goals": goals,
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def goals(folder: Path) -> list[dict[str, Any]]:
    """All goals of a folder of results, those that do not hold first, each with the file it stands in."""
    found = []
    for path in sorted(folder.glob("*.json")):
        for g in json.loads(path.read_text(encoding="utf-8")).get("goals", []):
            found.append({**g, "file": path.name})
    return sorted(found, key=lambda g: bool(g["holds"]))


def lines(found: Iterable[dict[str, Any]]) -> list[str]:
    """Goals as text, one a line."""
    mark = {True: "holds", False: "FALLS SHORT"}
    return [
        f"{mark[g['holds']]:11s} {g['value']:<10.4g} bar {g['bar']:<8.4g} {g['goal']}  [{g['file']}]" for g in found
    ]
