"""What the tiny models are asked: how many images a row holds, their pixels, and the prompt around them.

Every random input is drawn from its own generator, keyed by (seed, row, image). So row 0 of a larger or a ragged batch
holds exactly the prompt and the pixels of the batch of one, and a test can compare the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

PAD, BOS, IMAGE, VIDEO, START, END = 0, 1, 100, 101, 102, 103
"""Special ids of every tiny vocabulary (128 words). Words are drawn from 3 to 99."""

VOCAB = 128
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": None,
}
"""Arguments shared by every language model; head_dim is 8."""


@dataclass
class Tiny:
    """A tiny model and inputs ready for `model(**inputs)` and, for "vlm" and "lm", `model.generate(**inputs)`.

    `visual` is the number of visual tokens the first image (or video) takes in the prompt, None without a prompt of
    images. `runs` holds that number for every image of every row, which differ for ragged inputs.
    """

    model: Any
    inputs: dict[str, Any]
    family: str
    kind: Literal["vlm", "vit", "lm"]
    visual: int | None = None
    runs: tuple[tuple[int, ...], ...] = field(default=())


@dataclass(frozen=True)
class Ask:
    """The inputs wanted. With `ragged`, odd rows hold one image and a few words more than even rows."""

    family: str
    seed: int = 0
    batch: int = 1
    images: int = 1
    ragged: bool = False
    video: bool = False

    def counts(self) -> list[int]:
        """Images (or videos) of each row."""
        return [self.images + (row % 2 if self.ragged else 0) for row in range(self.batch)]

    def slots(self) -> list[tuple[int, int]]:
        """(row, index in the row) of each image, in the order the model reads them."""
        return [(row, k) for row, count in enumerate(self.counts()) for k in range(count)]

    def generator(self, row: int, k: int) -> torch.Generator:
        """The generator of image `k` of a row; k = -1 is its text."""
        return torch.Generator().manual_seed((self.seed * 1009 + row) * 1009 + k + 1)

    def noise(self, row: int, k: int, *shape: int) -> Tensor:
        """Random pixels of shape `shape` for image `k` of a row."""
        return torch.randn(*shape, generator=self.generator(row, k))

    def words(self, row: int, count: int) -> list[int]:
        """`count` random words, the same for a row whatever the batch."""
        drawn: list[int] = torch.randint(3, 100, (count,), generator=self.generator(row, -1)).tolist()
        return drawn


def left_pad(rows: Sequence[Sequence[int]], pad: int = PAD) -> Tensor:
    """Rows of different lengths as one tensor (batch, longest), padded on the left."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows])


def text_inputs(ask: Ask, length: int = 32) -> dict[str, Any]:
    """A prompt without images: input_ids and attention_mask, both (batch, length); ragged odd rows are longer."""
    rows = [[BOS, *ask.words(row, length - 1 + (8 if ask.ragged and row % 2 else 0))] for row in range(ask.batch)]
    return {"input_ids": left_pad(rows), "attention_mask": left_pad([[1] * len(row) for row in rows])}


def visual_inputs(ask: Ask, media: Sequence[Sequence[int]], types: str | None = None) -> dict[str, Any]:
    """A prompt with visual tokens: input_ids and attention_mask, both (batch, length).

    `media` lists, for each of `ask.slots()`, the lengths of its runs of visual tokens (more than one only where a
    video is laid out frame by frame). Each run stands between a start and an end token, with a word between images,
    and the question follows. `types` names a further input (batch, length) marking images 1 and videos 2.
    """
    token, kind = (VIDEO, 2) if ask.video else (IMAGE, 1)
    rows: list[list[int]] = []
    for row in range(ask.batch):
        more = 5 if ask.ragged and row % 2 else 0
        words = ask.words(row, 7 + more)
        ids = [BOS, *words[:2]]
        for runs in (runs for (r, _), runs in zip(ask.slots(), media) if r == row):
            for run in runs:
                ids += [START, *[token] * run, END]
            ids.append(words[2])
        rows.append(ids + words[3:])
    out = {"input_ids": left_pad(rows), "attention_mask": left_pad([[1] * len(row) for row in rows])}
    if types is not None:
        out[types] = (out["input_ids"] == token).long() * kind
    return out


def per_row(ask: Ask, media: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """The visual tokens of every image, row by row."""
    sums = [(row, sum(runs)) for (row, _), runs in zip(ask.slots(), media)]
    return tuple(tuple(total for r, total in sums if r == row) for row in range(ask.batch))
