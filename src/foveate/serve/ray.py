"""``foveate serve`` on a Ray cluster: every replica holds a model of its own, and Ray Serve hands out the requests.

    serve run foveate.serve.ray:application model=Qwen/Qwen2.5-VL-3B-Instruct plan="foveal(keep=0.2)" replicas=4 gpus=1

Needs ``pip install 'foveate[serve,ray]'``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, MissingExtraError
from .settings import Settings

_TAKES = "model, plan, name, dtype, device, key, replicas, cpus and gpus"


class Replica:
    """What Ray asks beside HTTP; the ASGI application comes in by ``serve.ingress``."""

    app: Any

    def check_health(self) -> None:
        """Called by Ray now and then; raising has the replica replaced.

        Raises:
            RuntimeError: the thread that owns the model has ended.
        """
        if not self.app.state.server.engine.alive:
            raise RuntimeError("the engine does not run")


def deployment(
    model: str | Path,
    plan: Any = None,
    *,
    settings: Settings | None = None,
    name: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    replicas: int = 1,
    cpus: float = 1,
    gpus: float = 0,
    **options: Any,
) -> Any:
    """A bound Ray Serve application for ``ray.serve.run``; each replica loads the model and answers as one server.

    Args:
        model: built-in name, folder or hub id, which every node must be able to read. plan, settings, name: as for
            :func:`foveate.serve.create_app`. dtype, device: as for :func:`foveate.load`.
        replicas: how many. cpus, gpus: of one replica.
        options: others of ``ray.serve.deployment``, such as ``autoscaling_config``, which takes the place of replicas.

    Places, limits and what earlier requests left are each replica's own: a next turn is read anew when it comes to
    another replica than the first.

    Raises:
        MissingExtraError: Ray Serve is not installed.
        InputError: a number that makes no sense.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        from ray import serve
    except ImportError as error:
        raise MissingExtraError("this needs Ray Serve; install it with: pip install 'foveate[serve,ray]'") from error
    if replicas < 1 or cpus < 0 or gpus < 0:
        raise InputError(
            f"'replicas' must be at least 1, 'cpus' and 'gpus' at least 0. Got {replicas}, {cpus} and {gpus}."
        )
    limits = settings or Settings()
    where = str(Path(model).resolve()) if Path(model).is_dir() else str(model)

    def build() -> Any:
        from ..load import load
        from .app import create_app

        return create_app(load(where, dtype=dtype, device=device), plan, settings=limits, name=name)

    if "autoscaling_config" not in options:
        options["num_replicas"] = replicas
    # more than a server's own places, so that it turns requests away itself before Ray holds them back
    options.setdefault("max_ongoing_requests", 2 * (limits.running + limits.waiting))
    options.setdefault("ray_actor_options", {"num_cpus": cpus, "num_gpus": gpus})
    return serve.deployment(serve.ingress(build)(Replica), name="foveate", **options).bind()


def application(args: Mapping[str, str]) -> Any:
    """For ``serve run foveate.serve.ray:application model=... plan=...``: the same, of arguments that are texts.

    Raises:
        InputError: no model, an argument that is not known, or a number that is none.
    """
    given = dict(args)
    model, key = given.pop("model", ""), given.pop("key", "")
    if not model:
        raise InputError(f"say which model: serve run foveate.serve.ray:application model=NAME; it takes {_TAKES}")
    if unknown := sorted(set(given) - set(_TAKES.replace(" and", ",").split(", "))):
        raise InputError(f"{unknown[0]!r} is no argument here; it takes {_TAKES}")
    numbers: dict[str, Any] = {}
    for what, kind in (("replicas", int), ("cpus", float), ("gpus", float)):
        if what in given:
            text = given.pop(what)
            try:
                numbers[what] = kind(text)
            except ValueError as error:
                raise InputError(f"{what!r} is a number. Got {text!r}.") from error
    rest: dict[str, Any] = {**given, **numbers}
    return deployment(model, settings=Settings(keys=(key,) if key else ()), **rest)
