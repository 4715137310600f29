"""ViSpec: the draft model sees a handful of visual tokens, the target all of them.

Kang et al., "ViSpec: Accelerating Vision-Language Models with Vision-Aware Speculative Decoding", NeurIPS 2025.
https://arxiv.org/abs/2509.15235

A small model makes little of a long row of visual tokens, and pays for each. So its prompt keeps the share ``keep`` of
them (here the most diverse ones, any plan of the library will do), at the positions they had; the target reads the
whole image and checks every guess, so the answer does not change.

This is the idea without training. The paper trains a compressor and a global image vector into an EAGLE head:
:func:`compressed` is that head's input, for weights of one's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from ..method import Keep, Range, method, option
from ..parts.draft_images import queried, segments
from ._drafter import Drafter, Turn
from ._second import PathOrModel, SmallModel, found, keep, reader_of


@method(
    title="ViSpec: Accelerating Vision-Language Models with Vision-Aware Speculative Decoding",
    url="https://arxiv.org/abs/2509.15235",
    systems=("S103",),
    needs=(),
    cost="one forward of the draft model, over a shorter prompt, for each drafted token",
    vectors=("vispec",),
)
class ViSpec:
    """A draft model that sees few visual tokens."""

    draft: Any = option(None, PathOrModel(), "the draft model: a path or name, or (from Python) a loaded model")
    keep: float | int = option(0.1, Keep(), "visual tokens that the draft model sees, a share or a number")
    tokens: int = option(5, Range(1, kind=int), "how many tokens to draft")

    def __post_init__(self) -> None:
        keep(self)

    def second_model(self) -> Any:
        """The path or the loaded draft model. Raises PlanError if none was given."""
        return found(self)

    def draft_plan(self) -> str:
        """What the draft model reads the prompt with."""
        return f"divprune(keep={self.keep!r})"

    def begin(self, turn: Turn) -> Drafter:
        """A drafter that reads along with the draft model."""
        return SmallModel(turn, reader_of(self, turn), self.tokens)


def compressed(
    hidden: Tensor, embeds: Tensor, image: Tensor, queries: Tensor, weights: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """The trained head's input: learned queries over each image; all but one of their outputs take its place.

    The last output is the image's vector g, read by all text behind it: fc([embed, img_fc([hidden, g])]), with g = 0
    before the first image.

    Args:
        hidden, embeds: (n, D) features of the target and embeddings of the tokens that follow them.
        image: (n,) bool, visual tokens among these.
        queries: (nq, H, d).
        weights: ``Wk``, ``Wv``, ``Wo`` (D, D), ``img_fc_W``, ``fc_W`` (D, 2 D), ``img_fc_b``, ``fc_b`` (D,).

    Returns:
        (m, D) float32 and the positions (m,) int64 they stand at: text where it was, compressed tokens at the last
        positions of their image.
    """
    parts: list[Tensor] = []
    where: list[int] = []
    many, at = len(queries) - 1, 0
    vector = torch.zeros_like(hidden[0], dtype=torch.float32)

    def text(start: int, stop: int) -> None:
        both = torch.cat([hidden[start:stop].float(), vector.expand(stop - start, -1)], -1)
        features = linear(both, weights["img_fc_W"], weights["img_fc_b"])
        mixed = torch.cat([embeds[start:stop].float(), features], -1)
        parts.append(linear(mixed, weights["fc_W"], weights["fc_b"]))
        where.extend(range(start, stop))

    for start, stop in segments(image):
        text(at, start)
        made = queried(embeds[start:stop], queries, weights["Wk"], weights["Wv"], weights["Wo"])
        parts.append(made[:many])
        where.extend(range(stop - many, stop))
        vector, at = made[many], stop
    text(at, len(hidden))
    return torch.cat(parts), torch.tensor(where, dtype=torch.long)
