"""Prompts for every other family, by the processor that transformers has for it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from ..errors import InputError, UnsupportedModelError
from .base import Prompt, Visual, left_pad, pad_id, render
from .chat import Conversation, Item
from .pixels import normalised, same_size

#: Families whose processor takes a video as a stack of frames of one size; for all others frames are several images.
STACKS = ("llava_onevision", "internvl", "llava_next_video")


class Frames:
    """Stands in for transformers' video processors, which need torchvision: resizes and normalises frames.

    size: (height, width) of a frame; mean and std of the three channels in [0, 1].
    """

    model_input_names = ("pixel_values_videos",)
    temporal_patch_size = 1

    def __init__(self, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]):
        self.size, self.mean, self.std = size, tuple(mean), tuple(std)

    def __call__(self, videos: Sequence[Sequence[Image]], **_: Any) -> dict[str, Any]:
        """videos: lists of RGB frames, all of one length -> pixel_values_videos (videos, T, 3, H, W)."""
        stacks = [np.stack([normalised(f, self.size, self.mean, self.std) for f in v]) for v in videos]
        return {"pixel_values_videos": torch.from_numpy(np.stack(stacks))}


@dataclass
class ProcessorBuilder:
    """Chat template, placeholders and pixels by transformers' own processor.

    Attributes:
        processor: a ProcessorMixin.
        family: the config's model_type.
        tokens: ids that stand for "image" and for "video" tokens in input_ids.
    """

    processor: Any
    family: str
    tokens: dict[str, tuple[int, ...]]

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    def __call__(self, conversations: Sequence[Conversation]) -> Prompt:
        """Conversations -> a left-padded batch of what the processor makes; rows may differ in their images.

        Raises:
            InputError: when the processor refuses this combination.
        """
        if self.family not in STACKS:
            conversations = [c.as_images() for c in conversations]
        texts = [render(self._owner(), c) for c in conversations]
        images = [[i.frames[0] for i in c.items if i.kind == "image"] for c in conversations]
        videos = [i for c in conversations for i in c.items if i.kind == "video"]
        given: dict[str, Any] = {"images": images} if any(images) else {}
        if videos:
            for v in videos:
                same_size(v.frames)
            if len({len(v.frames) for v in videos}) > 1:
                raise InputError(f"{self.family} takes videos of one length in a batch; use the same number of frames")
            given["videos"] = [list(v.frames) for v in videos]
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(pad_id(self.tokenizer))
        out = self._process(texts, given)
        data = {k: torch.as_tensor(v) for k, v in out.items() if isinstance(v, (torch.Tensor, np.ndarray, list))}
        return Prompt(data, self._visuals(data["input_ids"], conversations), texts)

    def _process(self, texts: list[str], given: dict[str, Any]) -> Any:
        """The processor's output; some take images row by row, some in one list when a row has none."""
        images = given.get("images", [])
        forms = [given] if all(images) else [given, {**given, "images": [i for row in images for i in row]}]
        problem: Exception | None = None
        for form in forms:
            try:
                return self.processor(text=list(texts), **form, **self._options(texts))
            except (ValueError, TypeError, IndexError, StopIteration, AttributeError, KeyError) as error:
                problem = problem or error
        why = "it cannot mix prompts with and without images; ask them apart" if len(forms) > 1 else _line(problem)
        raise InputError(f"the {self.family} processor refuses this prompt: {why}") from problem

    def _owner(self) -> Any:
        """Who holds the chat template: the processor or its tokenizer; the processor when there is none."""
        told = [p for p in (self.processor, self.tokenizer) if getattr(p, "chat_template", None) is not None]
        return told[0] if told else self.processor

    def _options(self, texts: Sequence[str]) -> dict[str, Any]:
        options: dict[str, Any] = {"padding": len(texts) > 1, "return_tensors": "pt"}
        bos = self.tokenizer.bos_token
        begun = bool(bos) and all(t.startswith(bos) for t in texts)  # the template wrote it already
        return {**options, "add_special_tokens": False} if begun else options

    def _visuals(self, ids: torch.Tensor, conversations: Sequence[Conversation]) -> list[Visual]:
        """Runs of placeholder tokens, shared out to the row's items in order."""
        out = []
        for row, conversation in enumerate(conversations):
            for item, where in zip(conversation.items, self._places(ids[row], conversation.items)):
                where = self._overview(item, where)
                grid = _square(len(item.frames), len(where))
                out.append(Visual(row, item, grid, where[: math.prod(grid) if grid else 0]))
        return out

    def _places(self, ids: torch.Tensor, items: Sequence[Item]) -> list[torch.Tensor]:
        """Positions of each item in ids (n,); by kind where videos have a token of their own."""
        at = {kind: torch.isin(ids, torch.tensor(t, dtype=ids.dtype)) for kind, t in self.tokens.items()}
        if not bool(at["video"].any()):
            return _share(_runs(at["image"]), items)
        own = {kind: iter(_share(_runs(at[kind]), [i for i in items if i.kind == kind])) for kind in at}
        return [next(own[i.kind]) for i in items]

    def _overview(self, item: Item, where: torch.Tensor) -> torch.Tensor:
        """Of an image cut into tiles, the positions of the tile that shows all of it; other tiles are not drawn."""
        if item.kind == "image" and (first := getattr(self.processor, "num_image_tokens", None)):
            return where[: int(first)]  # LLaVA-NeXT and OneVision: the whole image comes first
        if item.kind == "image" and (last := getattr(self.processor, "image_seq_length", None)):
            return where[-int(last) :]  # InternVL: it comes last
        return where


def _square(t: int, n: int) -> tuple[int, int, int] | None:
    """The grid (t, h, w) of n tokens of t square frames, with at most one newline token at the end."""
    side = math.isqrt(n // t)
    return (t, side, side) if side and n - t * side * side <= 1 else None


def _runs(visual: torch.Tensor) -> list[torch.Tensor]:
    """visual (n,) bool -> positions of each unbroken run."""
    at = visual.nonzero()[:, 0]
    if not len(at):
        return []
    return list(torch.tensor_split(at, ((at.diff() > 1).nonzero()[:, 0] + 1).tolist()))


def _share(runs: list[torch.Tensor], items: Sequence[Item]) -> list[torch.Tensor]:
    """Positions of each item: a run each, a run for each frame of a video, or equal parts; empty when none fits."""
    counts = [1 if i.kind == "image" else len(i.frames) for i in items]
    if len(runs) == len(items):
        return runs
    if len(runs) == sum(counts):
        pieces = iter(runs)
        return [torch.cat([next(pieces) for _ in range(c)]) for c in counts]
    at = torch.cat(runs) if runs else torch.empty(0, dtype=torch.int64)
    if items and len(at) and all(i.kind == "image" for i in items) and len(at) % len(items) == 0:
        return list(at.chunk(len(items)))
    return [at[:0] for _ in items]


@dataclass
class TextBuilder:
    """A model without a vision part."""

    tokenizer: Any
    family: str

    def __call__(self, conversations: Sequence[Conversation]) -> Prompt:
        """Conversations -> input_ids and attention_mask (B, n), left-padded.

        Raises:
            UnsupportedModelError: when a conversation holds an image or a video.
        """
        for c in conversations:
            if c.items:
                raise UnsupportedModelError(f"{self.family} is a text-only model; it cannot look at {c.items[0].name}")
        texts = [render(self.tokenizer, c) for c in conversations]
        template = getattr(self.tokenizer, "chat_template", None) is not None
        rows = [self.tokenizer(t, add_special_tokens=not template)["input_ids"] for t in texts]
        ids, mask, _ = left_pad(rows, pad_id(self.tokenizer))
        return Prompt({"input_ids": ids, "attention_mask": mask}, [], texts)


def image_processor(folder: Path) -> Any:
    """The folder's image processor; without torchvision, the one that works with Pillow."""
    # the class by the same name in ``transformers`` itself refuses to load without torchvision in 5.16.1
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)


def load_processor(folder: Path, config: Any) -> Any:
    """The folder's processor; where it wants a video processor it gets :class:`Frames`.

    Raises:
        UnsupportedModelError: when the folder has none, or the family needs more than images and videos.
    """
    from transformers import PROCESSOR_MAPPING, AutoProcessor, AutoTokenizer

    kind = PROCESSOR_MAPPING.get(type(config), None)
    try:
        if kind is None or "video_processor" not in kind.get_attributes():
            return AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        images = image_processor(folder)
        parts = {"image_processor": images, "tokenizer": AutoTokenizer.from_pretrained(folder, trust_remote_code=False)}
        parts["video_processor"] = Frames(_frame_size(images), images.image_mean, images.image_std)
        if missing := set(kind.get_attributes()) - set(parts):
            raise UnsupportedModelError(f"the {config.model_type} processor needs {', '.join(sorted(missing))} too")
        # the one check that a stand-in cannot pass is "is this a subclass of torchvision's video processor"
        open_kind = type(kind.__name__, (kind,), {"check_argument_for_proper_class": lambda *_: None})
        return open_kind(**parts, **_settings(folder, kind))
    except (OSError, ValueError, ImportError, TypeError, AttributeError) as error:
        raise UnsupportedModelError(f"no usable processor in {str(folder)!r}: {_line(error)}") from error


def _settings(folder: Path, kind: Any) -> dict[str, Any]:
    """What processor_config.json and the chat template file tell the processor's constructor."""
    import inspect

    told: dict[str, Any] = {}
    for name in ("processor_config.json", "chat_template.json"):
        if (folder / name).exists():
            told |= json.loads((folder / name).read_text(encoding="utf-8"))
    if (folder / "chat_template.jinja").exists():
        told["chat_template"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    takes = set(inspect.signature(kind.__init__).parameters) - set(kind.get_attributes())
    return {k: v for k, v in told.items() if k in takes}


def _frame_size(image_processor: Any) -> tuple[int, int]:
    size = getattr(image_processor, "crop_size", None) or image_processor.size
    if not isinstance(size, dict):
        size = {k: getattr(size, k, None) for k in ("height", "width", "shortest_edge")}
    if size.get("height") and size.get("width"):
        return int(size["height"]), int(size["width"])
    edge = size.get("shortest_edge")
    if not edge:
        raise UnsupportedModelError(f"cannot tell the frame size from the image processor's size {size}")
    return int(edge), int(edge)


def _line(error: BaseException | None) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
