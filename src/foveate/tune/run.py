"""The whole of tuning: candidates, search, one choice, and its evidence on questions that the search never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import __version__, spec
from ..bench import plans
from ..bench.kept_lines import in_a_line
from ..bench.paired import difference, named, rounded, share
from ..bench.results import machine
from ..bench.study import LEFT_OUT
from ..errors import InputError
from ..lab.evaluate import wilson
from ..lab.tasks.seeds import known
from ..load import Loaded
from ..method import options
from ..prompt import Progress
from . import claim
from .asking import FULL, Asker
from .claim import Finding
from .mutate import mutate
from .questions import questions
from .search import Trial, evolve, front, halve
from .target import Target
from .tuned import Tuned

KEEPS = (0.5, 0.25, 0.1, 0.05)
STAGES = ("encoder", "inputs", "layers", "cache")
LEAST = 8  # plans that go on in every round
RUNGS = (16, 4, 2, 1)  # the search asks all items divided by these
_WRONG = "the search needs an item, and the evidence another"


def tune(
    loaded: Loaded,
    data: str | Path,
    targets: str | Sequence[str],
    *,
    methods: Sequence[str] = (),
    keeps: Sequence[float] = KEEPS,
    items: int = 160,
    held_out: int = 160,
    generations: int = 3,
    children: int = 8,
    batch: int = 10,
    max_new_tokens: int | None = None,
    rounds: int = 12,
    seed: int = 0,
    folder: Path | None = None,
    command: str = "",
    tell: Progress | None = None,
) -> Tuned:
    """Search plans for a target, choose one, and measure it on questions that the search never saw.

    The search is the same for the same seed; times are only measured of plans on the front, and never rank them before.

    Args:
        loaded: what :func:`foveate.load` gave. data: see :func:`foveate.tune.questions.questions`.
        targets: see :class:`foveate.tune.target.Target`; several have to hold together.
        methods: names; none for every method that drops tokens, and those of the cache where its bytes are bounded.
        keeps: shares that each method starts with. items: that plans are compared on. held_out: of the evidence.
        generations, children: of the evolution; 0 generations leave it out.
        batch, max_new_tokens: of asking. rounds: prompts whose first token is timed.
        seed: of items and search. folder: where results are kept, so that the same call goes on where it stopped.
        command: goes into the evidence. tell: called with a step's name, how much is done and how much there is.

    Raises:
        InputError: a target, data, method or number that cannot be.
    """
    wanted = [Target.parse(t) for t in ([targets] if isinstance(targets, str) else targets)]
    if not wanted:
        raise InputError("say what to tune for, such as 'accuracy>=0.98*full'")
    for name, value, low in (("items", items, 1), ("held_out", held_out, 1), ("generations", generations, 0),
                             ("children", children, 1), ("rounds", rounds, 1)):  # fmt: skip
        if value < low:
            raise InputError(f"'{name}' must be at least {low}. Got {value}.")
    if not keeps or not all(0 < k <= 1 for k in keeps):
        raise InputError(f"'keeps' must be shares in (0, 1]. Got {list(keeps)}.")
    found = questions(data, loaded, items + held_out, seed)
    if len(found) < 2:
        raise InputError(f"{str(data)!r} gives {len(found)} question; {_WRONG}")
    if len(found) < items + held_out:  # what there is, shared out in the same proportion
        items = min(len(found) - 1, max(1, round(len(found) * items / (items + held_out))))
    asker = Asker(loaded, found, batch, max_new_tokens, folder)
    return _Tuning(asker, wanted, items, rounds, tell).run(
        methods, keeps, generations, children, seed, {"data": str(data), "seed": seed, "command": command}
    )


class _Tuning:
    """One search: what is asked of whom, what for, and what cannot run."""

    def __init__(self, asker: Asker, targets: list[Target], items: int, rounds: int, tell: Progress | None) -> None:
        self.asker, self.targets, self.items, self.rounds, self.tell = asker, targets, items, rounds, tell
        self.axis = next((t.metric for t in targets if t.metric in ("kv", "memory")), "flops")
        self.full_cost = asker.cost(FULL)
        self.left_out: dict[str, str] = {}
        self.tried: set[str] = set()

    def run(
        self,
        methods: Sequence[str],
        keeps: Sequence[float],
        generations: int,
        children: int,
        seed: int,
        about: dict[str, Any],
    ) -> Tuned:
        sizes = sorted({max(1, self.items // r) for r in RUNGS})
        start = self.candidates(methods, keeps)
        best = halve(start, sizes, self.ask, self.refuted, LEAST)
        best = evolve(best, generations, children, mutate, sizes[-2:], self.ask, self.refuted, LEAST, seed)
        if not best:
            why = "; ".join(f"{p}: {w}" for p, w in list(self.left_out.items())[:3]) or "there are none"
            raise InputError(f"no plan can run on this model: {why}")
        full = Trial(FULL, 1.0, tuple(self.asker.say(FULL, 0, self.items).scores))
        choice = min(best, key=self.order)
        rest = len(self.asker.questions) - self.items
        about = about | {
            "items": self.items, "held_out": rest, "plans_tried": len(self.tried), "questions_asked": self.asker.asked,
            "weights": self.asker.about[1], "foveate": __version__, "source": self.asker.marks[""],
            "machine": machine(),
        }  # fmt: skip
        loaded = self.asker.loaded
        return Tuned(
            choice.plan, loaded.name, loaded.family, tuple(self.findings(choice.plan, self.items, rest)),
            self.evidence(choice.plan, rest), [self.row(t) for t in front([*best, full])], self.row(full),
            about, self.left_out,
        )  # fmt: skip

    # --- candidates ---------------------------------------------------------------------------------------------------

    def candidates(self, only: Sequence[str], keeps: Sequence[float]) -> list[str]:
        """Each method at each share, as plans; what cannot be made is left out, and why is kept."""
        stages = STAGES if self.axis in ("kv", "memory") or not self.asker.loaded.vision else STAGES[:-1]
        own = {n: c for n, c in spec.methods().items() if c.stage in STAGES and n not in LEFT_OUT}
        for name in only:
            known("method", name, own)
        names = list(only) or [n for n, c in own.items() if c.stage in stages]
        out: list[str] = []
        for k, name in enumerate(names):
            self._tell("making plans", k, len(names))
            try:
                out += self.plans_of(own[name], keeps)
            except Exception as error:
                self._leave(name, error)
        return list(dict.fromkeys(out))

    def plans_of(self, cls: type[Any], keeps: Sequence[float]) -> list[str]:
        """One method at each share; where no option sets the share, those plans that come near one."""
        if "keep" in options(cls):
            return [str(cls(keep=float(k))) for k in keeps]
        if cls.stage == "cache":
            return [str(cls())]
        prompt = self.asker.prompt(self.asker.questions[0])
        visual = max((len(v.where) for v in prompt.visuals), default=1)
        return list(plans.at_shares(cls, keeps, visual, self.asker.kept))

    def _leave(self, plan: str, error: Exception) -> None:
        # a fault in one method must not end the search; it is named in what is written
        self.left_out[plan] = in_a_line(error)[:300]

    # --- trials -------------------------------------------------------------------------------------------------------

    def ask(self, plan: str, n: int) -> Trial | None:
        """A plan on the first n items."""
        if plan in self.left_out:
            return None
        self.tried.add(plan)
        self._tell(f"plans asked, {n} items each", len(self.tried), None)
        try:
            scores = tuple(self.asker.say(plan, 0, n).scores)
            return Trial(plan, self.share(plan, self.axis), scores)
        except Exception as error:
            self._leave(plan, error)
            return None

    def share(self, plan: str, metric: str) -> float:
        """A counted cost as a share of the full model's."""
        return self.asker.cost(plan)[metric] / max(self.full_cost[metric], 1e-30)

    def refuted(self, t: Trial) -> bool:
        """Whether what is known rules a target out: an interval that ends short of it, or a count beyond it."""
        for target in self.targets:
            if target.metric == "accuracy":
                if target.relative:
                    full = self.asker.say(FULL, 0, len(t.scores)).scores
                    gaps = [m - target.bound * f for m, f in zip(t.scores, full)]
                    if difference(gaps, [0.0] * len(gaps))[2] < 0:
                        return True
                elif wilson(sum(t.scores), len(t.scores))[1] < target.bound:
                    return True
            elif target.metric != "ttft" and not self.found(target, t.plan, 0, 0).supported:
                return True
        return False

    def found(self, target: Target, plan: str, first: int, n: int) -> Finding:
        """One target held against a plan on n items from the first on."""
        if target.metric == "accuracy":
            mine, full = (self.asker.say(p, first, n).scores for p in (plan, FULL))
            return claim.accuracy(target, mine, full)
        if target.metric == "ttft":
            return claim.times(target, *self.asker.times(plan, self.rounds))
        cost, full_cost = self.asker.cost(plan)[target.metric], self.full_cost[target.metric]
        return claim.counted(target, cost, full_cost, len(self.asker.probed))

    def findings(self, plan: str, first: int, n: int) -> list[Finding]:
        return [self.found(t, plan, first, n) for t in self.targets]

    def order(self, t: Trial) -> tuple[float, ...]:
        """What is preferred comes first: the cheapest plan where accuracy is bounded, else the most accurate one.

        Only among those that the items of the search support; where none is, the one that comes nearest.
        """
        found = self.findings(t.plan, 0, self.items)
        missed = sum(not f.supported for f in found)
        if missed:
            sides = [(f.low - f.limit) if g.metric == "accuracy" else (f.limit - f.value) / f.limit
                     for f, g in zip(found, self.targets)]  # fmt: skip
            return (missed, -sum(min(0.0, s) for s in sides), t.cost)
        bounded = any(g.metric == "accuracy" for g in self.targets)
        return (0, t.cost, -t.accuracy) if bounded else (0, -t.accuracy, t.cost)

    # --- what is written down -----------------------------------------------------------------------------------------

    def evidence(self, plan: str, n: int) -> dict[str, Any]:
        """The choice on the last n questions: how right, how much like the full model, how long, and what it costs."""
        mine, full = (self.asker.say(p, self.items, n) for p in (plan, FULL))
        asked = self.asker.questions[self.items :]
        loyal = [replace(q, answers=(f,), match="exact").score(m) for q, m, f in zip(asked, mine.texts, full.texts)]
        ratio = [a / b for a, b in zip(*self.asker.times(plan, self.rounds))]
        ttft = dict(zip(("ttft", "ttft_low", "ttft_high"), claim.middle(ratio)))
        return {
            "n": n,
            **share(mine.scores),
            "full": share(full.scores),
            **named("loss", difference(full.scores, mine.scores)),
            "loyalty": round(sum(loyal) / n, 4),
            "length": round(sum(mine.tokens) / max(1, sum(full.tokens)), 4),
            "visual_tokens_kept": round(self.asker.kept(plan), 4),
            "cost": {m: round(self.share(plan, m), 4) for m in ("flops", "kv", "memory")},
            **rounded({k: v for k, v in ttft.items() if v != float("inf")}),
            "ttft_prompts": len(ratio),
        }

    def row(self, t: Trial) -> dict[str, Any]:
        return {"plan": t.plan or "none", self.axis: round(t.cost, 4), **share(t.scores), "n": len(t.scores)}

    def _tell(self, step: str, done: int, total: int | None) -> None:
        if self.tell is not None:
            self.tell(step, done, total)
