"""The scheduler: one thread owns the model; answers in the making go on together, and never wait for a whole prompt.

Each round reads at most one waiting prompt, alone, and then lets every running answer go on by one token: answers of
one plan in one forward, plan after plan (decode-maximal batching, after Agrawal et al., "Sarathi-Serve",
arXiv 2403.02310; prompts are not cut into chunks here, so one long prompt holds up the others by its own length). An
answer joins and leaves between rounds; when nobody waits for it any more its keys and values are freed before the next.

Caches that cannot lie in one (evicted head by head, quantised, asked again while tokens are written) go on alone, in
turns. Plans with a method of stage decode answer one request at a time, by ``generate`` as it is.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from ..apply import check
from ..load import Loaded
from ..sites.joint import Joint
from ..sites.model import anatomy
from ..sites.rows import compacted, nbytes
from ..spec import Plan
from .answering import Answering
from .inplace import InPlace
from .metrics import Metrics
from .problems import Problem, stopping, told
from .reading import Reader
from .reuse import Prefix, Reuse, blind
from .settings import Settings
from .task import Failed, Task

log = logging.getLogger("foveate.serve")


class Engine:
    """Answers tasks on a thread of its own.

    Args:
        loaded: the model; while the engine runs, nothing else may use it.
        settings: limits. metrics: what is counted.
    """

    def __init__(self, loaded: Loaded, settings: Settings, metrics: Metrics) -> None:
        self.loaded, self.settings, self.metrics = loaded, settings, metrics
        self.parts = anatomy(loaded.model)
        self.reuse = Reuse(settings.reuse_bytes)
        self.reader = Reader(loaded, settings, self.reuse, metrics)
        self._plan = InPlace(loaded.model)
        self._waiting: deque[Task] = deque()
        self._running: dict[str, list[tuple[Plan, Joint, list[Answering]]]] = {}
        self._now: Task | None = None
        self._open = threading.Condition()
        self._places = 0
        self._pace = 1.0  # seconds of an answer, shared by those made at a time; smoothed
        self._stop = False
        self._thread: threading.Thread | None = None

    # --- from other threads ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to answer."""
        self._stop = False
        self._thread = threading.Thread(target=self._live, name="foveate-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Fail what is unfinished, free everything, and end the thread."""
        with self._open:
            self._stop = True
            self._open.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def running(self) -> int:
        """Answers in the making."""
        return sum(len(a) for groups in list(self._running.values()) for _, _, a in list(groups))

    @property
    def waiting(self) -> int:
        """Requests that hold a place: prepared now, or waiting to be answered."""
        return self._places

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values of all answers in the making."""
        joints = [j for groups in list(self._running.values()) for _, j, _ in list(groups)]
        return sum(nbytes(c) for j in joints if (c := j.cache) is not None)

    def reserve(self) -> None:
        """Take a place in the queue, before any work is done for a request; :meth:`release` gives it back.

        Raises:
            Problem: 429 when all are taken, with the seconds after which one may be free.
        """
        with self._open:
            if self._stop:
                raise stopping()
            if self._places >= self.settings.waiting:
                wait = min(60, max(1, math.ceil(self._pace * self._places)))
                raise Problem(429, "queue_full", "The server has too many requests; try again later.", retry=wait)
            self._places += 1

    def release(self) -> None:
        """Give a place back that no task was submitted for."""
        with self._open:
            self._places -= 1

    def submit(self, task: Task) -> None:
        """Queue a task; its place is given back when its turn comes."""
        with self._open:
            if self._stop:
                raise stopping()
            self._waiting.append(task)
            self._open.notify()

    def check(self, plan: Plan) -> None:
        """Raises PlanError where a plan cannot work on this model; only while the engine does not run."""
        check(self.parts, Plan(m for m in plan if m.stage != "media"))

    # --- the thread -----------------------------------------------------------------------------------------------

    def _live(self) -> None:
        """Go on whatever happens: what failed is told, and the rest is answered."""
        with ExitStack() as stack:
            for layer in self.parts.layers:
                stack.callback(layer.register_forward_pre_hook(self._look_up).remove)
            while True:
                try:
                    with torch.no_grad():
                        self._rounds()
                    self._plan.leave()
                    break
                except BaseException as error:
                    log.exception("the engine failed; it goes on")
                    self._plan.leave()
                    self.metrics.restarts.inc()
                    self._fail_all(told(error))
            self._fail_all(stopping())
            self.reuse.clear()

    def _look_up(self, module: Any, args: Any) -> None:
        """Between layers: stop reading a prompt that nobody waits for any more."""
        if self._now is not None and (over := self._now.over) is not None:
            raise over

    def _rounds(self) -> None:
        while True:
            with self._open:
                while not (self._waiting or self._running or self._stop):
                    self._open.wait()
                if self._stop:
                    return
                task = self._waiting.popleft() if self._waiting and self.running < self.settings.running else None
                if task is not None:
                    self._places -= 1
            if task is not None:
                self._begin(task)
            for name in list(self._running):
                self._advance(name)

    def _fail_all(self, problem: Problem) -> None:
        with self._open:
            gone = list(self._waiting) if self._stop else []
            if self._stop:
                self._places -= len(gone)
                self._waiting.clear()
        gone += [a.task for groups in self._running.values() for _, _, answers in groups for a in answers]
        gone += [self._now] if self._now is not None else []
        self._now = None
        self._running.clear()
        for task in gone:
            self._tell(task, problem)

    def _tell(self, task: Task, problem: Problem) -> None:
        try:
            task.emit(Failed(problem))
        except Exception:  # one who cannot be told keeps nobody else from being told
            log.exception("%s cannot be told", task.name)

    @contextmanager
    def _answering(self, task: Task) -> Iterator[None]:
        """What goes wrong in here is told to this task's client alone."""
        self._now = task
        try:
            if (over := task.over) is not None:
                raise over
            yield
        except Exception as error:
            problem = told(error)
            if not isinstance(error, Problem):
                log.log(logging.ERROR if problem.status >= 500 else logging.INFO, "%s failed", task.name, exc_info=True)
            self._now = None
            self._tell(task, problem)
        self._now = None

    def _begin(self, task: Task) -> None:
        """Read a prompt and write the first token of its answer."""
        with self._answering(task):
            self._plan.leave()
            if task.plan.at("decode"):
                from .alone import answer_alone

                answer_alone(self.loaded, self.parts, task, self.reader.visual)
                self._count(task)
                return
            new, logits = self.reader.read(task)
            self._join(new, new.write(logits))

    def _join(self, new: Answering, over: str | None) -> None:
        if over is not None:
            self._end(new, over, new.run.cache)
            return
        groups = self._running.setdefault(str(new.task.plan), [])
        for _, joint, answers in groups:
            if joint.takes(new.run):
                joint.add(new.run)
                answers.append(new)
                return
        groups.append((new.task.plan, Joint(self.loaded.model, new.run), [new]))

    def _advance(self, name: str) -> None:
        """One token for every answer of a plan."""
        groups = self._running[name]
        plan = Plan(m for m in groups[0][0] if m.stage != "media")
        with self._plan.step(plan):
            for group in list(groups):
                _, joint, answers = group
                try:
                    self._step(joint, answers)
                except Exception as error:
                    self._plan.stale = True  # hooks may hold what the failed step left
                    log.exception("%d answers failed", len(answers))
                    for a in answers:
                        self._tell(a.task, told(error))
                    answers.clear()
                if not answers:
                    groups.remove(group)
        if not groups:
            del self._running[name]
        if not self._running:
            self._plan.leave()

    def _step(self, joint: Joint, answers: list[Answering]) -> None:
        gone = [(a, over) for a in answers if (over := a.task.over) is not None]
        if gone:
            joint.drop([a.run for a, _ in gone])
            for a, over in gone:
                answers.remove(a)
                self._tell(a.task, over)
        if not answers:
            return
        logits = joint.step([a.next for a in answers])
        done = [(a, why) for a, row in zip(answers, logits) if (why := a.write(row)) is not None]
        for a, why in done:
            answers.remove(a)
            self._end(a, why, joint.remove(a.run))

    def _end(self, a: Answering, over: str, cache: Any) -> None:
        a.end(over)
        self._count(a.task)
        self.metrics.written.inc(a.tokens)
        may = a.task.reuse and a.task.prompt is not None and self.settings.reuse_bytes > 0
        if may and blind(a.task.plan) and a.run.plain:
            ids = a.run.ids[0, : a.run.seen]
            kept = compacted(cache)
            self.reuse.keep_prefix(Prefix(a.key, ids, a.last, kept, a.run.delta, a.facts))

    def _count(self, task: Task) -> None:
        took = (time.monotonic() - task.came) / (self.running + 1)
        self._pace += 0.2 * (took - self._pace)
        self.metrics.whole.observe(time.monotonic() - task.came)
