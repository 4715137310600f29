"""``foveate.Stream``: push frames as they come, ask at any time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL.Image import Image

from ..ask import plan_of
from ..errors import InputError
from ..load import Loaded, load
from ..prompt import Progress
from ..report import Report
from ..sites.model import anatomy
from ..spec import Plan
from ..video import open_image
from .encode import encode
from .memory import Memory, within
from .recall import Source, Sourced, answer_from, clock
from .relevance import fits
from .seen import Seen
from .split import split


class Stream:
    """A video without an end in constant memory.

    Frames are collected into clips, encoded, reduced by the plan, and remembered as visual tokens; the frames are let
    go. When the memory passes ``cap`` tokens, older clips are thinned, those that brought little news most. A question
    is answered from what was pushed before it, and leaves the memory as it was.

    Args:
        model: what :func:`foveate.load` gave, or a built-in name, folder or hub id for it.
        plan: as for :func:`foveate.ask`. Methods of the encoder and the inputs run as clips arrive, without a question;
            those that need one, and all of the later stages, run when it comes.
        cap: most visual tokens that are remembered.
        clip: frames that are encoded together.
        recent: share of the cap for the latest clips, which are thinned last.
        merge: the method that brings a clip down to half of its tokens; of stage inputs, with an option ``keep``.

    Attributes:
        frames: how many were pushed. report: what the methods did while encoding, summed.

    Raises:
        InputError: a number that makes no sense.
        PlanError: a plan that cannot work on a stream.
    """

    def __init__(
        self,
        model: Loaded | str | Path,
        plan: Any = None,
        *,
        cap: int = 4096,
        clip: int = 8,
        recent: float = 0.25,
        merge: Any = "foveal",
    ) -> None:
        if cap < 1 or clip < 1:
            raise InputError(f"'cap' and 'clip' must be at least 1. Got {cap} and {clip}.")
        if not 0 <= recent <= 1:
            raise InputError(f"'recent' is a share of the cap, from 0 to 1. Got {recent}.")
        self.loaded = model if isinstance(model, Loaded) else load(model)
        self.plan = plan_of(plan, family=self.loaded.family)
        self.first, self.late = split(self.plan)
        how = Plan.of(merge)
        if len(how) != 1:
            raise InputError(f"'merge' is one method. Got {merge!r}.")
        self.memory = Memory(cap, recent, how[0])
        anatomy(self.loaded.model)
        self.clip, self.frames, self.report = clip, 0, Report(plan=str(self.plan))
        self._pending: list[tuple[Image, float]] = []
        self._slots = 0
        self._origin = 0.0
        self._latest = -math.inf
        self._size: tuple[int, int] | None = None

    @property
    def tokens(self) -> int:
        """Visual tokens remembered."""
        return self.memory.n

    @property
    def nbytes(self) -> int:
        """Bytes of the memory and of the frames that wait for their clip to be full."""
        return self.memory.nbytes + sum(f.width * f.height * 3 for f, _ in self._pending)

    def push(self, frames: Any, times: Any = None) -> None:
        """Take in one frame or several.

        frames: a picture (path, PIL image, array (H, W, 3), or a frame of :class:`foveate.video.Video`), or a sequence.
        times: seconds of each, later than all before; None takes those of video frames, and for bare pictures half a
            second after the frame before.

        Raises:
            InputError: times that do not ascend or do not fit, or a frame of another size than the first one.
            MediaError: a picture that cannot be read.
        """
        many = isinstance(frames, Sequence) and not isinstance(frames, str | bytes)
        given = list(frames) if many else [frames]
        for frame, time in zip(given, self._times(given, times)):
            self._one(open_image(getattr(frame, "image", frame)), time)

    def _times(self, given: Sequence[Any], times: Any) -> list[float]:
        if times is None:
            out: list[float] = []
            for frame in given:
                last = out[-1] if out else self._latest
                out.append(float(getattr(frame, "time", 0.0 if last == -math.inf else last + 0.5)))
        else:
            out = [float(t) for t in times] if isinstance(times, Iterable) else [float(times)]
        if len(out) != len(given):
            raise InputError(f"there are {len(given)} frames and {len(out)} times")
        before = self._latest
        for t in out:
            if not t > before or not math.isfinite(t):
                raise InputError(f"times must ascend: {t:g} s comes after {before:g} s")
            before = t
        return out

    def _one(self, frame: Image, time: float) -> None:
        if self._size is not None and frame.size != self._size:
            told, got = self._size, frame.size
            raise InputError(
                f"the frames of one stream share one size: {got[0]}x{got[1]} comes after {told[0]}x{told[1]}"
            )
        self._size = frame.size
        if not self.frames:
            self._origin = time
        self._latest = time
        self.frames += 1
        self._pending.append((frame, time))
        if len(self._pending) == self.clip:
            seen = self._encoded(self.report)
            self.memory.add(seen)
            self._slots = int(seen.slot.max()) + 1 if seen.n else self._slots + self.clip
            self._pending.clear()

    def _encoded(self, report: Report | None) -> Seen:
        """The frames that wait, as tokens; times count from the stream's first frame."""
        frames, times = zip(*self._pending)
        since = [t - self._origin for t in times]
        return encode(self.loaded, frames, since, self.first, start=self._slots, report=report)

    def remembered(self) -> list[Seen]:
        """The clips of the memory in order, and the frames that wait for theirs to be full."""
        clips = [c.seen for c in self.memory.clips]
        return [*clips, self._encoded(None)] if self._pending else clips

    def ask(
        self,
        question: str,
        *,
        between: tuple[float, float] | None = None,
        budget: int | None = None,
        by: str = "embeddings",
        max_new_tokens: int = 64,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Sourced:
        """Answer from all that was pushed so far, or from a stretch of it.

        Args:
            question: what to ask.
            between: seconds from and to; the clips that lie in there, at least by half, are shown as a video of their
                own, whose time starts with them.
            budget: most visual tokens in the prompt: the clips that fit the question best, in order of time; None shows
                the whole memory.
            by: how that is told; see :func:`foveate.stream.relevance.fits`.
            max_new_tokens, seed, progress: as for :func:`foveate.ask`.

        Raises:
            InputError: nothing was pushed, or an empty question.
            FoveateError: as :func:`foveate.ask`.
        """
        if max_new_tokens < 1:
            raise InputError(f"'max_new_tokens' must be at least 1. Got {max_new_tokens}.")
        if budget is not None and budget < 1:
            raise InputError(f"'budget' must be at least 1. Got {budget}.")
        if not isinstance(question, str) or not question.strip():
            raise InputError("the question is empty; ask something")
        clips = [c for c in self._during(between) if c.n]
        scores = [1.0] * len(clips)
        if budget is not None and sum(c.n for c in clips) > budget:
            scores = fits(self.loaded, clips, question, by)
            picked = within(clips, scores, budget)
            clips, scores = [clips[i] for i in picked], [scores[i] for i in picked]
        shown = Seen.cat(clips)
        if between is not None:
            shown = shown.since(clips[0])
        sources = self._sources(clips, scores)
        said = answer_from(
            self.loaded,
            [("", shown)],
            question,
            self.late,
            sources,
            max_new_tokens=max_new_tokens,
            seed=seed,
            progress=progress,
        )
        said.report.plan = str(self.plan)
        said.report.rows[:0] = [replace(r) for r in self.report.ordered()]  # the stream goes on counting
        return said

    def _during(self, between: tuple[float, float] | None) -> list[Seen]:
        clips = self.remembered()
        if between is None or not clips:
            return clips
        low, high = (float(t) - self._origin for t in between)
        found = [c for c in clips if low <= sum(c.span) / 2 <= high]
        if not found:
            first, last = (clock(t + self._origin) for t in (clips[0].span[0], clips[-1].span[1]))
            raise InputError(
                f"nothing is remembered between {between[0]:g} and {between[1]:g} s, only {first} to {last}"
            )
        return found

    def _sources(self, clips: Sequence[Seen], scores: Sequence[float]) -> list[Source]:
        if len(set(scores)) <= 1:
            whole = [Seen.cat(clips)]
            return [self._source(s, 1.0) for s in whole]
        order = sorted(range(len(clips)), key=lambda i: (-scores[i], i))
        return [self._source(clips[i], scores[i]) for i in order]

    def _source(self, seen: Seen, score: float) -> Source:
        start, stop = seen.span
        return Source("stream", start + self._origin, stop + self._origin, score, seen.n)

    def __repr__(self) -> str:
        held = f"{self.tokens} of {self.memory.cap} tokens"
        return f"Stream({self.loaded.name!r}, {str(self.plan)!r}, {self.frames} frames, {held})"
