"""Where all chance comes from: train and test draw from seed spaces that cannot meet."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable
from random import Random

from ...errors import InputError

SPLITS = ("train", "test")


def known(what: str, name: str, names: Iterable[str]) -> None:
    """Refuse a name that is not among ``names``, naming the nearest one.

    Raises:
        InputError: it is not.
    """
    names = list(names)
    if name not in names:
        near = difflib.get_close_matches(str(name), names, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
        raise InputError(f"no {what} called {name!r}; {hint}")


def chance(split: str, *parts: object) -> Random:
    """The generator of one scene. Its seed is even for train and odd for test, so no scene belongs to both.

    Raises:
        InputError: a split other than "train" and "test".
    """
    known("split", split, SPLITS)
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return Random(2 * int.from_bytes(digest) + SPLITS.index(split))
