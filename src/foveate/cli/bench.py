"""``foveate bench``: models x plans x tasks, as a table, a page and JSON."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .output import bar, console, harmless, print_json, quieten

if TYPE_CHECKING:
    from ..compare import Comparison


def bench(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="lab/image, folders or hub ids.")],
    plan: Annotated[
        list[str] | None,
        typer.Option(
            help="Plan as text or a .yaml file; repeatable. The full model is always asked too. Default: auto."
        ),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="lab:counting,lab:read or just lab. Default: lab, unless there is --data.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="A folder with JSONL files (or one file) of your own media and questions.")
    ] = None,
    n: Annotated[int, typer.Option(help="Questions of each task, at most.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the lab's items, of the order of your own, and of torch.")] = 0,
    out: Annotated[
        Path, typer.Option(help="Folder of log, page and JSON; what is in the log is not asked again.")
    ] = Path("bench"),
    concurrency: Annotated[
        str | None, typer.Option(help="Measure throughput too, with so many clients at a time: 1,2,4,8. Slow.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Of each measurement of throughput.")] = 10.0,
    difficulty: Annotated[float, typer.Option(help="Of the lab's items, 0 to 1.")] = 0.5,
    frames: Annotated[int, typer.Option(help="Of each video.")] = 16,
    max_new_tokens: Annotated[int | None, typer.Option(help="Default: a little more than the right answer.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: a GPU if there is one.")] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Spread questions over a Ray cluster (extra 'ray').")] = False,
    workers: Annotated[int, typer.Option(help="Models that answer at the same time, with --ray.")] = 1,
    cpus: Annotated[float, typer.Option(help="Cores of each worker, with --ray.")] = 1.0,
    gpus: Annotated[float, typer.Option(help="GPUs of each worker, with --ray.")] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")] = False,
) -> None:
    """Compare plans with the full model: how right, how alike, how fast, how large.

    Stopped and run again with the same words, it goes on where it was; other plans or more questions add to it.
    """
    from ..compare import Pool, compare

    quieten()
    with bar(as_json) as progress:
        told = compare(
            models, plan or ["auto"], tasks=tasks, data=data, n=n, seed=seed, difficulty=difficulty, frames=frames,
            max_new_tokens=max_new_tokens, device=device, out=out, pool=Pool(workers, cpus, gpus) if ray else None,
            clients=_levels(concurrency), seconds=seconds, command=shlex.join(["foveate", *sys.argv[1:]]),
            tell=progress,
        )  # fmt: skip
    files = told.write()
    if as_json:
        print_json(told.as_dict())
    else:
        _print(told, files[1])


def _levels(text: str | None) -> list[int]:
    if text is None:
        return []
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--concurrency must be whole numbers with commas between. Got {text!r}.") from error


def _print(told: Comparison, page: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    from ..compare.cells import COLUMNS, cells, places, rates

    #: of the figures, those that fit; the page has all
    shown = [name for name in COLUMNS if name not in ("95% interval", "loss to full", "peak")]
    out = console()
    for model in dict.fromkeys(r["model"] for r in told.rows):
        rows = [r for r in told.rows if r["model"] == model]
        table = Table(box=None, pad_edge=False, title=harmless(model), title_justify="left")
        for name in shown:
            table.add_column(name, justify="left" if name in ("plan", "task") else "right", overflow="fold")
        for row in rows:
            values = dict(zip(COLUMNS, cells(row)))
            values["accuracy"] += f" ({row['low']:.2f}-{row['high']:.2f})"
            table.add_row(*(values[name] for name in shown))
        out.print(table)
        for row in rows:
            if rate := rates(row):
                out.print(Text(f"answers a second, {row['plan']}: {rate}"))
        for row in (r for r in rows if r["task"] == rows[-1]["task"] and r["sites"]):
            out.print(Text(f"tokens left, {row['plan']}: {places(row)}"))
        for left, why in told.left_out.get(model, {}).items():
            out.print(Text(harmless(f"left out: {left}: {why}")))
    about = told.about
    out.print(Text(f"{about['answered']:,} answers, {about['known']:,} known before; page {page}, log {told.log}"))
    for note in told.notes:
        out.print(Text(note, style="bold"))
