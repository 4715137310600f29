"""Splitting a question into simpler ones, by the model itself, so that frames can be chosen for each of them.

QuoTA (arXiv 2503.08689) decouples the question by a chain of thought before it scores frames, D-CoDe (arXiv 2510.08818)
splits it into sub-questions; both ask a language model. Here the model that will answer is asked, without any picture.
"""

from __future__ import annotations

import re

import torch

from .errors import InputError
from .load import Loaded

_ASK = (
    "Split the question about a video into at most {most} simpler questions, each about one thing that can be seen. "
    "Write one question a line and nothing else.\nQuestion: {question}"
)
_MARK = re.compile(r"^\s*(?:[-*\u2022]|\(?\d{1,2}[.):])\s*")


@torch.inference_mode()
def decompose(loaded: Loaded, question: str, most: int = 4, max_new_tokens: int = 96) -> list[str]:
    """Simpler questions that together ask what ``question`` asks; the question alone if the model has no others.

    most: how many at most. max_new_tokens: how long the model may write. Decoding is greedy.

    Raises:
        InputError: an empty question, or a number below 1.
    """
    if not isinstance(question, str) or not question.strip():
        raise InputError("the question is empty; ask something")
    if most < 1 or max_new_tokens < 1:
        raise InputError(f"'most' and 'max_new_tokens' must be at least 1. Got {most} and {max_new_tokens}.")
    prompt = loaded.prompt([{"role": "user", "content": _ASK.format(most=most, question=question.strip())}])
    out = loaded.model.generate(
        **prompt.inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
    )
    return parsed(loaded.decode(out[:, prompt.n :])[0], most) or [question.strip()]


def parsed(text: str, most: int) -> list[str]:
    """The lines of a model's answer that are questions, numbers and bullets removed, none twice."""
    found: list[str] = []
    for line in text.splitlines():
        line = _MARK.sub("", line).strip()
        if line.endswith("?") and len(line) > 2 and line not in found:
            found.append(line)
    return found[:most]
