"""What earlier requests left: encoded media, and prefixes of conversations with the keys and values that are held.

Everything is found by its whole content: SHA-256 of the media's bytes and sampling, the plan's text, and the tokens
themselves. A prefix is used only where reading it anew would give the same: under plans that decide from the media
alone. Where a method reads the question (or what the language model attends to), another question would have kept other
tokens, so a prompt is used again only as a whole, and otherwise the vision tower's output, which no question enters.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedCallError
from ..sites.rows import nbytes, snapshot
from ..spec import Plan
from .task import Facts

_READS = frozenset(("text", "text_embeds"))
LEAST = 8  # tokens; shorter prefixes are not worth the copy


def blind(plan: Plan) -> bool:
    """Whether a plan decides from the media alone, so that what follows them changes nothing before it."""
    if any(m.stage not in ("encoder", "inputs") for m in plan):
        return False
    return not any(set(need.split("|")) & _READS for m in plan for need in m.card.needs)


@dataclass(frozen=True)
class Prefix:
    """A conversation as far as it was read.

    Attributes:
        ids: (n,) int64, all of which the cache has seen. last: where the last visual token lies, -1 without any.
        cache: never grown in place. delta: of :class:`foveate.sites.joint.Run`.
        logits: (V,) of the next token, kept where the prompt was read and nothing written yet; else None.
    """

    key: Hashable
    ids: Tensor
    last: int
    cache: Any
    delta: Tensor | None
    facts: Facts
    logits: Tensor | None = None


class Reuse:
    """A store of bounded size; what was not used for longest goes first. Used on the engine's thread alone."""

    def __init__(self, most: int) -> None:
        self.most, self.nbytes = most, 0
        self._encoded: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._prefixes: OrderedDict[int, tuple[Prefix, int]] = OrderedDict()
        self._count = 0

    def encoded(self, key: Hashable) -> Any:
        """What the vision tower made of these media under a plan's encoder part, or None."""
        if key in self._encoded:
            self._encoded.move_to_end(key)
            return dict(self._encoded[key][0])
        return None

    def keep_encoded(self, key: Hashable, made: Mapping[str, Any]) -> None:
        """Remember it."""
        if made and key not in self._encoded:
            size = sum(t.numel() * t.element_size() for t in _tensors(made, set()))
            if self._room(size):
                self._encoded[key] = (dict(made), size)
                self.nbytes += size

    def prefix(self, key: Hashable, ids: Tensor) -> Prefix | None:
        """The longest prefix of a conversation ids (n,) that was read, cut to fit, free to be grown; or None."""
        best, most, where = None, LEAST - 1, -1
        for number, (p, _) in self._prefixes.items():
            if p.key != key:
                continue
            shared = min(_shared(p.ids, ids), len(ids) - 1)  # one token at least is read, to go on from
            if shared > max(most, p.last):
                best, most, where = p, shared, number
        if best is None:
            return None
        try:
            cache = snapshot(best.cache, most)
        except UnsupportedCallError:  # a sliding window has moved past the cut
            return None
        self._prefixes.move_to_end(where)
        return replace(best, ids=best.ids[:most], cache=cache, facts=replace(best.facts, cached=most))

    def whole(self, key: Hashable, ids: Tensor) -> Prefix | None:
        """Exactly this prompt, read before under exactly this plan; or None."""
        for number, (p, _) in self._prefixes.items():
            if p.key == key and p.logits is not None and torch.equal(p.ids, ids):
                self._prefixes.move_to_end(number)
                return replace(p, cache=snapshot(p.cache), facts=replace(p.facts, cached=len(ids)))
        return None

    def keep_prefix(self, new: Prefix) -> None:
        """Remember a conversation; shorter ones that it begins with are forgotten, but for whole prompts."""
        for number, (p, _) in list(self._prefixes.items()):
            if p.key != new.key or (p.logits is None) != (new.logits is None) or len(p.ids) > len(new.ids):
                continue
            if _shared(p.ids, new.ids) == len(p.ids) and (new.logits is None or len(p.ids) == len(new.ids)):
                self._forget(self._prefixes, number)
        size = nbytes(new.cache)
        if self._room(size):
            self._count += 1
            self._prefixes[self._count] = (new, size)
            self.nbytes += size

    def clear(self) -> None:
        """Forget everything."""
        self._encoded.clear()
        self._prefixes.clear()
        self.nbytes = 0

    def _room(self, size: int) -> bool:
        """Make room for so many bytes; False where they never fit."""
        if size > self.most // 2:
            return False
        while self.nbytes + size > self.most and (self._encoded or self._prefixes):
            kind: Any = self._encoded if len(self._encoded) >= len(self._prefixes) else self._prefixes
            self._forget(kind, next(iter(kind)))
        return True

    def _forget(self, kind: Any, key: Any) -> None:
        self.nbytes -= kind.pop(key)[1]


def _shared(a: Tensor, b: Tensor) -> int:
    """How many tokens two sequences begin with alike."""
    n = min(len(a), len(b))
    return int((a[:n] == b[:n]).int().cumprod(0).sum()) if n else 0


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Every tensor in nested outputs, attributes of outputs included, each once."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for v in value.values():
            yield from _tensors(v, seen)
    elif isinstance(value, list | tuple):
        for v in value:
            yield from _tensors(v, seen)
    if not isinstance(value, torch.Tensor) and hasattr(value, "__dict__"):
        yield from _tensors(vars(value), seen)
