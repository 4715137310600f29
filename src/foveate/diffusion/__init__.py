"""Text from masked-diffusion language models (LLaDA, Dream): the engine, its caches, and schedules, one file each.

from foveate.diffusion import generate

out = generate(model, ids, schedule="threshold(confidence=0.9)", length=128, block=32, cache="dual")
out.ids, out.report.forwards
"""

from .engine import Generated, generate
from .reader import Reader, read_with
from .registry import all_schedules, schedule_of
from .track import Report

__all__ = ["Generated", "Reader", "Report", "all_schedules", "generate", "read_with", "schedule_of"]
