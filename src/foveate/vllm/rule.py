"""Which methods an engine can run that must know the number of tokens before it encodes, and that number.

A server counts the placeholders of a prompt first and encodes later. So how many tokens stay may follow from the grid
and the budget alone; which ones is the method's choice. Whether a method is like that is tried out, once, on stand-in
features that tempt it to keep more or fewer. vLLM is not imported here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError, PlanError, SignalError
from ..families import plan_on
from ..method import spec
from ..parts.budget import budget
from ..reduction import Reduction
from ..spec import Plan, methods
from ..stream.split import asks, blind
from ..tokens import SIGNALS, Tokens
from .layout import Layout, grid

#: Signals that are there between a server's encoder and its language model.
GIVEN = frozenset({"features", "grid", "size", "text"})

_LAYOUTS = (
    Layout(1, 5, 7),
    Layout(1, 8, 8),
    Layout(4, 4, 6),
    Layout(6, 3, 3),
    Layout(1, 6, 5, side=4, ends="line", flat=True),
)
_WIDTH = 16
_TRIED = (0.3, 0.05, 1.0, 5)


@dataclass(frozen=True)
class Rule:
    """A method, and how many tokens it leaves.

    Attributes:
        method: the inputs method.
        exact: the number is the budget of ``keep``; otherwise it follows from the grid, and is found by running the
            method on stand-in features.
        words: whether it decides by the words of the prompt.
    """

    method: Any
    exact: bool
    words: bool

    def count(self, layout: Layout) -> int:
        """How many of the layout's visual tokens stay."""
        return budget(self.method.keep, layout.free) if self.exact else _tried(self.method, layout)

    def reduce(self, x: Tensor, layout: Layout, words: Tensor | None = None) -> tuple[Reduction, bool]:
        """Decide. x (free, D) features, words (t, D) -> a map to :meth:`count` tokens, and whether it was made to fit.

        A method that keeps another number after all has its choice trimmed, or filled up, evenly: the engine has
        already made room for just so many.
        """
        r = self.method.reduce(_tokens(x, layout, words))
        m = self.count(layout)
        if r.m == m and bool(r.valid.all()):
            return r, False
        return fitted(r, m), True

    def __str__(self) -> str:
        return spec(self.method)


def rule_of(plan: Any, keep: float | int | None = None, family: str = "") -> Rule:
    """The rule of a plan of one inputs method. keep: in place of the method's own; family: a model type, for "auto".

    Raises:
        PlanError, OptionError, SignalError: why the plan cannot run in such an engine, and what can.
    """
    steps = plan_on(plan, family) if family else Plan.of(plan)
    if len(steps) != 1 or steps[0].stage != "inputs":
        raise PlanError(
            f"vLLM's cache and layers are its own, so a plan there is one method of stage inputs, such as "
            f"'divprune(keep=0.25)'. Got {str(steps)!r}."
        )
    m = steps[0]
    if keep is not None:
        if "keep" not in {f.name for f in dataclasses.fields(m)}:
            raise OptionError(
                f"{m.name} has no option 'keep', so none can be set for it; write its options in the plan"
            )
        m = dataclasses.replace(m, keep=keep)
    made = _rule(m)
    if isinstance(made, PlanError):
        others = ", ".join(n for n in works() if n != m.name)
        raise type(made)(f"{made}; these methods run there: {others}")
    return made


@functools.cache
def works() -> tuple[str, ...]:
    """Names of all methods that can run, at their defaults, in path order."""
    inputs = [name for name, cls in methods().items() if cls.stage == "inputs"]
    return tuple(name for name in inputs if isinstance(_rule(methods()[name]()), Rule))


def _rule(m: Any) -> Rule | PlanError:
    """The rule of a method, or why there is none. It is tried out once for all budgets."""
    for need in m.card.needs:
        if not set(need.split("|")) & GIVEN:
            about, needed = SIGNALS[need.split("|")[0]].split(",")[0], need.replace("|", " or ")
            return SignalError(f"{m.name} needs {needed} ({about}), which vLLM's encoder does not give")
    budgeted = getattr(m, "keep", None) is not None
    exact = _exact(dataclasses.replace(m, keep=_TRIED[0]) if budgeted else m, budgeted)
    if exact is None:
        hint = "" if budgeted or not hasattr(m, "keep") else f"; give it a budget, {m.name}(keep=0.25)"
        return PlanError(
            f"how many tokens {spec(m)} keeps depends on what the picture shows, and vLLM must know that before it "
            f"encodes{hint}"
        )
    return Rule(m, exact, asks(m) and blind(m) != m)


@functools.lru_cache(maxsize=256)
def _exact(m: Any, budgeted: bool) -> bool | None:
    """Whether the number kept is the budget of ``keep`` (True), or else follows from the grid (False), or from neither.

    budgeted: ``keep`` is set; it is then tried out at several values.
    """
    exact = budgeted
    for form in [dataclasses.replace(m, keep=k) for k in _TRIED] if budgeted else [m]:
        for layout in _LAYOUTS:
            found = {_kept(form, layout, x) for x in _lures(layout)}
            if len(found) != 1 or None in found:
                return None
            exact = exact and found == {budget(form.keep, layout.free)}
    return exact


def _lures(layout: Layout) -> Iterator[Tensor]:
    """Stand-in features (free, D): noise, nothing, all alike, frames that repeat, a few kinds, and one odd token."""
    n, cell = layout.free, grid(layout)
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(n, _WIDTH, generator=draw)
    place = cell[:, 1] * (int(cell[:, 2].max()) + 1) + cell[:, 2]
    yield noise
    yield torch.zeros(n, _WIDTH)
    yield torch.ones(n, _WIDTH)
    yield noise[place % n]
    yield noise[torch.arange(n) * 3 // n] + 0.01 * noise
    yield torch.ones(n, _WIDTH) + noise * (torch.arange(n) == n // 2)[:, None] * 9


def _kept(m: Any, layout: Layout, x: Tensor) -> int | None:
    """How many tokens a method leaves of x (free, D), None where it fails."""
    draw = torch.Generator().manual_seed(1)
    try:
        r = m.reduce(_tokens(x, layout, torch.randn(5, x.shape[1], generator=draw)))
    except Exception:  # whatever a third party's method may raise
        return None
    return int(r.lengths[0])


@functools.lru_cache(maxsize=4096)
def _tried(m: Any, layout: Layout) -> int:
    draw = torch.Generator().manual_seed(0)
    left = _kept(m, layout, torch.randn(layout.free, 2, generator=draw))
    if left is None:
        raise PlanError(f"{spec(m)} fails on a grid of {layout.frames} x {layout.rows} x {layout.cols} tokens")
    return left


def _tokens(x: Tensor, layout: Layout, words: Tensor | None) -> Tokens:
    cells = grid(layout).clone().to(x.device)[None]  # a method may write into what it is given
    return Tokens(x[None], full=len(x), grid=cells, text=None if words is None else words[None])


def fitted(r: Reduction, m: int) -> Reduction:
    """A map of one row made to keep m tokens: slots are left out, or tokens added on their own, at even distances."""
    kept = r.keep[0][r.valid[0]]
    if len(kept) > m:
        kept = kept[torch.arange(m, device=kept.device) * len(kept) // m]
    else:
        rest = (~r.kept[0]).nonzero()[:, 0]
        more = m - len(kept)
        kept = torch.cat([kept, rest[torch.arange(more, device=kept.device) * len(rest) // max(1, more)]])
    return Reduction.take(kept[None], r.n)
