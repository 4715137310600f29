"""One token that speaks for its frame: which ones a bounded memory holds, and who may see them."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import normalize


def remember(carriers: Tensor, limit: int) -> tuple[list[int], list[int]]:
    """A memory that frames enter one by one. carriers (T, D) -> frames left, and the place given up at each step.

    Whenever the memory holds ``limit`` carriers, the adjacent pair with the largest cosine loses its earlier member
    (the first of equal pairs); a step at which nothing leaves gives -1.
    """
    unit = normalize(carriers.float(), dim=-1)
    like = (unit @ unit.mT).tolist()
    held: list[int] = []
    gone = []
    for t in range(len(carriers)):
        held.append(t)
        place = -1
        if len(held) >= max(2, limit):
            pairs = [like[a][b] for a, b in pairwise(held)]
            place = pairs.index(max(pairs))
            del held[place]
        gone.append(place)
    return held, gone


def carrier_mask(part: Tensor, carrier: Tensor) -> Tensor:
    """Who sees whom when frames are read through their carriers. (L, L) bool, True where a row may see a column.

    part (L,) int64: -1 for the system prompt, 0, 1, ... for the frames, and a number of its own for the text after
    them; carrier (L,) bool. All see the system prompt, their own part and every carrier, as far as they come earlier.
    """
    at = torch.arange(len(part), device=part.device)
    shared = (part < 0) | carrier
    return (at[:, None] >= at) & (shared | (part[:, None] == part))
