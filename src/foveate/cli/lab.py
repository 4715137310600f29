"""``foveate lab``: train the small models, measure any model on the procedural tasks, look at the tasks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .output import bar, check_choice, console, print_json, quieten

if TYPE_CHECKING:
    from ..lab.evaluate import Evaluation

lab = typer.Typer(
    help="Small real models and procedural tasks on which every method can be judged.", no_args_is_help=True
)
_KINDS = ("image", "video", "diffusion")
_EACH = 60.0  # seconds between two lines of progress when stderr is no terminal


@lab.command()
def train(
    kind: Annotated[str, typer.Argument(help="image (like LLaVA), video (Qwen2.5-VL) or diffusion (LLaDA).")],
    minutes: Annotated[float | None, typer.Option(help="How long to train, from the very start of the run.")] = None,
    steps: Annotated[int | None, typer.Option(help="Train for so many steps instead: the same everywhere.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the model. Default: where 'lab/KIND' is looked for.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: a GPU if there is one.")] = None,
    seed: Annotated[int, typer.Option(help="Of the first weights and of the data.")] = 0,
    batch: Annotated[int, typer.Option(help="Pictures, or texts, in a step.")] = 32,
    workers: Annotated[int | None, typer.Option(help="Processes that draw. Default: what fits the machine.")] = None,
    items: Annotated[int, typer.Option(help="Items asked at the end, for the model card.")] = 400,
    teacher: Annotated[
        str | None, typer.Option(help="A trained lab model whose decoder to begin with and whose tokens to imitate.")
    ] = None,
    fuse: Annotated[bool, typer.Option("--fuse", help="Compile the layers first: faster after a minute.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    small: Annotated[bool, typer.Option("--small", help="Shrunken sizes: a dry run in seconds.")] = False,
) -> None:
    """Train a lab model. Ctrl-C or SIGTERM saves a checkpoint; --resume goes on from it."""
    check_choice("KIND", kind, _KINDS)
    if minutes is None and steps is None:
        raise InputError("say how long to train: --minutes N (hours for a good model), or --steps N")
    if batch < 1 or (workers is not None and workers < 0):
        raise InputError(f"--batch must be at least 1, and --workers not below 0. Got {batch} and {workers}.")
    if kind == "diffusion":
        if teacher or fuse or workers is not None:
            raise InputError("diffusion trains alone and draws nothing: leave out --teacher, --fuse and --workers")
        _diffusion(minutes, steps, out, device, seed, batch, items, resume, small)
        return
    from ..lab.models import small as shrunken
    from ..lab.train import Recipe
    from ..lab.train import train as run

    quieten()
    recipe = Recipe(kind, shrunken(kind) if small else None, seed, batch, teacher=teacher, fuse=fuse, workers=workers)
    with _training(kind) as tell, bar(False) as progress:
        done = run(
            recipe,
            minutes=minutes,
            steps=steps,
            out=out,
            device=device,
            resume=resume,
            items=items,
            tell=tell,
            progress=progress,
        )
    told = f"{done.steps:,} steps in {done.seconds / 60:.1f} minutes"
    if not done.finished or done.result is None:
        sys.stderr.write(f"stopped after {told}; go on with the same command and --resume\n")
        raise typer.Exit(130)
    typer.echo(f"{done.folder}: {told}, accuracy {done.result['accuracy']:.3f} on {done.result['n']} new items")


def _diffusion(
    minutes: float | None,
    steps: int | None,
    out: Path | None,
    device: str | None,
    seed: int,
    batch: int,
    items: int,
    resume: bool,
    small: bool,
) -> None:
    """Train the masked-diffusion model."""
    from ..lab import diffusion

    quieten()
    size = diffusion.SMALL if small else diffusion.SIZE
    made = diffusion.Recipe(size, seed, batch)

    def tell(record: dict[str, Any], gone: float) -> None:
        said = f"loss {record['loss']:.3f}, {record['right']:.0%} of the masked tokens right"
        sys.stderr.write(f"{gone:4.0%} step {record['step']:,}: {said}\n")
        sys.stderr.flush()

    log = diffusion.train(
        made,
        minutes=minutes,
        steps=steps,
        out=out,
        device=device,
        resume=resume,
        items=-(-items // 2),
        tell=tell,
    )
    if log is None:
        sys.stderr.write("stopped; go on with the same command and --resume\n")
        raise typer.Exit(130)
    told = ", ".join(f"{task} {value:.3f}" for task, value in log["accuracy"].items())
    typer.echo(f"{log['steps']:,} steps in {log['seconds'] / 60:.1f} minutes; right: {told}")


@lab.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="lab/image, lab/video, a folder or a hub id.")],
    plan: Annotated[str | None, typer.Option(help="Plan as text or a .yaml file. Default: the full model.")] = None,
    seed: Annotated[int, typer.Option(help="Of the items.")] = 0,
    n: Annotated[int, typer.Option(help="Items in all, shared out among the tasks.")] = 500,
    tasks: Annotated[str | None, typer.Option(help="Tasks, with commas between. Default: those of the model.")] = None,
    difficulty: Annotated[float, typer.Option(help="0 to 1.")] = 0.5,
    frames: Annotated[int, typer.Option(help="Of each video.")] = 16,
    batch: Annotated[int, typer.Option(help="Items asked at a time.")] = 25,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: a GPU if there is one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")] = False,
) -> None:
    """Accuracy by task on freshly made items, with 95% intervals."""
    from ..lab.evaluate import evaluate as run
    from ..load import load

    quieten()
    names = [t.strip() for t in tasks.split(",") if t.strip()] if tasks is not None else None
    if names == []:
        raise InputError(f"--tasks names no task. Got {tasks!r}.")
    loaded = load(model, device=device)
    with bar(as_json) as progress:
        result = run(
            loaded,
            plan,
            seed=seed,
            n=n,
            tasks=names,
            difficulty=difficulty,
            frames=frames,
            batch=batch,
            progress=progress,
        )
    if as_json:
        print_json(result.as_dict())
    else:
        _print(result, loaded.note)


@lab.command()
def show(
    task: Annotated[str, typer.Argument(help="A task; a wrong name lists them.")],
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("sheet.png"),
    n: Annotated[int, typer.Option(help="Items.")] = 12,
    seed: Annotated[int, typer.Option(help="Of the items.")] = 0,
    difficulty: Annotated[float, typer.Option(help="0 to 1.")] = 0.5,
) -> None:
    """Draw items of a task with their questions, answers, and evidence."""
    from ..lab.sheet import sheet

    typer.echo(str(sheet(task, out, n=n, seed=seed, difficulty=difficulty)))


def _print(result: Evaluation, note: str) -> None:
    from rich.table import Table
    from rich.text import Text

    data = result.as_dict()
    table = Table(box=None, pad_edge=False)
    for name in ("task", "accuracy", "95% interval", "prior", "items", "evidence kept"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for name, t in [*data["tasks"].items(), ("all", {**data, "prior": None})]:
        prior, kept = (f"{t[k]:.3f}" if t[k] is not None else "" for k in ("prior", "evidence_kept"))
        span = f"{t['low']:.3f} to {t['high']:.3f}"
        row = (name, f"{t['accuracy']:.3f}", span, prior, str(t["n"]), kept)
        table.add_row(*row, style="bold" if name == "all" else None)
    out = console()
    out.print(table)
    tokens = f"{data['kept_tokens']:.1f} of {data['visual_tokens']:.1f} visual tokens a prompt"
    out.print(Text(f"{result.model}, {result.plan or 'no plan'}, seed {result.seed}: {tokens}, {result.seconds:.1f} s"))
    if note:
        out.print(Text(note, style="bold"))


@contextmanager
def _training(kind: str) -> Iterator[Callable[[dict[str, Any], float], None]]:
    """What is called with each record: a progress bar on a terminal, else a line on stderr once a minute."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(file=sys.stderr), transient=True) as shown:
            tasks = {stage: shown.add_task(stage, total=1.0, visible=False) for stage in ("dense", "joint")}

            def draw(record: dict[str, Any], gone: float) -> None:
                at = tasks[record["stage"]]
                shown.update(at, completed=min(1.0, gone), visible=True, description=_line(kind, record))

            yield draw
        return
    last = [-_EACH]

    def write(record: dict[str, Any], gone: float) -> None:
        if time.monotonic() - last[0] >= _EACH:
            last[0] = time.monotonic()
            sys.stderr.write(f"{gone:4.0%} {_line(kind, record)} {record['right']}\n")
            sys.stderr.flush()

    yield write


def _line(kind: str, record: dict[str, Any]) -> str:
    speed = f", {record['pictures_per_second']:.0f}/s" if record["pictures_per_second"] else ""
    return f"{kind} {record['stage']}: {record['pictures']:,} seen, loss {record['loss']:.3f}{speed}"
