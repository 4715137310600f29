"""``foveate index``: every file is encoded once, whatever happens in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

from ..ask import plan_of
from ..errors import FoveateError, InputError, MediaError
from ..load import Loaded, load
from ..prompt import Progress
from ..spec import Plan
from ..stream.encode import encode
from ..stream.seen import Seen
from ..stream.split import split
from ..video import Frame, Video, open_video
from .recipe import Recipe, media_hash, model_hash
from .row import Video as Entry
from .row import rows, stored
from .table import Archive

#: Suffixes of the files that are taken of a folder.
SUFFIXES = frozenset(
    f".{s}" for s in ("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "flv", "gif", "wmv", "ogv", "3gp")
)
#: Clips that are written together.
TOGETHER = 64


@dataclass(frozen=True)
class Indexed:
    """What became of one file.

    Attributes:
        path: the file.
        state: "indexed"; "known", when the store had its content already; or "failed".
        key: of the entry; empty where it failed. clips, tokens, seconds: of it.
        error: what was wrong, else empty.
        stored: bytes that its tokens take, with their times and places; 0 unless it was indexed just now.
    """

    path: str
    state: str
    key: str = ""
    clips: int = 0
    tokens: int = 0
    seconds: float = 0.0
    error: str = ""
    stored: int = 0


def find(given: Iterable[str | PathLike[str]]) -> list[Path]:
    """Files, and the videos in folders below which they lie, by name; none twice.

    Raises:
        InputError: a folder without videos.
    """
    out: dict[Path, None] = {}
    for g in map(Path, given):
        if not g.is_dir():
            out[g] = None
            continue
        inside = sorted(p for p in g.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not inside:
            raise InputError(f"{str(g)!r} holds no videos ({', '.join(sorted(SUFFIXES))})")
        out |= dict.fromkeys(inside)
    return list(out)


@dataclass(frozen=True, eq=False)
class Encoder:
    """A model with all that decides what it stores of a file."""

    loaded: Loaded
    recipe: Recipe
    first: Plan

    @classmethod
    def of(
        cls,
        model: Loaded | str | Path,
        plan: Any,
        fps: float,
        clip: int,
        question: str | None,
        bits: int | None = None,
    ) -> Encoder:
        """Loads the model, if it is not yet, and checks that the plan can run without a question (or has its own).

        Raises:
            InputError, PlanError: a number or a plan that cannot work.
        """
        if not (fps > 0 and math.isfinite(fps)) or clip < 1:
            raise InputError(f"'fps' must be above 0 and 'clip' at least 1. Got {fps} and {clip}.")
        plan_of(plan)  # what cannot be read is refused before a model is loaded
        loaded = model if isinstance(model, Loaded) else load(model)
        steps = plan_of(plan, family=loaded.family)
        first, _ = split(steps, known=question is not None)
        return cls(loaded, Recipe.of(model_hash(loaded), steps, fps, clip, question, bits), first)

    def clips(self, video: Video, progress: Progress | None = None) -> Iterator[tuple[int, Seen]]:
        """Numbered clips of an open video, one after the other; only one clip of frames is in memory."""
        frames = frames_at(video, self.recipe.fps)
        total = max(1, math.ceil(video.duration * self.recipe.fps))
        done = start = number = 0
        while batch := list(islice(frames, self.recipe.clip)):
            images, times = [f.image for f in batch], [f.time for f in batch]
            seen = encode(
                self.loaded, images, times, self.first, start=start, question=self.recipe.question or "", report=None
            )
            start = int(seen.slot.max()) + 1 if seen.n else start + len(batch)
            done += len(batch)
            if progress is not None:
                progress(f"encoding {video.path.name}", min(done, total), total)
            if seen.n:
                yield number, seen
            number += 1


def frames_at(video: Video, fps: float) -> Iterator[Frame]:
    """Frames at fps a second, none twice, decoded as they are asked for."""
    last, i = -1, 0
    while i == 0 or i / fps < video.duration:
        (frame,) = video.at([i / fps])
        if frame.index != last:
            last = frame.index
            yield frame
        i += 1


def index(
    videos: Iterable[str | PathLike[str]],
    store: Archive | str | PathLike[str],
    *,
    model: Loaded | str | Path,
    plan: Any = None,
    fps: float = 1.0,
    clip: int = 8,
    question: str | None = None,
    bits: int | None = None,
    tell: Callable[[Indexed], None] | None = None,
    progress: Progress | None = None,
) -> list[Indexed]:
    """Encode videos into a store; files whose content is there already, made the same way, are left alone.

    A file that cannot be read is reported and skipped. Stopped half-way, the next call goes on with the first file that
    is not complete.

    Args:
        videos: files and folders. store: a folder or address; see :class:`foveate.archive.Archive`.
        model: what :func:`foveate.load` gave, or its name. plan: as for :func:`foveate.ask`; what needs no question
            runs now, the rest when one comes.
        fps: frames seen of each second. clip: frames encoded together, and the unit that answers are given from.
        question: index for this question only, with methods that decide by it.
        bits: 8 or 4, to keep tokens in so many bits a number; None keeps them as they are.
        tell: called after each file. progress: called while a file is encoded.

    Raises:
        InputError, PlanError, StoreError, MissingExtraError: what concerns all files.
    """
    paths = find(videos)
    archive = store if isinstance(store, Archive) else Archive(store)
    maker = Encoder.of(model, plan, fps, clip, question, bits)
    known = {v.key: v for v in archive.videos()}
    out = []
    for path in paths:
        try:
            done = _one(path, archive, maker, known, progress)
        except MediaError as error:
            done = failed(path, error)
        out.append(done)
        if tell is not None:
            tell(done)
    if any(d.state == "indexed" for d in out):
        archive.tidy()
    return out


def failed(path: Path, error: FoveateError) -> Indexed:
    """What is told of a file that cannot be read."""
    return Indexed(str(path), "failed", error=" ".join(str(error).split()))


def _one(path: Path, archive: Archive, maker: Encoder, known: dict[str, Entry], progress: Progress | None) -> Indexed:
    media = media_hash(path)
    key = maker.recipe.key(media)
    if (there := known.get(key)) is not None:
        note(path, archive, there)
        return Indexed(str(path), "known", key, there.clips, there.tokens, there.seconds)
    width = tokens = clips = size = 0
    waiting: list[dict[str, Any]] = []
    with open_video(path) as video:
        seconds = float(video.duration)
        for number, seen in maker.clips(video, progress):
            if not clips:
                width = seen.x.shape[1]
                archive.begin(key, width)
            waiting += (new := rows(key, maker.recipe, [(number, seen)]))
            clips, tokens, size = clips + 1, tokens + seen.n, size + stored(new)
            if len(waiting) >= TOGETHER:
                archive.add(width, waiting)
                waiting = []
    archive.add(width, waiting)
    made = Entry(key, media, path.name, str(path), maker.recipe, seconds, clips, tokens, width)
    archive.finish(made)
    known[key] = made
    return Indexed(str(path), "indexed", key, clips, tokens, seconds, stored=size)


def note(path: Path, archive: Archive, there: Entry) -> None:
    """The same content under another name is another row of the same entry."""
    if str(path) != there.path:
        archive.finish(Entry(**{**vars(there), "name": path.name, "path": str(path)}))


def together(found: Sequence[Indexed]) -> str:
    """One line for people."""
    parts = [f"{sum(f.state == s for f in found)} {s}" for s in ("indexed", "known", "failed")]
    size = f", {sum(f.stored for f in found):,} bytes of new ones" if any(f.stored for f in found) else ""
    return f"{len(found)} files: {', '.join(parts)}; {sum(f.tokens for f in found):,} tokens{size}"
