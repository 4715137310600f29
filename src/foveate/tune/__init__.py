"""Find the plan for a model, data and a target, and say how sure that is; see :func:`foveate.tune.run.tune`."""

from .run import tune
from .target import Target
from .tuned import Tuned

__all__ = ["Target", "Tuned", "tune"]
