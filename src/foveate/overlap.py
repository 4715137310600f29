"""Videos that are decoded while they are encoded: a thread decodes the next frames while the tower works on these.

QuickVideo (Schneider et al., 2025, https://arxiv.org/abs/2505.16175) overlaps decoding with encoding in the same way.
The prompt is made first, from the frames' number, size and times, which a file's index tells. Then frames come in
intervals; each is cut to patches in the thread and encoded as soon as it is there. So the patches of a long video never
lie in memory together. Only towers whose attention never crosses frames can be run in parts: those of the Qwen family.

    with overlap.opened(loaded, messages, frames=256) as ahead, foveate.apply(loaded.model, "foveal(keep=0.1)"):
        out = loaded.model.generate(**ahead.inputs(), max_new_tokens=16)
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from .errors import InputError, MediaError, PlanError, UnsupportedModelError
from .load import Loaded
from .prompt import Awaited, Messages, Progress, Prompt, QwenBuilder, video_patches
from .sites.intervals import joined
from .spec import Plan
from .video import open_image, open_video
from .video.limits import DEFAULT

#: Frames that are decoded and encoded together.
INTERVAL = 32

_Part = tuple[int, list[Image], Tensor, tuple[int, int, int]]  # which video, its frames, their patches and grid


class Ahead:
    """A prompt whose videos are decoded while they are encoded; made by :func:`opened`.

    Attributes:
        prompt: the prompt without the videos' pixels. Its visuals get their frames when :meth:`inputs` has run.
        waited: seconds in which the model had nothing to do because no interval was decoded yet.
    """

    def __init__(self, loaded: Loaded, prompt: Prompt, interval: int, progress: Progress | None) -> None:
        self._loaded, self.prompt, self._interval, self._progress = loaded, prompt, interval, progress
        self._at = [i for i, v in enumerate(prompt.visuals) if v.item.awaited is not None]
        self._stop = threading.Event()
        self.waited = 0.0

    @torch.no_grad()
    def inputs(self) -> dict[str, Any]:
        """Encode the videos, and give what ``generate`` takes. Call it inside the block of :func:`foveate.apply`.

        Raises:
            MediaError: a frame cannot be decoded; names the file and the time.
        """
        found: list[list[Image]] = [[] for _ in self._at]
        outs, videos, views = [], [], []
        device, dtype = self._loaded.device, self._loaded.model.dtype
        for video, frames, patches, grid in self._parts():
            shape = torch.tensor([grid], device=device)
            outs.append(
                self._loaded.model.base_model.get_video_features(patches.to(device, dtype), shape, return_dict=True)
            )
            videos.append(video)
            views.append(grid[0])
            found[video] += frames
            if self._progress is not None:
                item = self.prompt.visuals[self._at[video]].item
                self._progress(f"reading and encoding {item.name}", len(found[video]), len(item.times))
        for at, frames in zip(self._at, found):
            visual = self.prompt.visuals[at]
            self.prompt.visuals[at] = replace(visual, item=replace(visual.item, frames=tuple(frames), awaited=None))
        return {**self.prompt.inputs, "mm_encoder_outputs": {"video": joined(outs, videos, views)}}

    def _parts(self) -> Iterator[_Part]:
        """Intervals in order, the next one decoded in a thread meanwhile."""
        shelf: queue.Queue[_Part | Exception | None] = queue.Queue(maxsize=1)
        thread = threading.Thread(target=self._fill, args=(shelf,), daemon=True, name="foveate-ahead")
        thread.start()
        try:
            while True:
                began = time.perf_counter()
                part = shelf.get()
                self.waited += time.perf_counter() - began
                if part is None:
                    return
                if isinstance(part, Exception):
                    raise part
                yield part
        finally:
            self._stop.set()
            thread.join()

    def _fill(self, shelf: queue.Queue[_Part | Exception | None]) -> None:
        def put(part: _Part | Exception | None) -> bool:
            while not self._stop.is_set():
                try:
                    shelf.put(part, timeout=0.1)
                    return True
                except queue.Full:
                    continue
            return False

        try:
            for part in self._decoded():
                if not put(part):
                    return
            put(None)
        except Exception as error:  # it is raised again in the thread that waits
            put(error)

    def _decoded(self) -> Iterator[_Part]:
        rule = self._loaded.builder.rule  # type: ignore[attr-defined]  # only builders of the Qwen family come here
        for number, at in enumerate(self._at):
            awaited = self.prompt.visuals[at].item.awaited
            assert awaited is not None
            total, frames = len(awaited.numbers), []
            shape = awaited.video.width, awaited.video.height
            for count, frame in enumerate(awaited.video.several(awaited.numbers), 1):
                frames.append(open_image(frame.image))
                if frames[-1].size != shape:  # the prompt was made for frames of one size
                    raise MediaError(f"{awaited.video.path}: changes its size at {frame.time:.2f} s")
                if len(frames) == self._interval or count == total:
                    yield (number, frames, *video_patches(frames, rule, total))
                    frames = []


def hindered(loaded: Loaded, steps: Plan) -> str:
    """Why a plan on a model cannot have its videos encoded interval by interval; "" where it can."""
    if not isinstance(loaded.builder, QwenBuilder):
        return f"the frames of {loaded.family} models go through the processor together"
    if not getattr(loaded.model, "_supports_mm_encoder_outputs", lambda: False)():
        return f"this transformers cannot hand {loaded.family} models what was encoded before"
    for m in steps:
        if m.stage == "media":
            return f"{m.name} chooses among decoded frames"
        if m.stage == "encoder":
            return f"{m.name} shortens the frames of a video together"
        if m.stage == "decode" and hasattr(m, "draft"):
            return f"the second model of {m.name} reads the pixels too"
    return ""


def worth(loaded: Loaded, steps: Plan, content: Sequence[Mapping[str, Any]], frames: int) -> bool:
    """Whether ``ask`` overlaps: a plan and a model that allow it, and long videos, all of them files.

    content: entries of a chat message. frames: sampled from each video.
    """
    videos = [p.get("video") for p in content if p.get("type") == "video"]
    files = bool(videos) and all(isinstance(v, str | Path) for v in videos)
    return files and frames > INTERVAL and not hindered(loaded, steps)


@contextmanager
def opened(
    loaded: Loaded,
    messages: Messages,
    frames: int = 16,
    *,
    plan: Any = "",
    interval: int = INTERVAL,
    progress: Progress | None = None,
) -> Iterator[Ahead]:
    """Open the videos of one conversation and make its prompt; nothing is decoded yet.

    Args:
        messages: transformers' chat format; videos are paths.
        frames: how many are sampled from each video. plan: what will be on the model, to see that it fits.
        interval: frames that are encoded together, rounded up to what the tower takes at once.
        progress: called after each interval.

    Raises:
        InputError, MediaError: as :func:`foveate.prompt.read`; InputError also when there is no video given as a path.
        UnsupportedModelError, PlanError: this model, or this plan, cannot be run on parts of a video.
    """
    if interval < 1:
        raise InputError(f"'interval' must be at least 1, in frames. Got {interval}.")
    if why := hindered(loaded, Plan.of("")):
        raise UnsupportedModelError(f"videos cannot be encoded while they are decoded: {why}")
    if why := hindered(loaded, Plan.of(plan)):
        raise PlanError(f"videos cannot be encoded while they are decoded: {why}; decode them first")
    with ExitStack() as stack:
        talk = [{**m, "content": _awaited(m.get("content"), frames, stack)} for m in messages]
        if not any(_comes(p) for m in talk if isinstance(m["content"], list) for p in m["content"]):
            raise InputError("there is no video given as a path, so there is nothing to decode while encoding")
        prompt = loaded.prompt(talk, frames)
        step = loaded.builder.rule.temporal  # type: ignore[attr-defined]
        yield Ahead(loaded, prompt, -(-interval // step) * step, progress)


def _awaited(content: Any, frames: int, stack: ExitStack) -> Any:
    """A message's content, its videos opened."""
    return [_entry(p, frames, stack) for p in content] if isinstance(content, list | tuple) else content


def _entry(part: Any, frames: int, stack: ExitStack) -> Any:
    if not isinstance(part, Mapping) or part.get("type") != "video":
        return part
    value = next((part[key] for key in ("video", "path", "url") if part.get(key) is not None), None)
    if not isinstance(value, str | Path) or str(value).startswith(("http://", "https://")):
        return part
    video = stack.enter_context(open_video(value, limits=part.get("limits") or DEFAULT))
    numbers = video.chosen(frames, start=part.get("start") or 0.0, stop=part.get("stop"))
    return {"type": "video", "video": Awaited(video, tuple(numbers))}


def _comes(part: Any) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get("video"), Awaited)
