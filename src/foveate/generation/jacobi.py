"""Speculative Jacobi decoding: guess many tokens at once, keep those that the model would have drawn as well.

Teng et al., "Accelerating Auto-regressive Text-to-Image Generation with Training-free Speculative Jacobi Decoding",
ICLR 2025. https://arxiv.org/abs/2410.01699

A window of guesses is read in one forward. Each guess was drawn from a known distribution q, and the forward gives the
distribution p that follows the tokens before it, so the rule of speculative sampling applies: kept with probability
min(1, p / q), else drawn anew from what q left out. What stands behind the first rejection is drawn from this forward's
p and guessed again in the next. No draft model, no training; with temperature 0 it is Jacobi decoding, and the text is
the greedy one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..errors import InputError
from ..parts.verify import accept, accept_greedy, draw

STARTS = ("random", "left", "above")
#: tokens (1, k) to read on, and how many of those read last to forget before -> logits (k, V) after each
Read = Callable[[Tensor, int], Tensor]


class Step(NamedTuple):
    """One check of a window.

    Attributes:
        matched: (B,) int64, tokens that are final now, at least 1.
        tokens: (B, L) int64, the final ones first, then the next guesses.
        scores: (B, L, V) the distributions that the guesses were drawn from.
        residual: (B, V) what the token at the first rejection was drawn from; zeros where nothing was rejected.
    """

    matched: Tensor
    tokens: Tensor
    scores: Tensor
    residual: Tensor


def check(guesses: Tensor, q: Tensor, p: Tensor, drawn: Tensor, uniform: Tensor, last: Tensor) -> Step:
    """Which guesses stay.

    Args:
        guesses: (B, L) int64 the tokens read; the first is final already. q: (B, L, V) what each was drawn from.
        p: (B, L, V) the distribution after each. drawn: (B, L) int64 tokens drawn from p.
        uniform: (B, L) in [0, 1) for each guess (the first is not used). last: (B,) for the one drawn anew.
    """
    n = guesses.shape[1]
    verdict = accept(p, guesses[:, 1:], uniform[:, 1:], last, q[:, 1:])
    assert verdict.probs is not None
    kept = verdict.accepted[:, None]
    at = torch.arange(n, device=guesses.device)
    moved = torch.nn.functional.pad(guesses[:, 1:], (0, 1))
    anew = (at == kept) & (kept < n - 1)  # the first rejected one
    tokens = torch.where(at < kept, moved, torch.where(anew, verdict.tokens, drawn))
    shifted = torch.cat([q[:, 1:], p[:, -1:]], 1)
    scores = torch.where((at < kept)[..., None], shifted, p)
    residual = torch.where(kept < n - 1, verdict.probs, 0.0)
    return Step(verdict.accepted + 1, tokens, scores, residual)


def check_greedy(guesses: Tensor, best: Tensor) -> Tensor:
    """Plain Jacobi matching: guesses (B, L), the model's choice after each best (B, L) -> (B,) final tokens."""
    return accept_greedy(best, guesses[:, 1:]).accepted + 1


@dataclass(frozen=True)
class Image:
    """ids (B, P + length) int64; forwards of the model for each row (B,), the prompt's included."""

    ids: Tensor
    forwards: Tensor


@torch.no_grad()
def jacobi(
    model: Any,
    ids: Tensor,
    *,
    length: int,
    window: int = 16,
    temperature: float = 1.0,
    top_k: int | None = None,
    start: str = "random",
    width: int | None = None,
    tokens: tuple[int, int] | None = None,
    seed: int = 0,
) -> Image:
    """Generate ``length`` tokens after each prompt.

    Args:
        model: a decoder of transformers. ids: (B, P) int64 prompts of one length; rows are decoded one by one.
        window: tokens read in a forward. temperature: 0 is greedy. top_k: most likely tokens that may be drawn.
        start: what a fresh guess is: "random", "left" (the token before it) or "above" (``width`` tokens before it).
        tokens: (first, one past the last) id that may be drawn; None for the whole vocabulary.
        seed: of the draws; every row has its own.

    Raises:
        InputError: a value out of range.
    """
    if length < 1 or window < 1 or temperature < 0 or start not in STARTS or (start == "above" and not width):
        raise InputError(
            f"length and window are above 0, temperature not below 0, start one of {STARTS}, 'above' with the image's "
            f"width. Got {length}, {window}, {temperature}, {start!r}, {width!r}."
        )
    rows, counts = [], []
    for b in range(len(ids)):
        dice = torch.Generator().manual_seed((seed * 1_000_003 + b) % 2**63)
        run = _Run(_reader(model), ids[b].tolist(), window, temperature, top_k, start, width, tokens, dice)
        rows.append(torch.tensor(run.go(length), device=ids.device))
        counts.append(run.forwards)
    return Image(torch.stack(rows), torch.tensor(counts))


def _reader(model: Any) -> Read:
    """A decoder of transformers with a cache."""
    from transformers import DynamicCache

    cache, device = DynamicCache(config=model.config), next(model.parameters()).device

    def read(tokens: Tensor, forget: int) -> Tensor:
        if forget:
            cache.crop(-forget)
        out = model(input_ids=tokens.to(device), past_key_values=cache, use_cache=True)
        return torch.as_tensor(out.logits[0]).float().cpu()

    return read


class _Run:
    """One row."""

    def __init__(
        self,
        read: Read,
        text: list[int],
        window: int,
        temperature: float,
        top_k: int | None,
        start: str,
        width: int | None,
        tokens: tuple[int, int] | None,
        dice: torch.Generator,
    ) -> None:
        self.read, self.text, self.window, self.dice = read, list(text), window, dice
        self.temperature, self.top_k, self.start, self.width, self.tokens = temperature, top_k, start, width, tokens
        self.forwards, self.vocabulary = 0, 0

    def go(self, length: int) -> list[int]:
        """Returns prompt and tokens."""
        end, forget = len(self.text) + length, 0
        guesses: list[int] = []
        q = torch.empty(0)
        if len(self.text) > 1:
            self.vocabulary = self._read(self.text[:-1], 0).shape[-1]
        while len(self.text) < end:
            n = min(self.window, end - len(self.text))
            if not self.vocabulary:
                n = 1  # a prompt of one token: its own forward tells how large the vocabulary is
            guesses, q = self._refill(guesses[: n - 1], q[: n - 1], n - 1)
            p = self._probabilities(self._read([self.text[-1], *guesses], forget))
            self.vocabulary = p.shape[-1]
            matched, found, scores = self._check(guesses, q, p)
            self.text += found[:matched]
            guesses, q, forget = found[matched:], scores[matched:], n - matched
        return self.text

    def _read(self, tokens: list[int], forget: int) -> Tensor:
        self.forwards += 1
        return self.read(torch.tensor([tokens]), forget)

    def _probabilities(self, logits: Tensor) -> Tensor:
        """(k, V) logits -> what tokens are drawn from."""
        if self.tokens is not None:
            allowed = torch.zeros(logits.shape[-1], dtype=torch.bool)
            allowed[self.tokens[0] : self.tokens[1]] = True
            logits = logits.masked_fill(~allowed, -torch.inf)
        if not self.temperature:
            return one_hot(logits.argmax(-1), logits.shape[-1]).float()
        if self.top_k is not None:
            least = logits.topk(min(self.top_k, logits.shape[-1])).values[..., -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        return (logits / self.temperature).softmax(-1)

    def _check(self, guesses: list[int], q: Tensor, p: Tensor) -> tuple[int, list[int], Tensor]:
        """How many tokens are final, the tokens, and the distributions of the rest."""
        n = len(p)
        drawn = draw(p, torch.rand(n, generator=self.dice))
        whole = torch.tensor([[self.text[-1], *guesses]])
        if not self.temperature:
            return int(check_greedy(whole, drawn[None])), drawn.tolist(), p
        uniform, last = torch.rand(1, n, generator=self.dice), torch.rand(1, generator=self.dice)
        own = one_hot(whole[:, :1], p.shape[-1]).to(p.dtype)
        of = torch.cat([own, q[None].to(p.dtype)], 1) if guesses else own
        step = check(whole, of, p[None], drawn[None], uniform, last)
        return int(step.matched), step.tokens[0].tolist(), step.scores[0]

    def _refill(self, guesses: list[int], q: Tensor, n: int) -> tuple[list[int], Tensor]:
        """Fresh guesses up to n, each certain of itself."""
        first, past = self.tokens or (0, self.vocabulary)
        before = len(guesses)
        while len(guesses) < n:
            known = [*self.text, *guesses]
            back = 1 if self.start == "left" else self.width or 1
            if self.start == "random" or len(known) < back or not first <= known[-back] < past:
                guesses = [*guesses, int(torch.randint(first, past, (1,), generator=self.dice))]
            else:
                guesses = [*guesses, known[-back]]
        fresh = one_hot(torch.tensor(guesses[before:], dtype=torch.int64), self.vocabulary or 1).float()
        return guesses, fresh if not before else torch.cat([q, fresh])
