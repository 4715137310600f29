"""All that a run needs to go on, in one safetensors file that is replaced as a whole: no pickle, never half written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..atomic import replacing
from ..errors import InputError
from .optimise import Optimiser

KEY = "state"


def write(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write tensors and plain data; until that is done the file at ``path`` stays as it was."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part, {KEY: json.dumps(state)})


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`write` wrote.

    Raises:
        InputError: there is no such file, or it is not a checkpoint.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"there is no checkpoint at {path}; train without --resume")
    try:
        with safe_open(path, "pt") as file:
            state = json.loads((file.metadata() or {})[KEY])
            return {k: file.get_tensor(k) for k in file.keys()}, state  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path} is no checkpoint of the lab ({error}); train without --resume") from error


def pack(parts: dict[str, nn.Module], optimiser: Optimiser) -> dict[str, Tensor]:
    """Weights and the optimiser's moments by name."""
    out = {f"{part}/{k}": v for part, module in parts.items() for k, v in module.state_dict().items()}
    for part, module in parts.items():
        for name, p in module.named_parameters():
            for key, value in optimiser.moments(p).items():
                out[f"{key}/{part}/{name}"] = value
    return out


def unpack(tensors: dict[str, Tensor], parts: dict[str, nn.Module], optimiser: Optimiser | None) -> None:
    """The reverse of :func:`pack`. Without an optimiser only the weights are read.

    Raises:
        InputError: the checkpoint is of a model of other sizes.
    """
    for part, module in parts.items():
        own = {k.removeprefix(f"{part}/"): v for k, v in tensors.items() if k.startswith(f"{part}/")}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise InputError("the checkpoint is of a model of other sizes; train without --resume") from error
    if optimiser is None:
        return
    for part, module in parts.items():
        for name, p in module.named_parameters():
            keys = [k for k in ("step", "exp_avg", "exp_avg_sq", "momentum_buffer") if f"{k}/{part}/{name}" in tensors]
            if keys:
                optimiser.remember(p, {k: tensors[f"{k}/{part}/{name}"].to(p.device) for k in keys})
