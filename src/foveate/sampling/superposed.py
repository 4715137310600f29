"""Superposed decoding: several drafts for one forward a token, by feeding the mixture of their last tokens.

Shen et al., "Superposed Decoding: Multiple Generations from a Single Autoregressive Inference Pass", NeurIPS 2024.
https://arxiv.org/abs/2405.18400

A model is nearly linear in a mixture of embeddings that stand at the same place: fed the weighted mean of the drafts'
last tokens it answers with about the mixture of what it would say after each. n-gram models say which token fits which
draft. The drafts share one cache, so they are approximations and their scores are not the model's own probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .ngrams import NGrams

NONE = -1e9  # score of a place among the finished drafts that is empty
EOS = -1e7  # added to a draft that has ended, so that it does not go on


@dataclass(frozen=True)
class Drafts:
    """What came of it.

    Attributes:
        ids: (B, k, n) int64 drafts that are still running, best first, -1 after their end of the prompt's padding.
        scores: (B, k) float32 sums of mixed log-probabilities.
        finished: (B, k, n) int64 drafts that reached the end token, -1 behind it; rows of -2 where there is none.
        finished_scores: (B, k) float32, -1e9 where there is none.
        fed: (steps - 1, B, V) what each forward after the first was fed: the weight of each token.
        forwards: of the model.
    """

    ids: Tensor
    scores: Tensor
    finished: Tensor
    finished_scores: Tensor
    fed: Tensor = field(repr=False)
    forwards: int

    def perplexity(self, prompt: int) -> Tensor:
        """(B, k) of the running drafts, over all tokens after the shortest prompt's ``prompt``."""
        return (-self.scores / (self.ids.shape[-1] - prompt)).exp()


@dataclass(frozen=True)
class Options:
    """k drafts; ``top`` tokens looked at; weight ``alpha`` of the n-grams; ``penalty`` of a draft they never saw."""

    drafts: int = 3
    top: int = 9
    alpha: float = 0.54
    temperature: float = 1.0
    penalty: float = 200.0
    ngrams: NGrams | None = None


@torch.no_grad()
def superpose(
    model: Any,
    ids: Tensor,
    *,
    drafts: int = 3,
    length: int = 20,
    ngrams: NGrams | None = None,
    alpha: float = 0.54,
    top: int = 9,
    temperature: float = 1.0,
    penalty: float = 200.0,
    eos_id: int | None = None,
) -> Drafts:
    """Write ``drafts`` continuations of each prompt in ``length`` forwards.

    Args:
        model: a decoder of transformers that takes ``inputs_embeds``.
        ids: (B, P) int64 prompts, those that are shorter filled up with -1 on the right.
        ngrams: the filter; None ranks by the model alone.
        alpha: weight of the n-grams in a draft's score. top: tokens looked at. temperature: of the model.
        penalty: what a draft loses where the n-grams know no continuation of it.
        eos_id: None takes the model's.

    Raises:
        InputError: a value out of range.
    """
    end = model.generation_config.eos_token_id if eos_id is None else eos_id
    end = end[0] if isinstance(end, list | tuple) else end
    options = Options(drafts, top, alpha if ngrams is not None else 0.0, temperature, penalty, ngrams)
    state: dict[str, Any] = {"past_key_values": None}
    table = model.get_input_embeddings()

    def first(tokens: Tensor) -> Tensor:
        out = model(input_ids=tokens, use_cache=True)
        state["past_key_values"] = out.past_key_values
        return torch.as_tensor(out.logits[:, -1]).float()

    def mixed(weights: Tensor) -> Tensor:
        share, tokens = weights.topk(min(drafts, weights.shape[-1]))
        embeds = (table(tokens) * share[..., None].to(table(tokens).dtype)).sum(1, keepdim=True)
        out = model(inputs_embeds=embeds, use_cache=True, **state)
        state["past_key_values"] = out.past_key_values
        return torch.as_tensor(out.logits[:, -1]).float()

    return run(first, mixed, ids, length, -1 if end is None else int(end), options)


def run(
    first: Callable[[Tensor], Tensor],
    mixed: Callable[[Tensor], Tensor],
    ids: Tensor,
    length: int,
    eos_id: int,
    options: Options,
) -> Drafts:
    """The search itself. first: ids (B, n) -> logits (B, V); mixed: weights of tokens (B, V) -> logits (B, V)."""
    if ids.ndim != 2 or length < 1 or options.drafts < 1 or options.top < 1 or not options.temperature > 0:
        raise InputError(
            "superposed decoding needs ids (rows, tokens), and length, drafts, top and temperature above 0. "
            f"Got {tuple(ids.shape)}, {length}, {options.drafts}, {options.top}, {options.temperature}."
        )
    lengths = (ids >= 0).sum(-1).tolist()
    at, total = min(lengths), ids.shape[1] + length
    rows = [_Row(ids[b, :n].tolist(), options, eos_id) for b, n in enumerate(lengths)]
    logits, fed = first(ids[:, :at]), []
    for place in range(at, total):
        weights = torch.zeros_like(logits)
        for b, row in enumerate(rows):
            if place < lengths[b]:  # still inside its prompt: its own token is fed
                weights[b, ids[b, place]] = 1.0
            else:
                row.step(logits[b])
                weights[b] = row.weights(logits.shape[-1], logits.device)
        if place + 1 < total:
            fed.append(weights)
            logits = mixed(weights)
    return Drafts(
        torch.stack([_table(r.texts, total, -1) for r in rows]).to(ids.device),
        torch.stack([r.scores for r in rows]),
        torch.stack([_table(r.finished, total, -2, options.drafts) for r in rows]).to(ids.device),
        torch.stack([r.finished_scores for r in rows]),
        torch.stack(fed) if fed else logits.new_zeros(0, *logits.shape),
        total - at,
    )


class _Row:
    """The drafts of one prompt."""

    def __init__(self, prompt: list[int], options: Options, eos_id: int) -> None:
        self.options, self.eos_id = options, eos_id
        self.texts = [list(prompt) for _ in range(options.drafts)]
        self.scores = torch.zeros(options.drafts)
        self.finished: list[list[int]] = []
        self.finished_scores = torch.full((options.drafts,), NONE)
        self.begun = False

    def step(self, logits: Tensor) -> None:
        """Extend all drafts by one token. logits (V,)."""
        k, options = self.options.drafts, self.options
        p, tokens = (logits / options.temperature).softmax(-1).topk(min(options.top, len(logits)))
        log_p, known = (p / p.sum()).log().cpu(), tokens.tolist()
        scores = torch.stack([self.scores[d] + self._scored(d, log_p, known) for d in range(k if self.begun else 1)])
        self.begun = True
        best, index = scores.flatten().topk(min(2 * k, scores.numel()))
        made = [(self.texts[i // len(known)], known[i % len(known)]) for i in index.tolist()]
        ended = torch.tensor([t == self.eos_id for _, t in made])
        self._finish(made, best, ended)
        best = best + EOS * ended
        if len(best) < k:
            raise InputError(f"{k} drafts need at least {k} candidate tokens; make top larger than {options.top}")
        self.scores, alive = best.topk(k)
        self.texts = [[*made[i][0], made[i][1]] for i in alive.tolist()]

    def _scored(self, d: int, log_p: Tensor, tokens: list[int]) -> Tensor:
        """What each token adds to the score of draft d: log p, and log of what the n-grams say of it."""
        if self.options.ngrams is None:
            return log_p
        alpha = self.options.alpha
        q = torch.tensor(self.options.ngrams(self.texts[d], tokens))
        if not bool(q.any()):
            return (1 - alpha) * log_p - self.options.penalty
        return (1 - alpha) * log_p + alpha * q.log()

    def _finish(self, made: list[tuple[list[int], int]], scores: Tensor, ended: Tensor) -> None:
        """Keep the best k of the drafts that ended before and now."""
        new = [(float(s), [*text, t]) for (text, t), s, e in zip(made, scores, ended.tolist()) if e and s > -math.inf]
        old = [(float(s), text) for s, text in zip(self.finished_scores, self.finished)]
        both = sorted(old + new, key=lambda pair: -pair[0])[: self.options.drafts]
        self.finished = [text for _, text in both]
        self.finished_scores = torch.tensor([s for s, _ in both] + [NONE] * (self.options.drafts - len(both)))

    def weights(self, vocabulary: int, device: torch.device) -> Tensor:
        """(V,) what is fed next: the softmax of the drafts' scores, on their last tokens."""
        last = torch.tensor([text[-1] for text in self.texts])
        out = torch.zeros(vocabulary).scatter_add(0, last, self.scores.softmax(-1))
        return (out / out.sum()).to(device)


def _table(texts: list[list[int]], width: int, empty: int, rows: int | None = None) -> Tensor:
    """Texts as one table (rows, width), -1 behind each, rows of ``empty`` where there is none."""
    out = torch.full((len(texts) if rows is None else rows, width), empty)
    for i, text in enumerate(texts):
        out[i] = -1
        out[i, : len(text)] = torch.tensor(text)
    return out
