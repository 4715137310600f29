"""One thing to be asked: media, messages, answer, and where the answer can be seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ...errors import InputError
from .draw import pixels
from .film import Clip
from .labels import Labels, label
from .things import Scene, Size
from .turn import Evidence, Turn

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Item:
    """One question on one picture, video or text, with all that is needed to judge an answer.

    Attributes:
        task, family: see ``TASKS``.
        messages: transformers' chat format; for several turns the earlier answers are given and the last is asked for.
        answer: the right answer to the last question.
        evidence: where it can be seen.
        media: RGB pictures: one image, the frames of a video, or none.
        times: seconds of each frame; empty for an image.
        path: the file of the media, once written.
        turns: every question with its answer, in order (one, but for dialogues).
        size: (width, height), or (0, 0) for text. fps: frames a second.
        source: the scene or clip it was drawn from; lost when read from disk.
    """

    task: str
    family: str
    messages: Messages = field(repr=False)
    answer: str
    evidence: tuple[Evidence, ...]
    media: tuple[Image.Image, ...] = field(default=(), repr=False)
    times: tuple[float, ...] = field(default=(), repr=False)
    path: Path | None = None
    turns: tuple[Turn, ...] = field(default=(), repr=False)
    size: Size = (0, 0)
    fps: float = 0
    source: Scene | Clip | None = field(default=None, repr=False, compare=False)

    @property
    def question(self) -> str:
        """The last question."""
        return self.turns[-1].question


def of_scene(scene: Scene, family: str, task: str, turns: Sequence[Turn]) -> Item:
    """An item on a picture."""
    picture = Image.fromarray(pixels(scene))
    entry = {"type": "image", "image": picture}
    last = turns[-1]
    return Item(
        *(task, family, chat([entry], turns), last.answer, last.evidence),
        media=(picture,),
        turns=tuple(turns),
        size=scene.size,
        source=scene,
    )


def of_clip(clip: Clip, family: str, task: str, turns: Sequence[Turn]) -> Item:
    """An item on a video."""
    frames = tuple(Image.fromarray(pixels(clip.at(i))) for i in range(clip.n))
    times = tuple(i / clip.fps for i in range(clip.n))
    entry = {"type": "video", "video": list(frames), "times": list(times)}
    last = turns[-1]
    return Item(
        *(task, family, chat([entry], turns), last.answer, last.evidence),
        media=frames,
        times=times,
        turns=tuple(turns),
        size=clip.size,
        fps=clip.fps,
        source=clip,
    )


def chat(media: list[dict[str, Any]], turns: Sequence[Turn]) -> Messages:
    """Questions with their answers, all but the last answer; media come before the first question."""
    out: Messages = []
    for i, turn in enumerate(turns):
        content = [*(media if i == 0 else []), {"type": "text", "text": turn.question}]
        out.append({"role": "user", "content": content})
        if i + 1 < len(turns):
            out.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    return out


def dense(item: Item, grid: tuple[int, int], frame: int = 0) -> Labels:
    """What each patch of an item shows: ids (rows, cols) int64 for "colour", "shape", "letter", "row" and "col".

    Ids are 1 + the place in COLOURS, KINDS and CHARACTERS; 0 is background. frame: of a video.

    Raises:
        InputError: an item without a scene (a text, or one read from disk).
    """
    if item.source is None:
        raise InputError(f"this {item.task} item has no scene to take labels from: it is a text, or was read from disk")
    return label(item.source.at(frame) if isinstance(item.source, Clip) else item.source, grid)
