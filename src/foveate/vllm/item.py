"""What a processor tells the model about one image or video, and what the model makes of it.

It travels as one tensor of bytes beside the pixels, so it is stored, batched and sent to workers as they are, and the
number of tokens that the prompt was written for is the number that the model keeps. vLLM is not imported here.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from . import columns
from .layout import END, VISUAL, WORD, Layout, kinds, places, shares, stays
from .rule import Rule, rule_of


@dataclass(frozen=True)
class Item:
    """One image or video of a request.

    Attributes:
        plan: the method, as text.
        layout: its tokens before any is dropped.
        kept: how many of its visual tokens stay.
        asked: ids of the prompt's words, where the method decides by them.
        before, after: ids of the words before each frame and behind it, in a video that has such.
    """

    plan: str
    layout: Layout
    kept: int
    asked: tuple[int, ...] = ()
    before: tuple[tuple[int, ...], ...] = ()
    after: tuple[int, ...] = ()

    @classmethod
    def of(cls, plan: str, layout: Layout, asked: Sequence[int] = (), texts: Sequence[Sequence[int]] = ()) -> Item:
        """With the number that stays worked out. texts: ids before each frame, then those behind each."""
        before, after = (tuple(map(tuple, texts[:-1])), tuple(texts[-1])) if texts else ((), ())
        return cls(plan, layout, rule_of(plan).count(layout), tuple(asked), before, after)

    @property
    def length(self) -> int:
        """Tokens of the prompt that it takes up."""
        return self.kept + self.layout.fixed

    @property
    def rule(self) -> Rule:
        """The plan's rule."""
        return rule_of(self.plan)

    def ids(self, pad: int) -> list[int]:
        """The tokens that stand for it in the prompt; pad: the id of a visual one.

        Where words stand between frames, each frame is written with an even share of what is kept: the engine puts
        embeddings in the place of all of them, words included.
        """
        if not self.before:
            return [pad] * self.length
        out: list[int] = []
        for words, n in zip(self.before, shares(self.layout, self.kept)):
            out += [*words, *[pad] * n, *self.after]
        return out

    def words(self) -> list[int]:
        """Ids of the words inside it, in order."""
        return [i for words in self.before for i in (*words, *self.after)]

    def to_tensor(self) -> Tensor:
        """(bytes,) uint8."""
        return torch.frombuffer(bytearray(json.dumps(asdict(self)).encode()), dtype=torch.uint8)

    @classmethod
    def from_tensor(cls, data: Tensor) -> Item:
        """What :meth:`to_tensor` wrote."""
        return _read(bytes(data.cpu().tolist()))

    def reduce(
        self, features: Tensor, width: int, asked: Tensor | None = None, words: Tensor | None = None
    ) -> tuple[Tensor, bool]:
        """Drop and merge tokens.

        Args:
            features: (encoded, W) what the encoder gave: the first ``width`` of W columns are the embeddings that
                methods look at, the others (DeepStack) are treated as these are.
            asked: (t, width) embeddings of the prompt's words, if the method reads them.
            words: (w, width) embeddings of the words inside the item.

        Returns:
            (length, W + columns.WIDTH) rows for the language model, each followed by its positions; and whether the
            method's choice had to be made to fit (see :meth:`foveate.vllm.rule.Rule.reduce`).

        Raises:
            ValueError: the encoder gave another number of features than the sizes tell.
        """
        if len(features) != self.layout.encoded:
            raise ValueError(f"{self.layout} has {self.layout.encoded} features, and the encoder gave {len(features)}")
        of = kinds(self.layout).to(features.device)
        seen = of[of != WORD]
        free = features[seen == VISUAL]
        r, forced = self.rule.reduce(free[:, :width], self.layout, asked)
        at = stays(self.layout, r.keep[0])
        left = of[at]
        rows = features.new_zeros(len(at), features.shape[1])
        rows[left == VISUAL] = r(free[None])[0]
        rows[left == END] = features[seen == END]
        if words is not None:
            rows[left == WORD, :width] = words.to(rows)
        stand = places(self.layout)[at.cpu()]
        return torch.cat([rows, columns.write(stand).to(rows)], 1), forced


@functools.lru_cache(maxsize=512)
def _read(data: bytes) -> Item:
    told = json.loads(data)
    layout = Layout(**{**told["layout"], "words": tuple(told["layout"]["words"])})
    before = tuple(map(tuple, told["before"]))
    return Item(told["plan"], layout, told["kept"], tuple(told["asked"]), before, tuple(told["after"]))
