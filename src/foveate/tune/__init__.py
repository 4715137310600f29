"""Find the plan for a model, data and a target, and say how sure that is; see :func:`foveate.tune.run.tune`."""

from .run import Tuned, tune
from .target import Target

__all__ = ["Target", "Tuned", "tune"]
