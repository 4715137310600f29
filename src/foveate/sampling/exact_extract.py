"""Exact-extract: the most probable span of a given passage as the answer, found without trying all of them.

Castel et al., "How Optimal is Greedy Decoding for Extractive Question Answering?", 2021.
https://arxiv.org/abs/2108.05857

Greedy decoding may answer with words that are not in the passage, or with a span that is not the most probable one. A
longer span is never more probable than its beginning, so a best-first search over the spans, equal ones taken together,
may stop as soon as no unfinished one is more probable than the best finished one: the answer is exact.

Departure: the paper scores every suffix of the passage in one forward each; this search asks only for the beginnings
that can still win, several in one forward.
"""

from __future__ import annotations

import copy
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

#: beginnings of spans -> log-probabilities of what follows each, (k, V)
Score = Callable[[Sequence[tuple[int, ...]]], Tensor]


@dataclass(frozen=True)
class Span:
    """The answer: its tokens, its first place in the passage, its log-probability with the end, and the forwards."""

    ids: tuple[int, ...]
    start: int
    score: float
    forwards: int


@torch.no_grad()
def exact_extract(
    model: Any,
    ids: Tensor,
    passage: Sequence[int] | Tensor,
    *,
    longest: int = 30,
    end_id: int | None = None,
    batch: int = 16,
    **inputs: Any,
) -> Span:
    """The most probable answer among all spans of ``passage`` of 1 to ``longest`` tokens.

    model: a decoder of transformers. ids: (1, P) int64, the prompt that the answer follows. passage: its tokens, as the
    answer would be written. end_id: None takes the model's end tokens. batch: beginnings scored in one forward.
    inputs: more arguments of the prompt's forward, such as pixel_values.

    Raises:
        InputError: an empty passage, more than one prompt, or no end token.
    """
    end = model.generation_config.eos_token_id if end_id is None else end_id
    if end is None:
        raise InputError("no end token is known, so a span cannot end; give end_id=...")
    if ids.ndim != 2 or len(ids) != 1:
        raise InputError(f"exact-extract answers one prompt at a time: ids (1, P). Got {tuple(ids.shape)}.")
    out = model(input_ids=ids, use_cache=True, **inputs)
    first, read = out.logits[:, -1].float().log_softmax(-1), out.past_key_values

    def score(spans: Sequence[tuple[int, ...]]) -> Tensor:
        """All of one length."""
        if not spans[0]:
            return torch.as_tensor(first.expand(len(spans), -1))
        cache = copy.deepcopy(read)
        cache.batch_repeat_interleave(len(spans))
        tokens = torch.tensor(spans, device=ids.device)
        logits = model(input_ids=tokens, past_key_values=cache, use_cache=True).logits[:, -1]
        return torch.as_tensor(logits.float().log_softmax(-1))

    known = passage.tolist() if isinstance(passage, Tensor) else list(passage)
    return search(score, known, [end] if isinstance(end, int) else list(end), longest, batch)


def search(score: Score, passage: Sequence[int], ends: Sequence[int], longest: int, batch: int = 16) -> Span:
    """The search over any model. score is asked for spans of one length at a time."""
    if not passage or longest < 1 or batch < 1:
        raise InputError(
            f"give a passage, and longest and batch above 0. Got {len(passage)} tokens, {longest}, {batch}."
        )
    best, forwards = Span((), -1, -torch.inf, 0), 0
    # (-log-probability, first place, tokens, places in the passage that follow): the first of equals wins
    heap: list[tuple[float, int, tuple[int, ...], list[int]]] = [(0.0, 0, (), list(range(len(passage))))]
    while heap and -heap[0][0] > best.score:
        taken = [heapq.heappop(heap)]
        while heap and len(taken) < batch and -heap[0][0] > best.score and len(heap[0][2]) == len(taken[0][2]):
            taken.append(heapq.heappop(heap))
        log_p, forwards = score([tokens for _, _, tokens, _ in taken]), forwards + 1
        for (cost, at, tokens, after), said in zip(taken, log_p):
            done = -cost + float(said[list(ends)].logsumexp(0))
            if tokens and (done > best.score or (done == best.score and at < best.start)):
                best = Span(tokens, at, done, 0)
            if len(tokens) == longest:
                continue
            places: dict[int, list[int]] = {}
            for place in after:
                if place < len(passage):
                    places.setdefault(passage[place], []).append(place)
            for token, here in places.items():
                total = -cost + float(said[token])
                if total > best.score:
                    more = (-total, here[0] - len(tokens), (*tokens, token), [place + 1 for place in here])
                    heapq.heappush(heap, more)
    return Span(best.ids, best.start, best.score, forwards)
