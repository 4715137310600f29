"""Prompts for Qwen2-VL, Qwen2.5-VL and Qwen3-VL: images and videos of any size, cut without torchvision."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, UnsupportedModelError
from .base import Prompt, Visual, left_pad, pad_id, render
from .chat import Conversation, Item
from .pixels import PatchRule, check_aspect, video_patches

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
_START, _END = "<|vision_start|>", "<|vision_end|>"
_PAD = {"image": "<|image_pad|>", "video": "<|video_pad|>"}


@dataclass
class QwenBuilder:
    """Chat template, image processor and our own video patches.

    Attributes:
        tokenizer: the model's tokenizer, with its chat template.
        image_processor: transformers' processor for stills.
        family: the config's model_type.
        rule: how videos are cut.
        ids: token ids of the "image" and the "video" placeholder.
    """

    tokenizer: Any
    image_processor: Any
    family: str
    rule: PatchRule
    ids: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        known = self.tokenizer.get_vocab()
        if missing := [t for t in (*_PAD.values(), _START, _END) if t not in known]:
            raise UnsupportedModelError(f"the tokenizer of this {self.family} model lacks {', '.join(missing)}")
        self.ids = {kind: known[token] for kind, token in _PAD.items()}

    def __call__(self, conversations: Sequence[Conversation]) -> Prompt:
        """Conversations -> a left-padded batch; rows may hold different numbers of images and videos, or none.

        Inputs: input_ids, attention_mask and mm_token_type_ids (0 text, 1 image, 2 video), all (B, n); with images,
        pixel_values (patches, P) and image_grid_thw (images, 3); with videos, pixel_values_videos (unless their frames
        are awaited), video_grid_thw and (Qwen2.5-VL) second_per_grid_ts (videos,) in seconds.
        """
        data = self._stills([i for c in conversations for i in c.items if i.kind == "image"])
        data |= self._videos([i for c in conversations for i in c.items if i.kind == "video"])
        image_grids = iter(data["image_grid_thw"].tolist() if "image_grid_thw" in data else [])
        video_grids = iter(data["video_grid_thw"].tolist() if "video_grid_thw" in data else [])
        texts, rows, found = [], [], []
        for conversation in conversations:
            text = render(self.tokenizer, conversation)
            texts.append(text)
            row_ids, places = self._row(text, conversation, image_grids, video_grids)
            rows.append(row_ids)
            found.append(places)
        ids, mask, fills = left_pad(rows, pad_id(self.tokenizer))
        data |= {"input_ids": ids, "attention_mask": mask}
        data["mm_token_type_ids"] = (ids == self.ids["image"]).int() + 2 * (ids == self.ids["video"]).int()
        visuals = [
            Visual(row, item, grid, where + fills[row])
            for row, places in enumerate(found)
            for item, grid, where in places
        ]
        return Prompt(data, visuals, texts)

    def _row(
        self, text: str, conversation: Conversation, images: Iterator[list[int]], videos: Iterator[list[int]]
    ) -> tuple[list[int], list[tuple[Item, tuple[int, int, int], Tensor]]]:
        """Ids with every placeholder repeated, and (item, grid, positions) of each visual in order of appearance."""
        kinds = {self.ids[k]: k for k in _PAD}
        items = {k: [i for i in conversation.items if i.kind == k] for k in _PAD}
        grids = {"image": [next(images) for _ in items["image"]], "video": [next(videos) for _ in items["video"]]}
        self.check(text, conversation)
        if self.stamps:
            text = self.stamped(text, items["video"], grids["video"])
        side, out, places = self.rule.merge, [], []
        done = {"image": 0, "video": 0}
        parts: list[Tensor] = []
        for token in self.tokenizer(text, add_special_tokens=False)["input_ids"]:
            kind = kinds.get(token)
            if kind is None:
                out.append(token)
                continue
            t, h, w = grids[kind][done[kind]]
            per_run = (h // side) * (w // side) * (1 if self._frames_apart(kind) else t)
            parts.append(torch.arange(len(out), len(out) + per_run))
            out += [token] * per_run
            if len(parts) == (t if self._frames_apart(kind) else 1):
                places.append((items[kind][done[kind]], (t, h // side, w // side), torch.cat(parts)))
                parts, done[kind] = [], done[kind] + 1
        return out, places

    @property
    def stamps(self) -> bool:
        """Whether each temporal patch of a video is a run of its own, after its time in words."""
        return self.family.startswith("qwen3")

    def _frames_apart(self, kind: str) -> bool:
        return kind == "video" and self.stamps

    @staticmethod
    def check(text: str, conversation: Conversation) -> None:
        """Raises InputError when the text holds other placeholders than one for each item."""
        items = {k: [i for i in conversation.items if i.kind == k] for k in _PAD}
        if any(text.count(token) != len(items[kind]) for kind, token in _PAD.items()):
            has = " and ".join(f"{text.count(token)} {kind}" for kind, token in _PAD.items())
            got = " and ".join(f"{len(items[kind])} {kind}s" for kind in _PAD)
            raise InputError(
                f"the prompt holds {has} placeholders for {got}; leave {' and '.join(_PAD.values())} out of the text"
            )

    def stamped(self, text: str, videos: Sequence[Item], grids: Sequence[list[int]]) -> str:
        """Qwen3-VL: each temporal patch of a video is its own run, after its time in words."""
        for item, (t, _, _) in zip(videos, grids):
            width = self.rule.temporal
            times = [*item.times, *[item.times[-1]] * (-len(item.times) % width)]
            stamps = [(times[i * width] + times[(i + 1) * width - 1]) / 2 for i in range(t)]
            mark = "\0"  # stands for a placeholder already dealt with
            new = "".join(f"<{s:.1f} seconds>{_START}{mark}{_END}" for s in stamps)
            whole = _START + _PAD["video"] + _END
            text = text.replace(whole if whole in text else _PAD["video"], new, 1)
        return text.replace("\0", _PAD["video"])

    def _stills(self, items: Sequence[Item]) -> dict[str, Tensor]:
        if not items:
            return {}
        for i in items:
            check_aspect(i.frames[0].size, i.name)
        out = self.image_processor(images=[i.frames[0] for i in items], return_tensors="pt")
        return {"pixel_values": out["pixel_values"], "image_grid_thw": out["image_grid_thw"]}

    def _videos(self, items: Sequence[Item]) -> dict[str, Tensor]:
        if not items:
            return {}
        coming = [i.awaited for i in items if i.awaited is not None]
        if coming and len(coming) < len(items):
            raise InputError("either all videos of a prompt are decoded while it is encoded, or none")
        if coming:
            for a in coming:
                check_aspect((a.video.width, a.video.height), a.video.path.name)
            shapes = [self.rule.grid(len(a.numbers), a.video.height, a.video.width) for a in coming]
            data = {"video_grid_thw": torch.tensor(shapes)}
        else:
            cut = [video_patches(i.frames, self.rule) for i in items]
            patches, grids = torch.cat([c[0] for c in cut]), torch.tensor([c[1] for c in cut])
            data = {"pixel_values_videos": patches, "video_grid_thw": grids}
        if self.family == "qwen2_5_vl":
            data["second_per_grid_ts"] = torch.tensor([i.step * self.rule.temporal for i in items])
        return data


def rule_of(folder: Path, image_processor: Any, family: str) -> PatchRule:
    """The cutting rule of a model folder: its video settings if it has some, else the family's defaults."""
    three = family.startswith("qwen3")
    patch, merge = int(image_processor.patch_size), int(image_processor.merge_size)
    cell = (patch * merge) ** 2
    told = _video_settings(folder)
    size = told.get("size") or {}
    low = size.get("shortest_edge") or told.get("min_pixels") or 128 * cell
    high = size.get("longest_edge") or told.get("max_pixels") or 768 * cell * (32 if three else 1)
    return PatchRule(
        patch=patch,
        temporal=int(told.get("temporal_patch_size") or image_processor.temporal_patch_size),
        merge=merge,
        low=int(low),
        high=int(high),
        whole=three,
        mean=tuple(told.get("image_mean") or image_processor.image_mean),
        std=tuple(told.get("image_std") or image_processor.image_std),
        token_cap=int(0.9 * 128_000),
    )


def _video_settings(folder: Path) -> dict[str, Any]:
    for name, key in (("processor_config.json", "video_processor"), ("video_preprocessor_config.json", None)):
        try:
            data = json.loads((folder / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            continue
        told = data if key is None else data.get(key)
        if isinstance(told, dict):
            return told
    return {}
