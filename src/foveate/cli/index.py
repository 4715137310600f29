"""``foveate index``: encode videos once, for any number of questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import bar, console, harmless, print_json, quieten

if TYPE_CHECKING:
    from ..archive import Indexed


def index(
    videos: Annotated[list[str], typer.Argument(metavar="VIDEO...", help="Video files, and folders of them.")],
    store: Annotated[str, typer.Option(help="Folder of the store, or an address such as s3://bucket/store.")],
    model: Annotated[str | None, typer.Option(help="Built-in name, folder or hub id. Default: as for ask.")] = None,
    plan: Annotated[str | None, typer.Option(help="Plan as text or a .yaml file. Default: foveal.")] = None,
    fps: Annotated[float, typer.Option(help="Frames seen of each second.")] = 1.0,
    clip: Annotated[int, typer.Option(help="Frames encoded together; answers are given from whole clips.")] = 8,
    question: Annotated[
        str | None, typer.Option(help="Index for this question only, with methods that decide by it.")
    ] = None,
    bits: Annotated[int | None, typer.Option(help="Keep tokens in 8 or 4 bits a number. Default: as they are.")] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Encode on Ray Data (extra 'ray').")] = False,
    workers: Annotated[int, typer.Option(help="Models that encode at the same time, with --ray.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a file on stdout, nothing else.")] = False,
) -> None:
    """Encode videos into a store, once; then: foveate ask --store DIR QUESTION."""
    from ..archive import index as run
    from ..archive.indexing import together
    from ..builtin import default_model

    def tell(done: Indexed) -> None:
        if as_json:
            print_json(vars(done))
            return
        size = f", {done.stored:,} bytes" if done.stored else ""
        what = done.error if done.state == "failed" else f"{done.clips} clips, {done.tokens:,} tokens{size}"
        console().print(harmless(f"{done.state:8} {done.path}: {what}"), markup=False, soft_wrap=True)

    quieten()
    name = default_model() if model is None else model
    how: dict[str, Any] = {"model": name, "plan": plan, "fps": fps, "clip": clip, "question": question, "bits": bits}
    if ray:
        from ..archive.on_ray import index_on_ray

        done = index_on_ray(videos, store, workers=workers, tell=tell, **how)
    else:
        with bar(as_json) as progress:
            done = run(videos, store, tell=tell, progress=progress, **how)
    if not as_json:
        console().print(together(done))
    if done and all(d.state == "failed" for d in done):
        raise typer.Exit(1)
