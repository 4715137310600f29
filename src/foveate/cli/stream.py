"""``foveate stream``: play a video into a stream and ask while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .output import bar, console, harmless, print_json, quieten


def stream(
    video: Annotated[Path, typer.Argument(help="A video file.")],
    question: Annotated[str, typer.Argument(help="What to ask.")],
    model: Annotated[str | None, typer.Option(help="Built-in name, folder or hub id. Default: as for ask.")] = None,
    plan: Annotated[str | None, typer.Option(help="Plan as text or a .yaml file. Default: foveal.")] = None,
    at: Annotated[
        list[float] | None, typer.Option(help="Second of the video to ask at; give it several times. Default: the end.")
    ] = None,
    fps: Annotated[float, typer.Option(help="Frames pushed of each second.")] = 1.0,
    cap: Annotated[int, typer.Option(help="Most visual tokens that are remembered.")] = 4096,
    budget: Annotated[int | None, typer.Option(help="Most visual tokens in a prompt. Default: all remembered.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object an answer on stdout.")] = False,
) -> None:
    """Push a video's frames one by one, in constant memory, and ask at the times given."""
    from ..archive.indexing import frames_at
    from ..builtin import default_model
    from ..stream import Stream
    from ..stream.recall import clock
    from ..video import open_video

    quieten()
    if not fps > 0:
        raise InputError(f"'fps' must be above 0. Got {fps}.")
    live = Stream(default_model() if model is None else model, plan, cap=cap)

    def ask(now: float) -> None:
        said = live.ask(question, budget=budget, max_new_tokens=max_new_tokens)
        if as_json:
            print_json({"at": now, "remembered": live.tokens, **said.as_dict()})
            return
        text = f"{clock(now)} {harmless(said.text)}"
        console().print(text, markup=False, soft_wrap=True)
        if said.note:
            console().print(said.note, style="bold")

    with open_video(video) as source, bar(as_json) as progress:
        moments = sorted(at) if at else [source.duration]
        if moments[0] < 0 or moments[-1] > source.duration:
            raise InputError(f"--at is a second of the video, from 0 to {source.duration:.1f}. Got {moments}.")
        for frame in frames_at(source, fps):
            while moments and frame.time > moments[0]:
                ask(moments.pop(0))
            if not moments:
                break
            live.push(frame)
            if progress is not None:
                progress(f"watching {source.path.name}", int(frame.time), int(source.duration))
        for now in moments:
            ask(now)
