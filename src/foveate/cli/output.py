"""What the commands print with: stdout for results, stderr for progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from ..errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from ..prompt import Progress


def quieten() -> None:
    """No progress bars and warnings of transformers: the commands have their own, and errors are one line."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def console() -> Console:
    """A console on stdout; tables keep their width when the output is piped."""
    from rich.console import Console

    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160, highlight=False)


def print_json(data: Any) -> None:
    """One JSON object on stdout. Numbers that JSON cannot hold become null."""
    typer.echo(json.dumps(_plain(data), ensure_ascii=False))


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(k): _plain(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(v) for v in data]
    if isinstance(data, float) and (data != data or abs(data) == float("inf")):
        return None
    return data if isinstance(data, str | int | float | bool | None) else str(data)


def harmless(text: str) -> str:
    """Text from a model or a file with control characters spelled out, so that it cannot steer the terminal."""
    return "".join(c if c in "\n\t" or (c.isprintable()) else f"\\x{ord(c):02x}" for c in text)


@contextmanager
def bar(quiet: bool) -> Iterator[Progress | None]:
    """A progress bar on stderr, or None when it should be silent: asked to be, or stderr is not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    words = TextColumn("{task.description}")
    columns = (SpinnerColumn(), words, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as shown:
        tasks: dict[str, Any] = {}

        def tell(step: str, done: int, total: int | None) -> None:
            for other, task in tasks.items():
                if other != step:
                    shown.update(task, visible=False)
            if step not in tasks:
                tasks[step] = shown.add_task(step, total=total)
            shown.update(tasks[step], completed=done, total=total)

        yield tell


def check_choice(option: str, value: str | None, known: tuple[str, ...]) -> None:
    """Raises InputError when an option's value is none of ``known``."""
    if value is not None and value not in known:
        raise InputError(f"{option} must be one of {', '.join(known)}. Got {value!r}.")
