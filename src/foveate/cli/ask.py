"""``foveate ask``: a question about images and videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .output import bar, console, harmless, print_json, quieten

if TYPE_CHECKING:
    from ..ask import Answer


def ask(
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="[MEDIA]... QUESTION",
            help="Images, videos, parts of them (clip.mp4[00:10-00:25]) and directories, then the question.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="Built-in name, folder or hub id. Default: 'tiny', which is untrained.")
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(help="Plan as text or a .yaml file; 'none' runs the full model. Default: foveal (keeps a tenth)."),
    ] = None,
    frames: Annotated[int, typer.Option(help="Frames sampled from each video.")] = 16,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 64,
    guard: Annotated[bool, typer.Option("--guard", help="Leave out reductions that cost more than they save.")] = False,
    together: Annotated[
        bool, typer.Option("--together", help="The images show one scene: one budget for all.")
    ] = False,
    chunk: Annotated[
        int | None,
        typer.Option(help="Read longer prompts in pieces of so many tokens; cache methods evict in between."),
    ] = None,
    reach: Annotated[
        int | None, typer.Option(help="With --chunk: pieces before its own that a visual token attends to.")
    ] = None,
    decompose: Annotated[
        bool, typer.Option("--decompose", help="Choose frames also for simpler questions that the model makes of it.")
    ] = False,
    max_pixels: Annotated[
        int | None, typer.Option(help="Refuse pictures and frames of more pixels than this; default 178,956,970.")
    ] = None,
    ahead: Annotated[bool, typer.Option(help="Decode long videos while they are encoded.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")] = False,
    show: Annotated[Path | None, typer.Option(help="Write a picture of what was kept.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of torch's generators.")] = 0,
    store: Annotated[
        str | None, typer.Option(help="Answer from videos indexed here; MEDIA are then names of some of them.")
    ] = None,
    budget: Annotated[int, typer.Option(help="With --store: most visual tokens in the prompt.")] = 4096,
    by: Annotated[
        str, typer.Option(help="With --store: how clips are compared with the question: embeddings or model.")
    ] = "embeddings",
) -> None:
    """Ask a question about images and videos; prints the answer and what it cost."""
    from ..ask import ask as run
    from ..video import Limits

    *media, question = given
    if store is not None:
        _from_store(store, media, question, model, plan, budget, by, max_new_tokens, seed, as_json)
        return
    if not media and Path(question).is_file():
        raise InputError(f"the question is missing: foveate ask {question} 'What happens here?'")
    quieten()
    with bar(as_json) as progress:
        answer = run(
            list(media),
            question,
            model=model,
            plan=plan,
            frames=frames,
            max_new_tokens=max_new_tokens,
            guard=guard,
            together=together,
            chunk=chunk,
            reach=reach,
            decompose=decompose,
            limits=Limits() if max_pixels is None else Limits(pixels=max_pixels),
            seed=seed,
            progress=progress,
            ahead=ahead,
        )
        shown = answer.show(show) if show is not None else None
    if as_json:
        print_json({**answer.as_dict(), "show": str(shown) if shown else None})
    else:
        _print(answer, shown)


def _from_store(
    store: str,
    videos: list[str],
    question: str,
    model: str | None,
    plan: str | None,
    budget: int,
    by: str,
    max_new_tokens: int,
    seed: int,
    as_json: bool,
) -> None:
    from rich.text import Text

    from ..archive import ask_store

    quieten()
    with bar(as_json) as progress:
        answer = ask_store(
            store,
            question,
            model=model,
            plan=plan,
            videos=videos,
            budget=budget,
            by=by,
            max_new_tokens=max_new_tokens,
            seed=seed,
            progress=progress,
        )
    if as_json:
        print_json(answer.as_dict())
        return
    _print(answer, None)
    for source in answer.sources[:8]:
        console().print(Text(f"from {harmless(str(source))}"))
    if len(answer.sources) > 8:
        console().print(f"and {len(answer.sources) - 8} more stretches")


def _print(answer: Answer, shown: Path | None) -> None:
    from rich.text import Text

    out = console()
    out.print(Text(harmless(answer.text)))
    out.print()
    report = answer.report
    if report.rows or report.decode:
        out.print(report.table())
    else:
        out.print("no plan: the full model ran")
    for reason in report.declined:
        out.print(Text(f"declined: {reason}"))
    if report.decode:
        out.print(Text("decode: " + ", ".join(f"{k} {v:g}" for k, v in report.decode.items())))
    rate = f"{answer.tokens_per_second:.1f} tokens/s after it" if answer.tokens > 1 else "one token"
    out.print(
        f"{answer.prompt_tokens:,} prompt tokens, first token after {answer.first_token:.2f} s, "
        f"{answer.tokens} new tokens, {rate}"
    )
    if shown is not None:
        out.print(Text(f"picture: {shown}"))
    if answer.note:
        out.print(Text(answer.note, style="bold"))
