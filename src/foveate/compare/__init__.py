"""Models x plans x tasks: how right, how alike, how fast, how large; see :func:`foveate.compare.run.compare`."""

from .pool import Pool
from .run import compare
from .told import Comparison

__all__ = ["Comparison", "Pool", "compare"]
