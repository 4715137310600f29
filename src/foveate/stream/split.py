"""Which methods of a plan run when frames arrive, and which when a question is known."""

from __future__ import annotations

from typing import Any

from ..errors import PlanError
from ..spec import Plan

_WORDS = {"text", "text_embeds"}
#: What is still known of remembered tokens when a question comes.
_KEPT = {"features", "grid", "times", "size", "text"}


def asks(m: Any) -> bool:
    """Whether a method decides by the question."""
    return any(set(need.split("|")) <= _WORDS for need in m.card.needs)


def blind(m: Any) -> Any:
    """The method as it decides without a question: itself, its own ``blind()``, or None where there is no such form."""
    if not asks(m):
        return m
    return m.blind() if hasattr(m, "blind") else None


def split(plan: Plan, known: bool = False) -> tuple[Plan, Plan]:
    """(what runs while encoding, what runs while answering).

    Methods of the encoder, and of the inputs as long as they need no question, run once, when the frames are encoded.
    Those that decide by the question have a form without it, or wait for the question, as do all inputs methods after
    them. known: the question is there while encoding (an index for one question), so nothing has to wait.

    Raises:
        PlanError: a method chooses among all frames of a video, or would have to wait for the question and then needs
            what only the encoder can tell.
    """
    if media := plan.at("media"):
        raise PlanError(
            f"{media[0].name} chooses among all frames of a video, which are never there together here; "
            "leave it out and say how many frames a second are to be seen"
        )
    first: list[Any] = plan.at("encoder")
    late: list[Any] = []
    for m in plan.at("inputs"):
        form = m if known else blind(m)
        if late or form is None:
            late.append(m)
        else:
            first.append(form)
    for m in late:
        if lacking := [need for need in m.card.needs if not set(need.split("|")) & _KEPT]:
            raise PlanError(
                f"{m.name} runs when the question is known and then needs {lacking[0].replace('|', ' or ')}, which is "
                "gone with the frames; use a method that does not need the question, or foveate.ask on the whole video"
            )
    rest = [m for m in plan if m.stage not in ("encoder", "inputs", "media")]
    return Plan.of(first), Plan.of([*late, *rest])
