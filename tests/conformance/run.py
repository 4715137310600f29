"""Check foveate against a folder of vectors: ``python tests/conformance/run.py CASES_DIR``.

CASES_DIR holds ``<method>/<case>.npz`` (arrays ``in.*`` and ``out.*``) beside ``<method>/<case>.json`` (``params``,
``rtol``, ``atol``). One line ``PASS|FAIL|SKIP method/case reason`` for each case, ``N passed, N failed, N skipped`` at
the end; exit status 1 when a case failed, 2 when there is no such folder. A case is skipped only where no registered
method answers to the folder's name and no adapter bears it (parts that are no method have adapters too).
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import foveate

Run = Callable[[Mapping[str, Any], Mapping[str, Tensor]], Mapping[str, Tensor]]


def registered() -> dict[str, str]:
    """Folder name -> method name, for every name under which vectors of a registered method may lie."""
    found: dict[str, str] = {}
    for name, cls in foveate.methods().items():
        for alias in (name, *cls.card.aliases, *cls.card.vectors):
            found.setdefault(alias, name)
    return found


def adapter(folder: str, method: str) -> Run | None:
    """The function that computes the outputs of a folder's cases, or None when nobody wrote it."""
    here = Path(__file__).parent
    if str(here) not in sys.path:
        sys.path.insert(0, str(here))
    for name in (folder, method):
        if (here / "adapters" / f"{name}.py").is_file():
            run: Run = importlib.import_module(f"adapters.{name}").run
            return run
    return None


def compare(got: Mapping[str, Any], want: Mapping[str, np.ndarray], rtol: float, atol: float) -> str:
    """What differs, in words; empty when everything agrees."""
    wrong = []
    for name, expected in want.items():
        if name not in got:
            wrong.append(f"{name}: not computed")
            continue
        actual = np.asarray(got[name].detach().cpu() if isinstance(got[name], Tensor) else got[name])
        if actual.shape != expected.shape:
            wrong.append(f"{name}: shape {actual.shape} instead of {expected.shape}")
        elif expected.dtype.kind in "biu":
            if actual.dtype.kind not in ("b" if expected.dtype.kind == "b" else "iu"):
                wrong.append(f"{name}: {actual.dtype} instead of {expected.dtype}")
            elif (actual != expected).any():
                wrong.append(f"{name}: {int((actual != expected).sum())} of {expected.size} values differ")
        elif not np.allclose(actual.astype(np.float64), expected.astype(np.float64), rtol, atol, equal_nan=True):
            apart = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
            wrong.append(f"{name}: off by up to {np.nanmax(apart):.3g}" if np.isfinite(apart).any() else f"{name}: nan")
    return "; ".join(wrong)


def check(stem: Path, run: Run) -> str:
    """Run one case. Returns what went wrong, or nothing."""
    try:
        case = json.loads(stem.with_name(stem.name + ".json").read_text(encoding="utf-8"))
        with np.load(stem.with_name(stem.name + ".npz"), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        return f"cannot be read: {' '.join(str(error).split())}"
    given = {k[3:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("in.")}
    want = {k[4:]: v for k, v in arrays.items() if k.startswith("out.")}
    if not want:
        return "holds no outputs"
    try:
        with torch.no_grad():
            if "shapes" in inspect.signature(run).parameters:  # how much to compute, where no parameter says so
                run = functools.partial(run, shapes={k: v.shape for k, v in want.items()})
            got = run(case["params"], given)
    except Exception as error:  # a crash of the library is a failed case, not the end of the run
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return compare(got, want, float(case.get("rtol", 1e-4)), float(case.get("atol", 1e-5)))


def main(argv: list[str]) -> int:
    """Returns the exit status."""
    if len(argv) != 1 or not Path(argv[0]).is_dir():
        print(f"usage: python {Path(__file__).name} CASES_DIR" if len(argv) != 1 else f"no folder {argv[0]!r}")
        return 2
    torch.manual_seed(0)
    names, counts = registered(), {"PASS": 0, "FAIL": 0, "SKIP": 0}
    files = [f for f in Path(argv[0]).glob("*/*") if f.suffix in (".json", ".npz")]
    for stem in sorted({f.with_name(f.name.rpartition(".")[0]) for f in files}):
        folder = stem.parent.name
        run = adapter(folder, names.get(folder, folder))
        if run is None and folder not in names:
            outcome, reason = "SKIP", "no method of that name is registered"
        else:
            reason = check(stem, run) if run is not None else f"no adapter tests/conformance/adapters/{folder}.py"
            outcome = "FAIL" if reason else "PASS"
        counts[outcome] += 1
        print(f"{outcome} {folder}/{stem.name} {reason}".rstrip(), flush=True)
    print(f"{counts['PASS']} passed, {counts['FAIL']} failed, {counts['SKIP']} skipped")
    return 1 if counts["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
