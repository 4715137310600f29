"""Tools for testing methods and sites without downloading anything: common checks, tiny models with ready inputs."""

from foveate.testing.checks import MethodCheck, check_method
from foveate.testing.tiny import FAMILIES, TINY, tiny

__all__ = ["FAMILIES", "TINY", "MethodCheck", "check_method", "tiny"]
