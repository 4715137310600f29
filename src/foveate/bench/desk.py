"""One process's part of a study: a model, its exam, and every result kept as soon as it is there."""

from __future__ import annotations

import functools
import hashlib
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from .. import spec
from ..apply import apply
from ..drawing import slots
from ..lab.tasks import Item
from ..load import Loaded
from ..prompt import Prompt
from ..spec import Plan
from . import exam, plans
from .kept_lines import Lines, in_a_line
from .paired import mean
from .shelf import Shelf
from .topic import Topic

#: What the answers under a plan depend on, besides the plan's own methods.
SHARED = (
    *("apply.py", "drawing.py", "grid.py", "load.py", "method.py", "reduction.py", "spec.py", "tokens.py"),
    *("parts", "sites", "stores", "families", "prompt", "lab/tasks", "lab/evaluate.py", "bench/exam.py"),
)
FULL = "none"


class Desk:
    """Asks the exam under plans.

    Args:
        loaded: the model. topic: what it is asked about. seed, n: of the items.
        folder: of items and results, kept between runs.
        marks: of the source that runs; None takes them from the files now.
        difficulty: of the items.
    """

    def __init__(
        self,
        loaded: Loaded,
        topic: Topic,
        seed: int,
        n: int,
        folder: Path,
        marks: dict[str, str] | None = None,
        difficulty: float = 0.5,
    ) -> None:
        self.loaded, self.topic = loaded, topic
        self.marks = marked() if marks is None else marks
        self.items = topic.items(seed, n, folder, difficulty)
        self.lines = Lines(folder, topic.study)
        #: with :attr:`marks`, what every key is made of; unchanged, earlier results still count
        self.about = [topic.label(seed, n, difficulty), weights(loaded)]

    @functools.cached_property
    def shelf(self) -> Shelf:
        """All items, prepared."""
        return Shelf(self.loaded, self.items, self.topic.batch, self.topic.part, self.topic.opened)

    @functools.cached_property
    def probe(self) -> Prompt:
        """A few items of all tasks in one batch."""
        return self.loaded.prompt([i.messages[:1] for i in self._few(self.topic.probes)])

    @functools.cached_property
    def singles(self) -> list[Prompt]:
        """A few items of different tasks, one by one."""
        return [self.loaded.prompt(i.messages[:1]) for i in self._few(self.topic.timed)]

    def _few(self, most: int) -> list[Item]:
        step = len(self.items) / min(most, len(self.items))
        return [self.topic.opened(self.items[int(k * step)][1]) for k in range(min(most, len(self.items)))]

    @functools.cached_property
    def visual(self) -> int:
        """Visual tokens of a prompt, on average."""
        return round(mean([len(v.where) for v in self.probe.visuals]))

    def forget(self) -> None:
        """Give up the prepared prompts; they are made again when they are needed."""
        for name in ("shelf", "probe", "singles"):
            self.__dict__.pop(name, None)

    # --- what is asked of it ------------------------------------------------------------------------------------------

    def sheet(self, plan: str) -> dict[str, Any]:
        """Answers under a plan; see :class:`Sheet`."""
        found: dict[str, Any] = self._once("sheet", plan, lambda: self._sheet(plan))
        return found

    def kept(self, plan: str) -> float:
        """The mean share of visual tokens left on the items that options are searched on."""
        return float(self._once("kept", plan, lambda: self._kept(plan)))

    def cost(self, plan: str) -> dict[str, float]:
        """FLOPs and time to first token of one prompt, with the plan and without: means, and medians of times."""
        found: dict[str, float] = self._once("cost", plan, lambda: self._cost(plan))
        return found

    def run(self, method: str, keeps: tuple[float, ...]) -> dict[str, Any]:
        """All plans of a method: {"plans": {plan: share wanted, or None}, "seconds": s, "why": None or what failed}."""
        begun = time.perf_counter()
        try:
            cls = spec.get(method)
            out = plans.at_shares(cls, keeps, self.visual, self.kept)
            for plan in out:
                self.sheet(plan)
        except Exception as error:  # a fault in one method must not end the study; it is named in the results
            return {"plans": {}, "seconds": 0.0, "why": in_a_line(error)}
        return {"plans": out, "seconds": time.perf_counter() - begun, "why": None}

    # --- how it is done -----------------------------------------------------------------------------------------------

    def _once(self, kind: str, plan: str, make: Any) -> Any:
        own = [self.marks[m.name] for m in Plan.of(_text(plan))]
        return self.lines.once([kind, *self.about, plan, self.marks[""], *own], make)

    def _sheet(self, plan: str) -> dict[str, Any]:
        begun = time.perf_counter()
        sheet = self.shelf.ask(_text(plan))
        kept = [round(k, 4) for k in sheet.kept]
        seen = [e if e is None else round(e, 4) for e in sheet.evidence]
        return {"said": sheet.said, "kept": kept, "evidence": seen, "seconds": round(time.perf_counter() - begun, 3)}

    @torch.inference_mode()
    def _kept(self, plan: str) -> float:
        with apply(self.loaded.model, _text(plan)) as report:
            self.loaded.model(**self.probe.inputs, logits_to_keep=1)
        ended = slots(self.probe, report.kept, ("inputs", "layers"))
        left = [(ended[v.row, v.where.cpu()] == v.where.cpu()).float().mean() for v in self.probe.visuals]
        return float(torch.stack(left).mean())

    @functools.cached_property
    def tower(self) -> float:
        """FLOPs of the vision tower's blocks on one picture or clip."""
        with torch.inference_mode(), apply(self.loaded.model, "tome(r=0)") as report:
            self.loaded.model(**self.singles[0].inputs, logits_to_keep=1)
        return report.row("encoder", "tome(r=0)").flops_full

    @torch.inference_mode()
    def _cost(self, plan: str) -> dict[str, float]:
        times: dict[str, list[float]] = {"full": [], "plan": []}
        flops, full = list[float](), list[float]()
        text = _text(plan) or "random(keep=1.0)"  # the report counts only where a plan is in place
        for turn, prompt in enumerate([self.singles[0], *self.singles]):  # the first warms up
            took = {}
            for which in ("full", "plan") if turn % 2 else ("plan", "full"):
                with apply(self.loaded.model, "" if which == "full" else text) as report:
                    took[which] = self._first_token(prompt)
                if which == "plan":
                    inside = [r for r in report.rows if r.stage == "encoder" and r.flops_full]  # not those of signals
                    seen = inside[0].flops if inside else self.tower
                    flops.append(seen + report.flops)
                    full.append(self.tower + report.flops_full)
            for which in times:
                times[which] += [took[which]] * (turn > 0)
        ms = {which: 1e3 * median(values) for which, values in times.items()}
        return {"flops": mean(flops[1:]), "flops_full": mean(full[1:]), "ms": ms["plan"], "ms_full": ms["full"]}

    def _first_token(self, prompt: Prompt) -> float:
        begun = time.perf_counter()
        self.loaded.model(**prompt.inputs, logits_to_keep=1).logits.argmax(-1).tolist()  # waits for a GPU
        return time.perf_counter() - begun


def _text(plan: str) -> str:
    return "" if plan == FULL else plan


def marked() -> dict[str, str]:
    """What changes with the source: of each of foveate's methods by name, and of all that they share by ""."""
    own = {n: c.__module__ for n, c in spec.methods().items() if c.__module__.startswith("foveate.")}
    files = {n: module.removeprefix("foveate.").replace(".", "/") + ".py" for n, module in own.items()}
    return {"": exam.sources(*SHARED)} | {n: exam.sources(file) for n, file in files.items()}


def weights(loaded: Loaded) -> str:
    """Ten letters that change with a model's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(loaded.model.state_dict().items()):
        digest.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:10]
