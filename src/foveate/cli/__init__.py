"""The command line: one module a command."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..errors import FoveateError, OutOfMemoryError
from ..memory import is_memory
from .ask import ask
from .bench import bench
from .doctor import doctor
from .index import index
from .lab import lab
from .methods import methods
from .serve import serve
from .stream import stream
from .tune import tune


class _Group(TyperGroup):
    """Errors made on purpose become one line on stderr and exit code 2; all others keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FoveateError as error:
            _fail(error)
        except (MemoryError, RuntimeError) as error:
            if not is_memory(error):
                raise
            _fail(OutOfMemoryError("no memory left; use fewer frames, a smaller model, or a plan that keeps less"))


def _fail(error: FoveateError) -> None:
    sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
    raise typer.Exit(2) from error


app = typer.Typer(
    cls=_Group,
    name="foveate",
    help="Keep what the question needs: cheap multimodal LLMs on Hugging Face models as they are.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command()(ask)
app.command()(index)
app.command()(stream)
app.command()(serve)
app.command()(tune)
app.command()(bench)
app.command()(methods)
app.command()(doctor)
app.add_typer(lab, name="lab")


@app.callback(invoke_without_command=True)
def _top(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """The console script."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    app()
