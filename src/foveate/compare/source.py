"""What plans are compared on: tasks of the lab, and your own media and questions. Every process makes the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..lab.evaluate import tasks_for
from ..lab.tasks import TASKS, generate
from ..lab.tasks.seeds import known
from ..load import Loaded
from ..tune.questions import Question, asked, own

LAB, DATA = "lab", "data"


@dataclass(frozen=True)
class Source:
    """Questions by task.

    Attributes:
        names: of the tasks: "lab:counting", "data:photos".
        data: the folder or file behind a "data:" task; empty without one.
        n: questions of each task. seed: of the lab's items, or of the order in which your own are taken.
        difficulty: of the lab's items. frames: of its clips.
    """

    names: tuple[str, ...]
    data: str
    n: int
    seed: int
    difficulty: float
    frames: int

    @classmethod
    def of(
        cls,
        tasks: str | Sequence[str] | None,
        data: str | Path | None,
        loaded: Loaded,
        *,
        n: int,
        seed: int,
        difficulty: float,
        frames: int,
    ) -> Source:
        """Read names of tasks.

        tasks: "lab:counting,lab:read" or a list of such; the "lab:" may be left out, and "lab" alone stands for all
            that the model can look at. None means "lab" where there is no ``data``, else none.

        Raises:
            InputError: an unknown task, no such folder, or a number below 1.
        """
        for name, value in (("n", n), ("frames", frames)):
            if value < 1:
                raise InputError(f"'{name}' must be at least 1. Got {value}.")
        given = tasks.split(",") if isinstance(tasks, str) else list(tasks or [] if data else tasks or [LAB])
        names: list[str] = []
        for one in (g.strip() for g in given):
            if one == LAB:
                names += [f"{LAB}:{t}" for t in tasks_for(loaded)]
                continue
            known("task", one.removeprefix(f"{LAB}:"), TASKS)
            names.append(f"{LAB}:{one.removeprefix(f'{LAB}:')}")
        if data is not None:
            path = Path(data)
            if not path.exists():
                raise InputError(
                    f"no folder or file {str(data)!r}; --data is a folder with JSONL files, or such a file"
                )
            names.append(f"{DATA}:{path.resolve().stem}")
        if not names:
            raise InputError(f"--tasks names no task. Got {tasks!r}.")
        home = str(Path(data).resolve()) if data is not None else ""
        return cls(tuple(dict.fromkeys(names)), home, n, seed, difficulty, frames)

    def questions(self, name: str) -> list[Question]:
        """All questions of a task.

        Raises:
            InputError: a line that is no question. MediaError: media that are missing or damaged.
        """
        kind, _, task = name.partition(":")
        if kind == DATA:
            return own(Path(self.data), self.n, self.seed)
        items = generate(task, self.seed, self.n, difficulty=self.difficulty, frames=self.frames)
        return [asked(item, self.seed, i) for i, item in enumerate(items)]
