"""An exam too large to be prepared at once: in parts, each made when it is asked for and kept while there is room."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ..lab.tasks import Item
from ..load import Loaded
from . import exam
from .exam import Exam, Sheet

ROOM = 3e9  # bytes of pixels that one process keeps


class Shelf:
    """The items of an exam in parts.

    Args:
        loaded: the model. found: items with their tasks. batch: items asked at a time.
        part: items prepared at a time, conversations and short answers apart from others; None for all.
        opened: see :class:`foveate.bench.topic.Topic`.
    """

    def __init__(
        self,
        loaded: Loaded,
        found: Sequence[tuple[str, Item]],
        batch: int,
        part: int | None,
        opened: Callable[[Item], Item],
    ) -> None:
        self.loaded, self.found, self.batch, self.opened = loaded, found, batch, opened
        order = list(range(len(found)))
        if part is not None:
            order.sort(key=lambda i: (len(found[i][1].turns) > 1, len(found[i][1].answer)))
        step = part or len(order)
        self.parts = [order[k : k + step] for k in range(0, len(order), step)]
        self.kept: dict[int, Exam] = {}
        self.bytes = 0.0

    def __iter__(self) -> Iterator[tuple[list[int], Exam]]:
        """Each part: numbers of its items, and these, prepared."""
        for k, at in enumerate(self.parts):
            if (ready := self.kept.get(k)) is None:
                few = [(self.found[i][0], self.opened(self.found[i][1])) for i in at]
                ready = exam.prepare(self.loaded, few, self.batch)
                if self.bytes + (more := _bytes(ready)) <= ROOM:
                    self.kept[k] = ready
                    self.bytes += more
            yield at, ready

    def ask(self, plan: str) -> Sheet:
        """Every item under a plan; see :func:`foveate.bench.exam.ask`."""
        n = len(self.found)
        out = Sheet([""] * n, [1.0] * n, [None] * n)
        for at, ready in self:
            sheet = exam.ask(ready, self.loaded, plan)
            for i, said, kept, evidence in zip(at, sheet.said, sheet.kept, sheet.evidence):
                out.said[i], out.kept[i], out.evidence[i] = said, kept, evidence
        return out


def _bytes(ready: Exam) -> float:
    """Of the tensors of all prompts and of the pictures that they were made from, which they hold on to."""
    tensors = sum(t.numel() * t.element_size() for b in ready.batches for t in b.prompt.inputs.values())
    pictures = [f for b in ready.batches for v in b.prompt.visuals for f in v.item.frames]
    return tensors + sum(3.0 * f.width * f.height for f in pictures)
