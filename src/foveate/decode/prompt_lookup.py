"""Prompt lookup: guess that the text goes on as it did the last time its current n-gram appeared.

Yang et al., "Inference with Reference: Lossless Acceleration of Large Language Models", 2023.
https://arxiv.org/abs/2304.04487
Saxena, "Prompt Lookup Decoding", 2023, https://github.com/apoorvumang/prompt-lookup-decoding, is the same idea with the
prompt itself as the reference.

Answers copy from their prompts: names, numbers, code, text read off an image, their own earlier lines. The last tokens
are looked up in everything said so far; what followed the latest longest match is the draft, and one forward of the
target checks all of it. No training, no second model; the output does not change.

Departures: of several matches the longest wins, then the latest (Saxena takes the first); a draft that runs into the
end of the text goes on into itself, so a repeating pattern is guessed at full length.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Range, method, option
from ._drafter import Draft, Drafter, Outcome, Turn


@method(
    title="Inference with Reference: Lossless Acceleration of Large Language Models",
    url="https://arxiv.org/abs/2304.04487",
    needs=(),
    cost="ngram comparisons of the text with itself shifted, n each",
)
class PromptLookup:
    """Drafts copied from the text so far."""

    ngram: int = option(3, Range(1, kind=int), "longest run of last tokens to look up, then shorter ones")
    tokens: int = option(10, Range(1, kind=int), "how many tokens to copy")

    def begin(self, turn: Turn) -> Drafter:
        """It remembers nothing, so it is its own drafter."""
        return self

    def draft(self, ids: Tensor, limit: int) -> Draft:
        """ids (B, n) -> tokens (B, gamma), gamma 0 if no row has a match."""
        found = lookup(ids, self.ngram, min(self.tokens, limit))
        return Draft(found if bool((found >= 0).any()) else found[:, :0])

    def learn(self, outcome: Outcome) -> None:
        """Nothing to learn."""


def lookup(ids: Tensor, ngram: int, tokens: int) -> Tensor:
    """What followed the latest longest match of the last tokens. ids (B, n) -> (B, tokens), -1 without a match."""
    n = ids.shape[1]
    if n < 2:
        return ids.new_full((ids.shape[0], tokens), -1)
    # same[b, e]: how many tokens before position e + 1 equal the last tokens of the text, up to ngram
    run = torch.ones_like(ids[:, 1:], dtype=torch.bool)
    same = torch.zeros_like(ids[:, 1:])
    for k in range(min(ngram, n - 1)):
        equal = torch.zeros_like(run)
        equal[:, k:] = ids[:, : n - 1 - k] == ids[:, n - 1 - k, None]
        run = run & equal
        same = same + run
    end = torch.arange(1, n, device=ids.device)
    longest, at = same.max(-1, keepdim=True).values, end.expand_as(same)
    start = at.masked_fill(same != longest, 0).max(-1, keepdim=True).values  # (B, 1) where the copy begins
    step = torch.arange(tokens, device=ids.device) % (n - start)
    return ids.gather(1, start + step).masked_fill(longest == 0, -1)
