"""M-RoPE positions of a prompt whose media are shortened: kept tokens stand where they stood in the full one.

An engine asks for positions before anything is encoded. Words are known then, also those behind an image of which only
a prefix cache still knows. Which visual tokens stay is not, so for these it is noted from where their item counts, and
they are filled in, piece by piece as the prompt is read, from what their rows carry. vLLM is not imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .layout import Layout

#: Columns of the table behind the positions: first (delta, items, mark), then (offset, length, base) of each item.
MARK = -7


@dataclass(frozen=True)
class Span:
    """Where an item stands in a prompt: ``length`` tokens from ``offset``."""

    offset: int
    length: int
    layout: Layout


def ahead(n: int, spans: Sequence[Span], table: bool = True) -> tuple[Tensor, int]:
    """Positions of a prompt of n tokens before anything is encoded.

    Tokens of an item hold minus one minus the position from where it counts, in every row; words hold their own.

    Args:
        table: whether to add the columns that :func:`fill` finds the items by. An engine that hands over the first n
            columns alone does not want them; positions are then filled in by what is not yet filled.

    Returns:
        (3, n) int64, or (3, n + 1 + items) with the table; and what is added to a later token's number to get its
        position: answers go on from the last word, as transformers' ``generate`` counts.

    Raises:
        InputError: items that overlap, or reach out of the prompt.
    """
    positions = torch.zeros(n, dtype=torch.int64)
    at = stood = 0
    rows = []
    for span in sorted(spans, key=lambda s: s.offset):
        if span.offset < at or span.offset + span.length > n:
            raise InputError(f"an item at {span.offset} of {span.length} tokens does not fit a prompt of {n}")
        positions[at : span.offset] = torch.arange(span.offset - at) + stood
        stood += span.offset - at
        at = span.offset + span.length
        positions[span.offset : at] = -1 - stood
        rows.append((span.offset, span.length, stood))
        stood += span.layout.advance
    positions[at:] = torch.arange(n - at) + stood
    delta = stood - at
    out = positions.expand(3, -1)
    if table:
        out = torch.cat([out, torch.tensor([(delta, len(rows), MARK), *rows], dtype=torch.int64).T], 1)
    return out.contiguous(), delta


def fill(positions: Tensor, n: int, rows: Sequence[Tensor], start: int) -> tuple[Tensor, int]:
    """Put in what the rows of a piece of the prompt carry.

    Args:
        positions: as :func:`ahead` gave them, with or without the table; what was filled in before may be there.
        n: tokens in the prompt.
        rows: of each item in the piece the rows that lie in it, (L, 4) as :func:`foveate.vllm.columns.read` gives them.
        start: tokens of the prompt before the piece. A drafter that looks one token ahead may leave out the first row.

    Returns:
        The positions, and the delta as :func:`ahead` returns it. Without a table it follows from the last token, which
        is the same where a prompt ends with a word.

    Raises:
        InputError: rows that belong nowhere.
    """
    out = positions.clone()
    if positions.shape[1] > n:
        delta, items, mark = (int(v) for v in positions[:, n])
        if mark != MARK:
            raise InputError(f"these positions are not those of a prompt of {n} tokens")
        spans = positions[:, n + 1 : n + 1 + items].T.tolist()
        for carried in rows:
            first = int(carried[0, 3])
            while spans and (spans[0][0] + first < start or first + len(carried) > spans[0][1]):
                spans.pop(0)
            if not spans:
                raise InputError(
                    f"rows {first} to {first + len(carried) - 1} of an item are not in the piece at {start}"
                )
            offset, _, base = spans.pop(0)
            out[:, offset + first : offset + first + len(carried)] = carried[:, :3].T.to(out) + base
        return out, delta
    empty = (out[0] < 0).nonzero()[:, 0]
    empty = empty[empty >= start]
    carried = torch.cat([*rows, torch.zeros(0, 4, dtype=torch.int64)]).to(out.device)
    if len(empty) < len(carried):
        raise InputError(f"{len(carried)} rows came for {len(empty)} tokens without a position")
    at = empty[: len(carried)]
    out[:, at] = carried[:, :3].T.to(out) - 1 - out[:, at]
    return out, int(out[:, -1].max()) + 1 - n
