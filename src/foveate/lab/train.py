"""Train a lab model: ``foveate lab train image --minutes 240``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..builtin import WEIGHTS
from ..errors import InputError
from ..load import load
from ..prompt import Progress
from . import models, record
from .evaluate import evaluate
from .loop import FOLDER, Recipe, Run, Tell
from .schedule import Budget

SEED = 77_000_001  # of the items in the model card


@dataclass(frozen=True)
class Outcome:
    """folder: of the model. finished: False when a signal came first. result: of the evaluation, as plain data."""

    folder: Path
    finished: bool
    steps: int
    seconds: float
    result: dict[str, Any] | None = None


def train(
    recipe: Recipe | str,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    out: str | Path | None = None,
    device: str | torch.device | None = None,
    resume: bool = False,
    items: int = 400,
    tell: Tell | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Train a model and write its folder: weights, processor, card, curves and log.

    Args:
        recipe: "image", "video", or a :class:`Recipe`.
        minutes: to train for, without the evaluation at the end; or steps: to train for, the same on every machine.
        out: the folder; None for where ``foveate.load("lab/image")`` looks.
        device: None takes a GPU if there is one.
        resume: go on from the folder's last checkpoint; minutes and steps count from the very start of the run.
        items: asked at the end, for the card.
        tell, progress: called while training, and while evaluating.

    Raises:
        InputError: neither or both of minutes and steps, a folder that holds another run, or nothing to resume.
    """
    recipe = Recipe(models.known(recipe)) if isinstance(recipe, str) else recipe
    models.known(recipe.kind)
    if (minutes is None) == (steps is None):
        raise InputError("give either 'minutes' or 'steps'")
    if (minutes is not None and not minutes > 0) or (steps is not None and steps < 2):
        raise InputError(
            f"'minutes' must be above 0, and 'steps' at least 2. Got {minutes if steps is None else steps}."
        )
    folder = Path(out) if out is not None else WEIGHTS / recipe.kind
    if not resume and (folder / FOLDER / "checkpoint.safetensors").is_file():
        raise InputError(f"{folder} holds a run already; go on with --resume, or choose another --out")
    place = _device(device)
    budget = Budget(None if minutes is None else 60 * minutes, steps)
    run = Run(recipe, budget, folder, place, tell)
    if resume:
        run.resume()
    finished = run.go()
    seconds = sum(s["seconds"] for s in run.state.spent.values())
    taken = sum(int(s["steps"]) for s in run.state.spent.values())
    _curves(run, folder, {})
    if not finished:
        return Outcome(folder, False, taken, seconds)
    models.save(run.model, recipe.kind, recipe.size, folder)
    loaded = replace(load(folder, device=place), name=f"lab/{recipe.kind}")
    result = evaluate(loaded, seed=SEED, n=items, progress=progress).as_dict()
    _curves(run, folder, result)
    parameters = sum(p.numel() for p in run.model.parameters())
    text = record.card(recipe.kind, parameters, run.state.spent, record.compute(place), result)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return Outcome(folder, True, taken, seconds, result)


def _curves(run: Run, folder: Path, result: dict[str, Any]) -> None:
    state = run.state
    told = {
        **run.recipe.identity,
        "torch": torch.__version__,
        "machine": record.compute(run.device),
        "stages": state.spent,
        "skipped_steps": state.skipped,
        "evaluation": result or None,
        "history": state.history,
    }
    record.write_log(folder / "log.json", told)
    if state.history:
        record.draw_curves(folder / "loss.png", state.history)


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"no device {str(device)!r} here: {' '.join(str(error).split())[:200]}") from error
    return place


__all__ = ["Outcome", "Recipe", "train"]
