"""Semi-autoregressive decoding of masked-diffusion language models, with caches, guidance and end-of-text prediction.

Nie et al., "Large Language Diffusion Models" (LLaDA), 2025, arXiv 2502.09992; caches and parallel filling after Wu et
al., "Fast-dLLM", 2025, arXiv 2505.22618.

The text to come begins as masks and is cut into blocks, filled from left to right. In a block, a forward predicts every
position and the schedule says which predictions are kept; it goes on until no mask is left.

With a cache, the first forward of a block reads everything and remembers keys and values. ``cache="prefix"`` then reads
only the block and what follows it, ``cache="dual"`` only the block; what is remembered of the other positions is as it
was at the start of the block. That changes predictions a little, so it is an approximation, as in the papers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._call import Ask, checked, plan_of
from ._schedule import Block, Look, best
from .predict import Dice, Noise, choose
from .reader import Reader, read_with
from .track import Part, Report

SURE = 0.9  # of a predicted end of the text that is not filled yet


@dataclass(frozen=True)
class Generated:
    """A finished text.

    Attributes:
        ids: (B, P + length) int64, prompt and text; no mask is left.
        filled: (B, P + length) int64, after which forward a position was settled, -1 for the prompt.
        report: forwards, positions read, blocks and time.
    """

    ids: Tensor
    filled: Tensor
    report: Report


@torch.no_grad()
def generate(
    model: Any,
    ids: Tensor,
    *,
    schedule: Any = "threshold",
    length: int = 128,
    block: int = 32,
    steps: int | None = None,
    cache: str | None = None,
    temperature: float = 0.0,
    guidance: float = 0.0,
    stop: str = "none",
    mask_id: int | None = None,
    eos_id: int | None = None,
    attention_mask: Tensor | None = None,
    shift: bool | None = None,
    seed: int = 0,
    noise: Noise | None = None,
) -> Generated:
    """Generate text with a masked-diffusion language model.

    Args:
        model: what :func:`foveate.diffusion.read_with` takes: a Hugging Face model or ids -> logits.
        ids: (B, P) int64 prompts, padded on the left where they differ in length (then with attention_mask (B, P)).
        schedule: text such as ``"threshold(confidence=0.9)"`` (see :func:`all_schedules`), or an instance.
        length, block: tokens to generate, and in a block; the last block may be shorter.
        steps: forwards in all, for schedules that follow a fixed plan; None is one a token.
        cache: None (exact), "prefix" or "dual" (approximate, see above).
        temperature: 0 takes the most likely token; above, tokens are drawn with Gumbel noise.
        guidance: classifier-free guidance: logits = masked + (guidance + 1) * (given - masked), where for "masked" the
            prompt is replaced by masks. 0 is off; else each forward reads twice the rows.
        stop: "block" ends a row once a complete block holds the end token; "text" as soon as an end token is filled in,
            or predicted with confidence 0.9: what follows it is neither read nor generated. Rows are then decoded one
            after the other. What follows an end token in ids is the end token.
        mask_id, eos_id: None takes ``mask_token_id`` and ``eos_token_id`` of the model's config.
        shift: whether logits at a position are for the next one (Dream); None: by the model's type.
        seed: of the noise; the same seed gives the same text, whatever other rows there are.
        noise: uniforms in place of the seed's, for replays.

    Raises:
        InputError: a value out of range, or a prompt that holds masks.
        PlanError: an unknown schedule; UnsupportedCallError: a cache for a model that keeps none.
    """
    ask = checked(model, ids, schedule, length, block, steps, cache, temperature, guidance, stop, mask_id, eos_id)
    rows = len(ids)
    valid = None
    if attention_mask is not None and not bool(attention_mask.all()):
        valid = torch.nn.functional.pad(attention_mask.bool(), (0, length), value=True)
    report = Report(str(ask.schedule), rows, length)
    dice = None if noise is not None or not temperature else Dice.of(model, ids, seed)
    one_by_one = rows > 1 and (ask.schedule.sizes or stop == "text")
    parts = []
    for row in range(rows) if one_by_one else [None]:
        mine = slice(None) if row is None else slice(row, row + 1)
        seen = None if valid is None else valid[mine]
        if seen is not None and guidance:
            seen = torch.cat([seen, seen])
        rolls = dice if dice is None or row is None else dice.only(row)
        uniforms = noise if noise is None or row is None else _of_row(noise, row)
        run = _Run(ask, read_with(model, seen, shift), ids[mine], report, rolls, uniforms)
        parts.append(run.go())
    return Generated(torch.cat([x for x, _ in parts]), torch.cat([f for _, f in parts]), report.end())


class _Run:
    """Rows that are decoded together."""

    def __init__(
        self, ask: Ask, reader: Reader, ids: Tensor, report: Report, dice: Dice | None, noise: Noise | None
    ) -> None:
        self.ask, self.reader, self.report, self.dice, self.noise = ask, reader, report, dice, noise
        self.prompt = ids.shape[1]
        self.x = torch.nn.functional.pad(ids, (0, ask.length), value=ask.mask_id)
        self.filled = torch.full_like(self.x, -1)
        self.end = self.x.shape[1]  # one past the last position that is generated; "text" brings it down
        self.held = self.end  # positions that are remembered

    def go(self) -> tuple[Tensor, Tensor]:
        """Fill block after block; returns ids and filled, (B, P + length)."""
        start = self.prompt
        while start < self.end:
            if not bool((self.x[:, start : self.end] == self.ask.mask_id).any()):  # all rows have ended
                break
            start += self._block(start)
        return self.x, self.filled

    def _block(self, start: int) -> int:
        """Fill one block; returns its length."""
        ask, first = self.ask, self.report.forwards
        size, step, chooser, quota = min(ask.block, self.end - start), 0, None, None
        while chooser is None or bool((self.x[:, start : start + size] == ask.mask_id).any()):
            logits, number = self._read(start, size, whole=step == 0 or ask.cache is None)
            if chooser is None or quota is None:
                size = self._size(logits, start, size)
                chooser = ask.schedule.begin(Block(len(self.x), size, ask.length, ask.mask_id))
                quota = plan_of((self.x[:, start : start + size] == ask.mask_id).sum(-1), ask, size)
            ahead, logits = logits[:, size:], logits[:, :size]
            masked = self.x[:, start : start + size] == ask.mask_id
            logits = chooser.rescore(logits, masked)
            tokens, confidence = self._choose(logits, masked.any(-1), number, start)
            look = Look(logits, tokens, confidence, masked, step, quota(step))
            self._fill(start, look, chooser.fill(look), number)
            size = min(size, self._end_of_text(start, size, ahead, number) - start)
            step += 1
        self._end_of_block(start, size)
        self.report.blocks.append(Part(start, size, self.report.forwards - first))
        return size

    def _read(self, start: int, size: int, whole: bool) -> tuple[Tensor, int]:
        """Logits of the block's positions, float32, and the number of the forward.

        After the whole text was read there may be more of them: what the schedule, or the end of the text, looks at.
        """
        ask = self.ask
        if whole:
            self.held = self.end
            upto = self.end if ask.stop == "text" else start + size
            if ask.schedule.sizes:
                upto = max(upto, start + ask.schedule.window(ask.length, self.end - start))
            ids = self._doubled(self.x[:, : self.end])
            logits = self.reader.whole(ids, start, upto, remember=ask.cache is not None)
        else:
            at = torch.arange(start, start + size if ask.cache == "dual" else self.held, device=self.x.device)
            ids = self._doubled(self.x)[:, at]
            logits = self.reader.part(ids, at.expand_as(ids))[:, :size]
        return self._guided(logits.float()), self.report.read(len(ids), ids.shape[1])

    def _doubled(self, x: Tensor) -> Tensor:
        """With guidance, the rows again with their prompts masked out."""
        if not self.ask.guidance:
            return x
        blank = x.clone()
        blank[:, : self.prompt] = self.ask.mask_id
        return torch.cat([x, blank])

    def _guided(self, logits: Tensor) -> Tensor:
        if not self.ask.guidance:
            return logits
        given, blank = logits.chunk(2)
        return blank + (self.ask.guidance + 1) * (given - blank)

    def _size(self, logits: Tensor, start: int, size: int) -> int:
        """The length of the block, by the schedule if it has a say."""
        ask = self.ask
        if not ask.schedule.sizes:
            return size
        n = ask.schedule.window(ask.length, self.end - start)
        tokens, confidence = choose(logits[:1, :n], ask.schedule.precise)
        return min(ask.schedule.size(tokens[0], confidence[0], size), self.end - start)

    def _choose(self, logits: Tensor, going: Tensor, number: int, start: int) -> tuple[Tensor, Tensor]:
        n, uniforms = logits.shape[1], None
        if self.ask.temperature:
            if self.noise is not None:
                uniforms = self.noise(number, start, start + n)
            elif self.dice is not None:
                uniforms = self.dice.roll(going, n)
        return choose(logits, self.ask.schedule.precise, self.ask.temperature, uniforms)

    def _fill(self, start: int, look: Look, fill: Tensor, number: int) -> None:
        """Put in the chosen tokens. A row that would fill nothing but masks fills its best other token."""
        fill, tokens = fill & look.masked & (look.tokens != self.ask.mask_id), look.tokens
        stuck = look.masked.any(-1) & ~fill.any(-1)
        if bool(stuck.any()):
            logits = look.logits.clone()
            logits[..., self.ask.mask_id] = -torch.inf
            tokens, confidence = choose(logits, self.ask.schedule.precise)
            one = best(confidence.masked_fill(~look.masked, -torch.inf), torch.ones_like(look.quota))
            fill, tokens = torch.where(stuck[:, None], one, fill), torch.where(stuck[:, None], tokens, look.tokens)
        self._put(start, fill, tokens, number)

    def _put(self, start: int, fill: Tensor, tokens: Tensor, number: int) -> None:
        here = slice(start, start + fill.shape[1])
        self.x[:, here] = torch.where(fill, tokens, self.x[:, here])
        self.filled[:, here] = self.filled[:, here].masked_fill(fill, number)

    def _end_of_text(self, start: int, size: int, ahead: Tensor, number: int) -> int:
        """stop="text": nothing is generated after an end token that is filled in, or surely seen. Returns the end."""
        ask = self.ask
        if ask.stop != "text" or ask.eos_id is None:
            return self.end
        ended = (self.x[0, self.prompt : self.end] == ask.eos_id).nonzero()
        cut = self.prompt + int(ended[0]) + 1 if len(ended) else self.end
        if not len(ended) and ahead.shape[1]:
            tokens, confidence = choose(ahead[:1], ask.schedule.precise)
            seen = ((tokens[0] == ask.eos_id) & (confidence[0] >= SURE)).nonzero()
            cut = start + size + int(seen[0]) + 1 if len(seen) else cut
        if cut < self.end:
            rest = torch.zeros_like(self.x[:, cut : self.end], dtype=torch.bool)
            self._put(cut, ~rest, torch.full_like(self.x[:, cut : self.end], ask.eos_id), number)
            self.end = cut
        return self.end

    def _end_of_block(self, start: int, size: int) -> None:
        """stop="block": rows whose complete block holds the end token are done."""
        ask = self.ask
        if ask.stop != "block" or ask.eos_id is None:
            return
        done = (self.x[:, start : start + size] == ask.eos_id).any(-1, keepdim=True)
        rest = self.x[:, start + size :]
        fill = done & (rest == ask.mask_id)
        self._put(start + size, fill, torch.full_like(rest, ask.eos_id), self.report.forwards - 1)


def _of_row(noise: Noise, row: int) -> Noise:
    return lambda number, start, stop: noise(number, start, stop)[row : row + 1]
