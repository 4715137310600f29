"""From a conversation to the prompt that a plan wants: its methods of stage media have chosen the frames."""

from __future__ import annotations

from .choose import choose
from .load import Loaded
from .prompt import Messages, Prompt
from .report import Report
from .spec import Plan


def prompted(loaded: Loaded, messages: Messages, plan: Plan, frames: int) -> tuple[Prompt, Report]:
    """The prompt of one conversation, and what methods of stage media did, tokens being frames.

    messages: in transformers' chat format, the last one a question. frames: sampled from each video file.

    Raises:
        InputError, MediaError, SignalError: as :func:`foveate.choose.choose` and :func:`foveate.prompt.build`.
    """
    report = Report()
    if methods := plan.at("media"):
        messages = choose(loaded, messages, methods, frames, report, None)
    return loaded.prompt(messages, frames), report
