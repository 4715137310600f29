"""``foveate tune``: search plans for a target, and write the choice with its evidence."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .output import bar, console, print_json, quieten

if TYPE_CHECKING:
    from ..tune import Tuned


def tune(
    model: Annotated[str, typer.Argument(help="lab/image, a folder or a hub id.")],
    data: Annotated[str, typer.Argument(help="Lab tasks with commas between, 'lab', or a folder with JSONL files.")],
    target: Annotated[list[str], typer.Option(help="accuracy>=0.98*full, ttft<=0.5*full, memory<=2GB; repeatable.")],
    out: Annotated[Path, typer.Option(help="The YAML file to write.")] = Path("plan.yaml"),
    methods: Annotated[str, typer.Option(help="Methods with commas between. Default: all that drop tokens.")] = "",
    keeps: Annotated[str, typer.Option(help="Shares that methods start with.")] = "0.5,0.25,0.1,0.05",
    items: Annotated[int, typer.Option(help="Questions that plans are compared on.")] = 160,
    held_out: Annotated[int, typer.Option(help="Further questions, for the evidence.")] = 160,
    generations: Annotated[int, typer.Option(help="Of the evolution; 0 leaves it out.")] = 3,
    children: Annotated[int, typer.Option(help="Changed plans in a generation.")] = 8,
    batch: Annotated[int, typer.Option(help="Questions asked at a time.")] = 10,
    max_new_tokens: Annotated[int | None, typer.Option(help="Default: a little more than the right answers.")] = None,
    rounds: Annotated[int, typer.Option(help="Prompts whose first token is timed.")] = 12,
    seed: Annotated[int, typer.Option(help="Of the questions and of the search.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Where results are kept. Default: .cache beside --out.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: a GPU if there is one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")] = False,
) -> None:
    """Find a plan that meets the target; exit code 1 where the evidence does not support it (the plan is written too).

    Stopped and run again with the same words, it goes on where it was.
    """
    from ..load import load
    from ..tune import tune as run

    quieten()
    try:
        shares = [float(k) for k in keeps.split(",")]
    except ValueError as error:
        raise InputError(f"--keeps must be numbers with commas between. Got {keeps!r}.") from error
    names = [m.strip() for m in methods.split(",") if m.strip()]
    loaded = load(model, device=device)
    with bar(as_json) as progress:
        tuned = run(
            loaded, data, target, methods=names, keeps=shares, items=items, held_out=held_out, generations=generations,
            children=children, batch=batch, max_new_tokens=max_new_tokens, rounds=rounds, seed=seed,
            folder=out.parent / ".cache" if cache is None else cache, command=shlex.join(["foveate", *sys.argv[1:]]),
            tell=progress,
        )  # fmt: skip
    tuned.write(out)
    if as_json:
        print_json(tuned.as_dict() | {"out": str(out), "note": loaded.note})
    else:
        _print(tuned, out, loaded.note)
    if not tuned.supported:
        raise typer.Exit(1)


def _print(tuned: Tuned, path: Path, note: str) -> None:
    from rich.table import Table
    from rich.text import Text

    cost = next(k for k in ("flops", "kv", "memory") if k in tuned.front[0])
    table = Table(box=None, pad_edge=False, title="Pareto front of the search", title_justify="left")
    for name in ("plan", f"{cost}, of full", "accuracy", "95% interval", "items"):
        table.add_column(name, justify="left" if name == "plan" else "right", overflow="fold")
    for row in [*(r for r in tuned.front if r["plan"] != "none"), tuned.full]:
        span = f"{row['low']:.3f} to {row['high']:.3f}"
        chosen = "bold" if row["plan"] == tuned.plan else None
        table.add_row(row["plan"], f"{row[cost]:.3f}", f"{row['accuracy']:.3f}", span, str(row["n"]), style=chosen)
    out = console()
    out.print(table)
    seen = tuned.evidence
    loss = f"loss {seen['loss']:.3f} ({seen['loss_low']:.3f} to {seen['loss_high']:.3f})"
    out.print(Text(f"chosen: {tuned.plan}; on {seen['n']} other questions {seen['accuracy']:.3f}, {loss}"))
    for finding in tuned.findings:
        out.print(Text(str(finding), style="" if finding.supported else "bold"))
    out.print(Text(f"wrote {path}; {len(tuned.left_out)} methods or plans cannot run on this model"))
    if note:
        out.print(Text(note, style="bold"))
