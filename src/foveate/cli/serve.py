"""``foveate serve``: an OpenAI-compatible server, and a page to try it."""

from __future__ import annotations

import ipaddress
import sys
from typing import Annotated

import typer

from ..errors import InputError, MissingExtraError
from .output import quieten


def serve(
    model: Annotated[str, typer.Argument(help="Built-in name, folder or hub id.")],
    plan: Annotated[
        str | None,
        typer.Option(help="Plan of requests that name none; text, a .yaml file, 'auto' or 'none'. Default: foveal."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is everyone's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(help="Key that opens; give it several times for several.", envvar="FOVEATE_API_KEY"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What clients call the model. Default: as it was named.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of the weights. Default: as stored.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: a GPU if there is one.")] = None,
    max_running: Annotated[int, typer.Option(help="Answers in the making at a time.")] = 32,
    max_waiting: Annotated[int, typer.Option(help="Requests that may wait; more are told to come back.")] = 64,
    deadline: Annotated[float, typer.Option(help="Seconds for one request.")] = 300.0,
    frames: Annotated[int, typer.Option(help="Frames sampled from each video.")] = 16,
    fetch: Annotated[bool, typer.Option(help="Fetch media from web addresses, or take data URIs only.")] = True,
    allow_private: Annotated[
        list[str] | None, typer.Option(help="Host at a private address that media may come from.")
    ] = None,
    only_plan: Annotated[
        list[str] | None, typer.Option(help="Plan that clients may ask for; given once, no others are taken.")
    ] = None,
    reuse_mib: Annotated[int, typer.Option(help="Memory for what earlier requests left; 0 switches it off.")] = 512,
) -> None:
    """Serve a model: OpenAI's chat completions with images, videos and plans, metrics, and a page at /."""
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtraError("the server needs: pip install 'foveate[serve]'") from error
    from ..load import load
    from ..serve.app import create_app
    from ..serve.settings import MIB, Settings

    if not 0 <= port <= 65535:
        raise InputError(f"--port is a number from 0 to 65535. Got {port}.")
    settings = Settings(
        keys=tuple(api_key or ()),
        running=max_running,
        waiting=max_waiting,
        deadline=deadline,
        frames=frames,
        fetch=fetch,
        private_hosts=tuple(allow_private or ()),
        plans=None if only_plan is None else tuple(only_plan),
        reuse_bytes=reuse_mib * MIB,
    )
    quieten()
    app = create_app(load(model, dtype=dtype, device=device), plan, settings=settings, name=name)
    if not settings.keys and not _local(host):
        sys.stderr.write("warning: everyone who reaches this address can use the server; set --api-key\n")
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning" if not sys.stderr.isatty() else "info",
        server_header=False,
        limit_concurrency=4 * (max_running + max_waiting),
        timeout_keep_alive=10,
        timeout_graceful_shutdown=10,
    )


def _local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
