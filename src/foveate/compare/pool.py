"""The same questions spread over a Ray cluster: models answer side by side, the driver alone writes the log.

A row is one question with all plans that it is still to be asked under, so that plans are compared on one worker. A
worker that dies is replaced by Ray and its question asked again; what comes back twice is counted once, by its key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..load import load
from ..on_ray import enough, imported, running
from ..spec import Plan
from ..tune.questions import Question
from .asker import Asker
from .source import Source


@dataclass(frozen=True)
class Pool:
    """Workers of a Ray cluster; a local one is started where none runs.

    Attributes:
        workers: models that answer at the same time. cpus, gpus: what each of them takes.

    Raises:
        InputError: no worker.
    """

    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        enough(self.workers)

    @property
    def device(self) -> str:
        """The kind of device that workers answer on."""
        return "cuda" if self.gpus else "cpu"


@dataclass(frozen=True)
class Job:
    """One question and the plans to ask it under, as text ("" is the full model), with the keys of the answers."""

    task: str
    i: int
    plans: tuple[str, ...]
    keys: tuple[str, ...]


class Worker:
    """One model of the pool. Called with batches of jobs, as JSON."""

    def __init__(self, model: str, source: Source, limit: int | None, run: str, device: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        loaded = load(model, device=device)
        self.asker = Asker(loaded, source.frames, limit, source.seed, run)
        self.source = source
        self._task, self._questions = "", list[Question]()
        self._failed: set[str] = set()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """{"job": [JSON of a Job]} -> {"lines": [JSON of a list of :meth:`Asker.entry`]}."""
        return {"lines": [json.dumps(self.answers(Job(**json.loads(str(j))))) for j in batch["job"]]}

    def answers(self, job: Job) -> list[dict[str, Any]]:
        """An entry for each plan of a job; plans that failed before are left out."""
        if job.task != self._task:
            self._task, self._questions = job.task, self.source.questions(job.task)
        out, question = [], self._questions[job.i]
        for text, key in zip(job.plans, job.keys):
            if text in self._failed:
                continue
            plan = Plan.of(text)
            if self.asker.key(question, plan) != key:
                why = "a worker has other data, another model or another release than the driver"
                entry: dict[str, Any] = {"key": key, "task": job.task, "i": job.i, "plan": text or "none"}
                entry |= {"failed": why, "media": True}
            else:
                entry = self.asker.entry(job.task, job.i, question, plan, key)
            if "failed" in entry:
                self._failed.add(text)
            out.append(entry)
        return out


def spread(
    pool: Pool, model: str, source: Source, limit: int | None, run: str, jobs: Sequence[Job]
) -> Iterator[dict[str, Any]]:
    """Entries of all jobs, as they come; see :meth:`Asker.entry`.

    Args:
        model: a name, folder or hub id that every worker can load. source: all find its files at the same place.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    ray = imported("ray")
    with running(ray):
        rows = [{"job": json.dumps(vars(job))} for job in jobs]
        made = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            Worker,
            fn_constructor_args=(model, source, limit, run, pool.device, max(1, int(pool.cpus))),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=pool.workers),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
        )
        for row in made.iter_rows():
            yield from json.loads(row["lines"])
