"""The one entry: relevance of each visual token of a prompt, by the method named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor

from ..errors import InputError
from ..prompt import Prompt
from .case import opened
from .gradient import explain, grad_input
from .intra import intra
from .reagent import reagent
from .rollout import rollout

#: Methods by name, and whether they read attention maps.
HOW: dict[str, tuple[Callable[..., Tensor], bool]] = {
    "grad_input": (grad_input, False),
    "explain": (explain, True),
    "rollout": (rollout, True),
    "reagent": (reagent, False),
    "intra": (intra, False),
}


def relevance(
    model: Any,
    inputs: Mapping[str, Any] | Prompt,
    how: Literal["grad_input", "explain", "rollout", "reagent", "intra"] = "grad_input",
    *,
    target: int | None = None,
    grid: tuple[int, int, int] | None = None,
    **options: Any,
) -> Tensor:
    """A score for each visual token of one prompt, in the order of their positions; higher is more relevant.

    Args:
        model: a transformers model, or what :func:`foveate.load` gave. It is left exactly as it came.
        inputs: a prompt of batch 1, as :class:`foveate.prompt.Prompt` or as what the model's forward takes.
        how: "grad_input", "explain", "rollout", "reagent" or "intra"; see the functions of these names.
        target: id of the token whose prediction is explained; None for the one that the model says next.
        grid: (t, h, w) of the visual tokens, for "intra", where ``inputs`` does not tell.
        options: what the method takes besides.

    Returns:
        (n,) float32 on the model's device.

    Raises:
        InputError: an unknown method, more than one prompt, or a prompt without visual tokens.
        UnsupportedModelError: the model looks at no images.
    """
    if how not in HOW:
        raise InputError(f"'how' must be one of {', '.join(HOW)}. Got {how!r}.")
    score, eager = HOW[how]
    with opened(model, inputs, target, eager, grid) as case:
        return score(case, **options)
