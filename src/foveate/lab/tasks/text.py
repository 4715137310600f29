"""Tasks without pictures: a code told once in a long text, and copying."""

from __future__ import annotations

import string
from random import Random

from .turn import Turn
from .words import ADJECTIVES, ASK, CODE, FILLER, NOUNS, VERBS


def recall(rng: Random, length: int, difficulty: float) -> tuple[str, list[Turn]]:
    """A text of about ``length`` words among which codes are told, and a question for each code."""
    codes = rng.sample(NOUNS, 1 + round(3 * difficulty))
    told = {noun: "".join(rng.choices(string.ascii_uppercase, k=4)) for noun in codes}
    lines: list[str] = []
    while sum(len(line.split()) for line in lines) < length - 7 * len(codes):
        a, b, c = rng.sample([n for n in NOUNS if n not in told], 3)
        form, adjective, verb = rng.choice(FILLER), rng.choice(ADJECTIVES), rng.choice(VERBS)
        lines.append(form.format(adjective=adjective, noun=a, verb=verb, other=b, third=c))
    for noun, code in told.items():
        lines.insert(rng.randint(0, len(lines)), CODE.format(noun=noun, code=code))
    turns = [Turn(ASK["recall"][0].format(noun=noun), code, "recall") for noun, code in told.items()]
    return " ".join(lines), turns


def copy(rng: Random, length: int) -> Turn:
    """Words, or letters, to be said again."""
    letters = rng.random() < 0.5
    text = "".join(rng.choices(string.ascii_uppercase, k=length)) if letters else " ".join(rng.choices(NOUNS, k=length))
    return Turn(ASK["copy"][0].format(text=text), text, "copy")
