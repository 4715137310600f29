"""Procedural tasks: pictures, videos and texts from a seed, with questions, answers, and where the answers can be seen.

``generate("counting", seed=0, n=100)`` gives items to evaluate on; ``scene(seed)`` and ``clip(seed)`` give arrays with
many questions each to train on. Items of the splits "train" and "test" share neither seeds nor backgrounds.
"""

from .disk import load, write
from .fast import IMAGE_MIX, VIDEO_MIX, Film, Picture, clip, scene
from .film import Clip
from .item import Item, dense
from .judge import prior, score
from .labels import CLASSES, Labels
from .registry import TASKS, Task, generate
from .things import Scene, Thing
from .turn import Evidence, Turn
from .words import CHARACTERS, COLOURS, KINDS, SHAPES, pieces, vocabulary

__all__ = [
    "CHARACTERS",
    "CLASSES",
    "COLOURS",
    "IMAGE_MIX",
    "KINDS",
    "SHAPES",
    "TASKS",
    "VIDEO_MIX",
    "Clip",
    "Evidence",
    "Film",
    "Item",
    "Labels",
    "Picture",
    "Scene",
    "Task",
    "Thing",
    "Turn",
    "clip",
    "dense",
    "generate",
    "load",
    "pieces",
    "prior",
    "scene",
    "score",
    "vocabulary",
    "write",
]
