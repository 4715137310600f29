"""Diverse beam search: beams in groups, each group discouraged from the tokens that groups before it chose.

Vijayakumar et al., "Diverse Beam Search: Decoding Diverse Solutions from Neural Sequence Models", AAAI 2018.
https://arxiv.org/abs/1610.02424

Within a step the groups advance one after the other; from the log-probabilities of a group, ``penalty`` times the
number of beams of earlier groups that just chose a token is taken. Each group keeps its own beams and finished texts.
The bookkeeping is that of transformers 4's group beam search, which transformers 5 no longer has; the penalty stays in
the scores, finished groups emit padding that still counts, and two groups may return the same text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import EosTokenCriteria, MaxLengthCriteria

from ..errors import OptionError, UnsupportedCallError

FAR = -1e9  # score of beams that have not begun
#: (which row each row goes on from (R,), its next token (R, 1) or None for the prompt) -> log-probabilities (R, V)
Next = Callable[[Tensor | None, Tensor | None], Tensor]


@dataclass(frozen=True)
class Found:
    """ids (B * returned, n) int64 best first for each prompt, scores (B * returned,) float32, forwards of the model."""

    ids: Tensor
    scores: Tensor
    forwards: int


@dataclass(frozen=True)
class DiverseBeam:
    """A decoding loop: ``model.generate(**inputs, custom_generate=DiverseBeam(beams=6, groups=3))``.

    beams: in all. groups: that share them. penalty: for each beam of an earlier group on the same token; 0 and one
    group is plain beam search. returned: texts for each prompt, None for one a group. length_penalty: power of the
    length that scores are divided by. early: True stops a group once it has enough finished texts, False once none that
    runs can be better, "never" once none of any length can.

    Raises:
        OptionError: a value out of range; UnsupportedCallError: a stopping criterion that it does not serve.
    """

    beams: int = 6
    groups: int = 3
    penalty: float = 1.0
    returned: int | None = None
    length_penalty: float = 1.0
    early: bool | str = False

    def __post_init__(self) -> None:
        if self.beams < 1 or self.groups < 1 or self.beams % self.groups or self.penalty < 0:
            raise OptionError(
                f"beams must be a multiple of groups, penalty not below 0. Got {self.beams}, {self.groups}, "
                f"{self.penalty}."
            )
        if not 1 <= (self.returned or self.groups) <= self.beams or self.early not in (True, False, "never"):
            raise OptionError(
                f"returned is from 1 to {self.beams} and early True, False or 'never'. Got {self.returned}, "
                f"{self.early!r}."
            )

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        """What transformers calls; returns ids (B * returned, n), prompts first."""
        from ..sites.steps import Steps

        config = prepared.pop("generation_config")
        processors = prepared.pop("logits_processor")
        for criterion in prepared.pop("stopping_criteria"):
            if not isinstance(criterion, MaxLengthCriteria | EosTokenCriteria):
                raise UnsupportedCallError(
                    f"diverse beam search ends texts by length and end tokens alone. Got {type(criterion).__name__}."
                )
        for name in ("prefix_allowed_tokens_fn", "synced_gpus", "streamer", "assistant_model", "tokenizer"):
            prepared.pop(name, None)
        rows, kwargs = model._expand_inputs_for_generation(self.beams, False, input_ids, **prepared)
        steps = Steps(model, rows, config, kwargs)

        def ahead(order: Tensor | None, tokens: Tensor | None) -> Tensor:
            if order is None or tokens is None:
                logits = steps.prefill()
            else:
                steps.cache.reorder_cache(order)
                steps.ids = steps.ids[order]
                logits = steps.read(tokens)[:, -1]
            return torch.as_tensor(processors(steps.ids, logits.log_softmax(-1)))

        end = config.eos_token_id
        ends = [] if end is None else [end] if isinstance(end, int) else list(end)
        pad = config.pad_token_id if isinstance(config.pad_token_id, int) else ends[0] if ends else 0
        return self.search(ahead, input_ids, int(config.max_length), ends, pad).ids

    @torch.no_grad()
    def search(self, ahead: Next, ids: Tensor, most: int, ends: list[int], pad: int) -> Found:
        """The search over any model. ids (B, P) prompts; most: tokens of a text, the prompt's included."""
        batch, prompt = ids.shape
        size = self.beams // self.groups
        x = ids.repeat_interleave(self.beams, 0)
        scores = torch.full((batch, self.groups, size), FAR, device=ids.device)
        scores[:, :, 0] = 0
        kept = [[_Finished(size, self, most - prompt) for _ in range(self.groups)] for _ in range(batch)]
        order: Tensor | None = None
        tokens: Tensor | None = None
        forwards = 0
        while x.shape[1] < most and not all(group.done for row in kept for group in row):
            log_p = ahead(order, tokens).view(batch, self.groups, size, -1)
            forwards += 1
            chosen = ids.new_full((batch, self.groups, size), pad)
            source = torch.arange(batch * self.beams, device=ids.device).view_as(chosen).clone()
            for b in range(batch):
                for g in range(self.groups):
                    if kept[b][g].done:
                        continue
                    said = torch.bincount(chosen[b, :g].flatten(), minlength=log_p.shape[-1])
                    total = log_p[b, g] - self.penalty * said + scores[b, g, :, None]
                    base = (b * self.groups + g) * size
                    picked = kept[b][g].advance(total, x[base : base + size], ends, x.shape[1] + 1 - prompt)
                    scores[b, g], chosen[b, g], source[b, g] = picked[0], picked[1], picked[2] + base
            order, tokens = source.flatten(), chosen.view(-1, 1)
            x = torch.cat([x[order], tokens], 1)
        for b in range(batch):
            for g in range(self.groups):
                if not kept[b][g].done:
                    base = (b * self.groups + g) * size
                    for i in range(size):
                        kept[b][g].add(x[base + i], float(scores[b, g, i]), x.shape[1] - prompt)
        return _gathered(kept, self.returned or self.groups, most, ends, pad, forwards, ids)


class _Finished:
    """The finished texts of one group of one prompt, at most ``size`` of them."""

    def __init__(self, size: int, options: DiverseBeam, most: int) -> None:
        self.size, self.options, self.most = size, options, most
        self.texts: list[tuple[float, Tensor]] = []
        self.done = False

    def add(self, text: Tensor, total: float, length: int) -> None:
        """A text (n,) of ``length`` new tokens whose log-probabilities sum to ``total``."""
        score = total / length**self.options.length_penalty
        if len(self.texts) < self.size or score > self.worst:
            self.texts.append((score, text.clone()))
            if len(self.texts) > self.size:
                del self.texts[min(range(len(self.texts)), key=lambda i: self.texts[i][0])]

    @property
    def worst(self) -> float:
        return min(score for score, _ in self.texts)

    def advance(self, total: Tensor, x: Tensor, ends: list[int], length: int) -> tuple[Tensor, Tensor, Tensor]:
        """The next beams: their scores, tokens and which beam each goes on from, (size,) each.

        total: (size, V) scores with one more token. x: (size, n) the beams. length: new tokens with that one.
        """
        vocabulary = total.shape[-1]
        many = max(2, 1 + len(ends)) * self.size
        best, index = total.flatten().topk(min(many, total.numel()))
        going: list[int] = []
        for rank, at in enumerate(index.tolist()):
            if at % vocabulary in ends:
                if rank < self.size:
                    self.add(x[at // vocabulary], float(best[rank]), length)
            elif len(going) < self.size:
                going.append(rank)
            if len(going) == self.size:
                break
        self._judge(float(best[0]), length)
        pick = torch.tensor(going, device=total.device)
        return best[pick], index[pick] % vocabulary, index[pick] // vocabulary

    def _judge(self, best: float, length: int) -> None:
        """Whether no running beam can still enter."""
        if len(self.texts) < self.size:
            return
        if self.options.early is True:
            self.done = True
            return
        far = self.options.early == "never" and self.options.length_penalty > 0
        reach = best / (self.most if far else length) ** self.options.length_penalty
        self.done = self.worst >= reach


def _gathered(
    kept: list[list[_Finished]], returned: int, most: int, ends: list[int], pad: int, forwards: int, like: Tensor
) -> Found:
    """The best texts over all groups of each prompt, with the end token where one fits."""
    texts, scores = [], []
    for row in kept:
        every = sorted((pair for group in row for pair in group.texts), key=lambda pair: pair[0])
        for score, text in reversed(every[-returned:]):
            texts.append(text)
            scores.append(score)
    width = min(max(map(len, texts)) + 1, most)
    out = like.new_full((len(texts), width), pad)
    for i, text in enumerate(texts):
        out[i, : len(text)] = text
        if len(text) < width and ends:
            out[i, len(text)] = ends[0]
    return Found(out, torch.tensor(scores), forwards)
