"""The documentation's grid of methods and model families, asked of the code."""

from __future__ import annotations

from page_parts import own, table

from foveate.grid import cell
from foveate.method import STAGES
from foveate.testing import FAMILIES, tiny
from foveate.tokens import SIGNALS


def grid_page() -> str:
    """Which method works on which family, asked of a tiny model of each."""
    families_ = FAMILIES["vlm"]
    models = {f: tiny(f).model for f in families_}
    found = own()
    missing = {(n, f): cell(models[f], cls) for n, cls in found.items() for f in families_}
    filled = sum(why is None for why in missing.values())
    parts = [
        "# Methods and models",
        "Every method at its defaults against every family of vision and language models, asked of the code at each "
        f"build: **{filled} of {len(missing)} cells are filled ({100 * filled / len(missing):.1f}%)**. An empty cell "
        "names the signal that this model cannot give at that stage; [the families](../families.md) say what each "
        "model is, and a method's page says what it needs.",
    ]
    for stage in STAGES:
        rows = [
            [f"[{n}]({n}.md)", *("yes" if (why := missing[n, f]) is None else _short(why) for f in families_)]
            for n, cls in found.items()
            if cls.stage == stage
        ]
        if rows:
            parts += [f"## {stage.capitalize()}", table(["method", *(f"`{f}`" for f in families_)], rows)]
    lacking = dict.fromkeys(_short(why) for why in missing.values() if why is not None)
    if lacking:
        parts.append("## What is missing")
        parts.append(table(["signal", "what it is"], [[name, _meaning(name)] for name in lacking]))
    parts.append(
        "A filled cell says that the plan is accepted. What depends on the prompt is said when it runs: before a layer "
        "with a sliding window that is shorter than the prompt, methods that read queries and keys of the whole prompt "
        "refuse and ask for another layer."
    )
    return "\n\n".join(parts) + "\n"


def _short(why: str) -> str:
    """The signals that a message of :func:`foveate.grid.cell` names, or the message itself."""
    _, needs, names = why.partition(" needs ")
    return " or ".join(f"`{n}`" for n in names.split(" or ")) if needs else why


def _meaning(names: str) -> str:
    return "; ".join(SIGNALS.get(n.strip("`"), "") for n in names.split(" or "))
