"""The plan that is on the model while tokens are written: it stays there from one token to the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ..apply import apply
from ..spec import Plan

#: Methods of these stages have done their work when the prompt was read, and know nothing of one step in the next.
_DONE = frozenset(("encoder", "inputs", "layers"))


class InPlace:
    """Puts plans on the model for single steps, and takes one off only when something else has its turn.

    Putting one on walks over all modules of the model, which took as long as the step itself on a small model.

    Attributes:
        stale: set where a step failed inside the block; the plan is taken off at the block's end.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._stack, self._name, self.stale = ExitStack(), "", False

    @contextmanager
    def step(self, plan: Plan) -> Iterator[None]:
        """Inside the block the model runs with ``plan``; whatever goes wrong in it takes the plan off."""
        if not plan:  # tokens of the full model need nothing in place
            self.leave()
            yield
        elif all(m.stage in _DONE for m in plan):
            if self._name != str(plan):
                self.leave()
                self._stack.enter_context(apply(self.model, plan))
                self._name = str(plan)
            try:
                yield
            except BaseException:
                self.stale = True
                raise
            finally:
                if self.stale:
                    self.leave()
        else:
            self.leave()
            with apply(self.model, plan):
                yield

    def leave(self) -> None:
        """Take off what is there; the model is as it was."""
        self._name, self.stale = "", False
        self._stack.close()
