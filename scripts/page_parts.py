"""What the generated pages share: the methods to list, and markdown tables."""

from __future__ import annotations

from typing import Any

import foveate
from foveate.method import STAGES


def own() -> dict[str, type[Any]]:
    """The methods that come with foveate, by name, in path order; third parties' are left out."""
    found = {n: c for n, c in foveate.methods().items() if c.__module__.startswith("foveate.")}
    return dict(sorted(found.items(), key=lambda item: STAGES.index(item[1].stage)))


def table(head: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
