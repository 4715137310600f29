"""Tokens to text while they are written: whole characters only, and nothing past a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_UNFINISHED = "\ufffd"  # what a tokenizer puts for bytes that are no character yet
_MOST = 4  # bytes of a character


class Words:
    """The text of one answer.

    Attributes:
        ids: the tokens so far.
        stopped: whether a stop string came; it and what follows are not part of the text.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self.tokenizer, self.stops = tokenizer, [s for s in stops if s]
        self.ids: list[int] = []
        self.stopped = False
        self._before = self._shown = 0  # tokens that give context, and tokens whose text was taken
        self._held = ""  # text that may yet turn out to begin a stop string

    def add(self, token: int) -> str:
        """Take in a token; returns the text that is now certain."""
        self.ids.append(token)
        return self._certain(self._new(False))

    def end(self) -> str:
        """The rest of the text, after the last token."""
        if self.stopped:
            return ""
        out = self._certain(self._new(True))
        rest, self._held = self._held, ""
        return out if self.stopped else out + rest

    def _new(self, last: bool) -> str:
        old = self._text(self.ids[self._before : self._shown])
        new = self._text(self.ids[self._before :])
        waits = new.endswith(_UNFINISHED) and len(self.ids) - self._shown < _MOST
        if len(new) <= len(old) or (waits and not last):
            return ""
        self._before, self._shown = self._shown, len(self.ids)
        return new[len(old) :]

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""

    def _certain(self, more: str) -> str:
        text = self._held + more
        found = [at for s in self.stops if (at := text.find(s)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, s) for s in self.stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of the text begin the stop string."""
    return next((k for k in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:k])), 0)
