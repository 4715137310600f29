"""The comparison: every plan is asked what the full model is asked; what is in the log already is not asked again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..ask import plan_of
from ..bench.kept_lines import Lines
from ..bench.results import commit, machine
from ..errors import InputError, MediaError
from ..load import Loaded, load
from ..prompt import Progress
from ..spec import Plan
from ..tune.questions import Question
from .asker import Asker
from .keys import digest
from .log import Log
from .pool import Job, Pool, spread
from .rows import ALL, FULL, rows_of
from .source import Source
from .told import Comparison

FEW = 4  # questions of each task that a server is asked, where throughput is measured
SHOWN = 5  # answers other than the full model's that are shown, for each plan and task


def compare(
    models: Sequence[str | Path | Loaded],
    plans: Sequence[Any] = ("auto",),
    *,
    tasks: str | Sequence[str] | None = None,
    data: str | Path | None = None,
    n: int = 100,
    seed: int = 0,
    difficulty: float = 0.5,
    frames: int = 16,
    max_new_tokens: int | None = None,
    device: str | None = None,
    out: str | Path = "bench",
    pool: Pool | None = None,
    clients: Sequence[int] = (),
    seconds: float = 10.0,
    command: str = "",
    tell: Progress | None = None,
) -> Comparison:
    """Ask models the same questions under plans and without, one question at a time, greedily.

    Every answer is a line of ``out/answers.jsonl`` as soon as it is there, under a key of all that it depends on; the
    same call goes on where it was stopped, and other plans, tasks or more questions add to it.

    Args:
        models: names, folders, hub ids, or what :func:`foveate.load` gave.
        plans: as for :func:`foveate.ask`; the full model is always asked too.
        tasks, data: see :meth:`foveate.compare.source.Source.of`. n: questions of each task.
        seed, difficulty, frames: see :class:`foveate.compare.source.Source`; the seed is torch's while answering, too.
        max_new_tokens: of an answer; None for a little more than the right answer has.
        device: as for :func:`foveate.load`. out: a folder. pool: spread over Ray; models must be names then.
        clients, seconds: how many ask a server at a time, where throughput is measured, and for how long.
        command: goes into every row. tell: called with a step's name, how much is done and how much there is.

    Raises:
        FoveateError: a model, plan, task or file that cannot be, or that the full model cannot be asked about; or
            another run that writes to ``out`` now. A plan that cannot run on a model is left out, with the reason.
    """
    if not models:
        raise InputError("name a model to compare plans on")
    if max_new_tokens is not None and max_new_tokens < 1:
        raise InputError(f"'max_new_tokens' must be at least 1. Got {max_new_tokens}.")
    if min([1, *clients]) < 1 or seconds <= 0:
        raise InputError(f"'clients' and 'seconds' must be above 0. Got {list(clients)} and {seconds}.")
    named = not any(isinstance(m, Loaded) for m in models)
    if (pool is not None or clients) and not named:
        raise InputError("workers and servers load the model themselves; give its name or folder")
    for plan in plans:  # what cannot be read is refused before a model is loaded
        plan_of(plan)
    commit()  # what is measured is what was checked out now
    run = f"{time.time_ns():x}-{os.getpid()}"
    home = Path(out)
    told: list[_One] = []
    with Log(home / "answers.jsonl") as log:
        for model in models:
            one = _One(model, log, run, max_new_tokens, tell)
            one.begin(plans, tasks, data, n, seed, difficulty, frames, device, pool)
            one.ask(pool)
            if clients:
                one.serve(clients, seconds, Lines(home, "throughput"))
            told.append(one)
    about = {
        "command": command, "foveate": __version__, "commit": commit(), "machine": machine(), "seed": seed, "n": n,
        "difficulty": difficulty, "frames": frames, "data": "" if data is None else str(data),
        "tasks": list(told[0].source.names), "workers": 1 if pool is None else pool.workers,
        "answered": sum(o.answered for o in told), "known": sum(o.known for o in told),
        "same_questions_left_out": sum(o.twice for o in told),
    }  # fmt: skip
    rows = [row | {"command": command, "seed": seed, "log": str(log.path)} for o in told for row in o.rows()]
    left_out = {o.name: o.left_out for o in told if o.left_out}
    examples = [e for o in told for e in o.examples()]
    return Comparison(rows, left_out, about, [o.note for o in told if o.note], examples, log.path)


@dataclass
class _One:
    """One model's part."""

    model: str | Path | Loaded
    log: Log
    run: str
    limit: int | None
    tell: Progress | None
    name: str = ""
    note: str = ""
    steps: dict[str, Plan] = field(default_factory=dict)  # by name in the rows
    keys: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # task -> plan -> one key a question
    questions: dict[str, list[Question]] = field(default_factory=dict)  # without their media
    left_out: dict[str, str] = field(default_factory=dict)
    rates: dict[str, dict[str, Any]] = field(default_factory=dict)
    answered: int = 0
    known: int = 0
    twice: int = 0

    def begin(
        self, plans: Sequence[Any], tasks: str | Sequence[str] | None, data: str | Path | None, n: int, seed: int,
        difficulty: float, frames: int, device: str | None, pool: Pool | None,
    ) -> None:  # fmt: skip
        """Load the model and say what it is asked."""
        self._tell("loading", 0, None)
        model = self.model
        # workers answer, so the driver's copy, which only says what is asked, can be anywhere
        loaded = model if isinstance(model, Loaded) else load(model, device="cpu" if pool is not None else device)
        self.name, self.note = loaded.name, loaded.note
        made = [Plan.of(""), *(plan_of(p, loaded.vision, loaded.family) for p in plans)]
        self.steps = {str(p) or FULL: p for p in made}
        self.source = Source.of(tasks, data, loaded, n=n, seed=seed, difficulty=difficulty, frames=frames)
        self.asker = Asker(loaded, frames, self.limit, seed, self.run, None if pool is None else pool.device)
        self.few: list[Question] = []

    def ask(self, pool: Pool | None) -> None:
        """Ask what is not in the log."""
        jobs: list[Job] = []
        for task in self.source.names:
            questions = self.source.questions(task)
            todo = self._todo(task, questions)
            if pool is None:
                self._take(self._here(questions, todo), task, todo)
            jobs += todo
        if pool is not None and jobs:
            model = str(Path(self.name).resolve()) if Path(self.name).is_dir() else self.name
            self.asker.loaded.model.to("meta")  # gives its memory to the workers
            self._take(spread(pool, model, self.source, self.limit, self.run, jobs), "workers", jobs)
        missing = [k for t in self.keys.values() for p, ks in t.items() if p not in self.left_out for k in ks
                   if k not in self.log.found]  # fmt: skip
        if missing:
            raise InputError(f"{len(missing)} answers did not come back; run the same command again")

    def _todo(self, task: str, questions: Sequence[Question]) -> list[Job]:
        """What is still to be asked of a task. The same question twice would count one answer twice: it is left out."""
        self.keys[task], self.questions[task] = {p: [] for p in self.steps}, []
        seen, jobs = set[str](), []
        for i, question in enumerate(questions):
            mark = digest(question.messages)
            if mark in seen:
                self.twice += 1
                continue
            seen.add(mark)
            self.questions[task].append(replace(question, messages=[], item=None))
            keys = {p: self.asker.key(question, plan, mark) for p, plan in self.steps.items()}
            for p, key in keys.items():
                self.keys[task][p].append(key)
            order = [*keys][i % len(keys) :] + [*keys][: i % len(keys)]  # each plan is first as often as others
            new = [p for p in order if keys[p] not in self.log.found]
            self.known += len(keys) - len(new)
            if new:
                jobs.append(Job(task, i, tuple(str(self.steps[p]) for p in new), tuple(keys[p] for p in new)))
        self.few += questions[:FEW]
        return jobs

    def _here(self, questions: Sequence[Question], jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
        for job in jobs:
            for text, key in zip(job.plans, job.keys):
                if (text or FULL) not in self.left_out:
                    yield self.asker.entry(job.task, job.i, questions[job.i], self.steps[text or FULL], key)

    def _take(self, entries: Iterable[dict[str, Any]], step: str, jobs: Sequence[Job]) -> None:
        """Write what comes to the log."""
        total = sum(len(j.keys) for j in jobs)
        for done, entry in enumerate(entries, 1):
            self._tell(f"{self.name} {step}", done, total)
            if "failed" not in entry:
                self.answered += self.log.add(entry)
                continue
            told = f"{entry['task']}, question {entry['i'] + 1}: {entry['failed']}"
            if entry["media"]:
                raise MediaError(told)
            if entry["plan"] == FULL:
                raise InputError(f"the full model cannot be asked. {told}")
            self.left_out[entry["plan"]] = told

    def serve(self, clients: Sequence[int], seconds: float, lines: Lines) -> None:
        """Measure throughput, or take what was measured with the same settings."""
        from .load import throughput

        plans = [p for p in self.steps if p not in self.left_out]
        parts = [self.asker.keys.about, self.asker.keys.marks, plans, [digest(q.messages) for q in self.few],
                 list(clients), seconds, self.source.frames, machine()]  # fmt: skip
        self._tell(f"{self.name} throughput", 0, None)

        def make() -> dict[str, Any]:
            return throughput(self.name, plans, self.few, clients, seconds, self.source.frames)

        self.rates = lines.once(parts, make)

    # --- what came out --------------------------------------------------------------------------------------------

    def _found(self) -> dict[str, dict[str, list[dict[str, Any]]]]:
        plans = [p for p in self.steps if p not in self.left_out]
        return {p: {t: [self.log.found[k] for k in ks[p]] for t, ks in self.keys.items()} for p in plans}

    def rows(self) -> list[dict[str, Any]]:
        """Rows of all plans, with the machines and commits that their answers came from."""
        found, out = self._found(), []
        for row in rows_of(self.questions, found):
            names = [*self.questions] if row["task"] == ALL else [row["task"]]
            mine = [e for name in names for e in found[row["plan"]][name]]
            machines = list({str(e["machine"]): e["machine"] for e in mine}.values())
            made = {"commit": ", ".join(sorted({e["commit"] for e in mine})), "machine": machines}
            last = row["task"] == ALL or len(self.questions) == 1
            rates = {"throughput": self.rates.get(row["plan"])} if last else {}
            weights = self.asker.keys.model[:10]
            out.append({"model": self.name, "weights": weights, **row, **rates, **made})
        return out

    def examples(self) -> list[dict[str, Any]]:
        """Some answers of each plan that are not the full model's."""
        found, out = self._found(), []
        for plan in found:
            for task in self.questions:
                pairs = zip(found[plan][task], found[FULL][task])
                other = [(m, f) for m, f in pairs if m["said"] != f["said"]][:SHOWN]
                for m, f in other:
                    words = {"question": m["question"], "wanted": m["wanted"], "full": f["said"], "said": m["said"]}
                    out.append({"model": self.name, "plan": plan, "task": task, **words})
        return out

    def _tell(self, step: str, done: int, total: int | None) -> None:
        if self.tell is not None:
            self.tell(step, done, total)
