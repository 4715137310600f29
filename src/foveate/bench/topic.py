"""What a study asks about: its tasks by family, its items, and how many of them are held and probed at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..lab.tasks import Item


def as_it_is(item: Item) -> Item:
    """An item whose media can stay in their file until they are asked about."""
    return item


@dataclass(frozen=True)
class Topic:
    """One set of items that plans are compared on. A study has one, or one for each length of clip.

    Attributes:
        study: "image" or "video"; kept results are filed under it.
        families: tasks by family of the plots; a family of one task is named as the task.
        items: (seed, n, folder, difficulty) -> items with the task that each stands for, read from the folder if they
            were made before.
        label: (seed, n, difficulty) -> what tells these items from others.
        opened: an item as it is put to the model.
        batch: items asked at a time. part: items prepared at a time; None for all.
        probes: items on which options are searched. timed: items on which costs are taken.
        about: goes into every row of the results.
    """

    study: str
    families: Mapping[str, tuple[str, ...]]
    items: Callable[[int, int, Path, float], list[tuple[str, Item]]]
    label: Callable[[int, int, float], str]
    opened: Callable[[Item], Item] = as_it_is
    batch: int = 50
    part: int | None = None
    probes: int = 24
    timed: int = 8
    about: Mapping[str, int] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """In words for goals and for what was left out: " (8 frames)", or nothing where a study has one topic."""
        return f" ({', '.join(f'{value} {name}' for name, value in self.about.items())})" if self.about else ""
