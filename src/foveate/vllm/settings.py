"""The plan of an engine, and what a request may change of it. vLLM is not imported here."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import OptionError, PlanError
from ..method import Keep
from .rule import rule_of

#: Fields of the model's config, as ``hf_overrides`` sets them; the first may come from the environment instead.
PLAN, KEEP = "foveate_plan", "foveate_keep"
VARIABLE = "FOVEATE_PLAN"
#: The one entry of ``mm_processor_kwargs`` that reaches the media processor, made by :func:`request`.
KEY = "foveate"


def engine(config: Any, family: str = "", environment: Mapping[str, str] | None = None) -> str | None:
    """The plan of an engine as text, None where there is none.

    config: the model's config; family: its model type. Its fields win over the environment.

    Raises:
        PlanError, OptionError, SignalError: a plan that cannot run in vLLM, or a keep without a plan.
    """
    environment = os.environ if environment is None else environment
    plan, keep = getattr(config, PLAN, None), getattr(config, KEEP, None)
    plan = plan or environment.get(VARIABLE, "").strip() or None
    if plan is None:
        if keep is not None:
            raise PlanError(f"{KEEP}={keep!r} is set, and no plan; set {PLAN} (or {VARIABLE}) as well")
        return None
    return str(rule_of(plan, _keep(keep), family))


def request(plan: str | None, asked: Mapping[str, Any], ids: Sequence[int], pads: Sequence[int]) -> dict[str, Any]:
    """``mm_processor_kwargs`` of a request with what is foveate's in them resolved to the one entry ``KEY``.

    That entry holds the plan with the request's keep, and the words of the prompt where the method decides by them.
    It is part of what media are cached by.

    Args:
        plan: the engine's.
        asked: what the request sent.
        ids: its prompt, and ``pads`` those ids among them that stand for media.

    Raises:
        OptionError, PlanError: an entry that is not known, a keep out of range, or one although there is no plan.
    """
    own = {k: v for k, v in asked.items() if k.startswith(KEY)}
    rest = {k: v for k, v in asked.items() if k not in own}
    if unknown := sorted(set(own) - {KEEP}):
        raise OptionError(f"a request can set {KEEP} alone. Got {unknown[0]!r}.")
    if plan is None:
        if own:
            raise PlanError(f"this engine runs without a plan, so {KEEP} has no meaning; start it with {PLAN}")
        return rest
    rule = rule_of(plan, _keep(own.get(KEEP)))
    words = [i for i in ids if i not in set(pads)] if rule.words else []
    return {**rest, KEY: json.dumps([str(rule), words])}


def resolved(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, list[int]] | None]:
    """Take apart what :func:`request` made: the rest, and plan and words; None where there is no plan."""
    rest = {k: v for k, v in kwargs.items() if k != KEY}
    if KEY not in kwargs:
        return rest, None
    plan, words = json.loads(kwargs[KEY])
    return rest, (plan, words)


def _keep(value: Any) -> float | int | None:
    check = Keep()
    if value is not None and not check.fits(value):
        raise OptionError(f"'{KEEP}' must be {check}. Got {value!r}.")
    keep: float | int | None = value
    return keep
