"""``foveate methods``: the registry as a table."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..method import STAGES, options
from ..spec import methods as registry
from .output import check_choice, console, print_json


def rows(stage: str | None = None) -> list[dict[str, Any]]:
    """What the registry knows of every method (of one stage), in path order."""
    out = []
    for name, cls in registry().items():
        if stage is not None and cls.stage != stage:
            continue
        card = cls.card
        out.append(
            {
                "name": name,
                "stage": cls.stage,
                "systems": list(card.systems),
                "title": card.title,
                "url": card.url,
                "training": card.training,
                "needs": list(card.needs),
                "cost": card.cost,
                "evidence": card.evidence,
                "options": {k: {"default": f.default, **_doc(f)} for k, f in options(cls).items()},
            }
        )
    return sorted(out, key=lambda r: STAGES.index(r["stage"]))


def _doc(field: Any) -> dict[str, str]:
    return {"doc": field.metadata["doc"], "range": str(field.metadata["check"])} if field.metadata else {}


def methods(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    stage: Annotated[str | None, typer.Option(help=f"Only this stage: {', '.join(STAGES)}.")] = None,
) -> None:
    """List every method: where it acts, what it needs and costs, and what shows that it is right."""
    check_choice("--stage", stage, STAGES)
    found = rows(stage)
    if as_json:
        print_json({"methods": found})
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("name", "stage", "systems", "paper", "training", "needs", "cost", "evidence"):
        table.add_column(name, overflow="fold", no_wrap=name in ("name", "stage", "paper"))
    for r in found:
        lists = {k: ", ".join(r[k]) for k in ("systems", "needs")}
        paper, needs = r["url"].removeprefix("https://"), lists["needs"].replace("|", " | ")
        table.add_row(r["name"], r["stage"], lists["systems"], paper, r["training"], needs, r["cost"], r["evidence"])
    out = console()
    out.print(table)
    out.print(f"{len(found)} methods")
