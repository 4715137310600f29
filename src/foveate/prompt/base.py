"""What every prompt builder returns, and the steps they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from PIL.Image import Image
from torch import Tensor

from ..errors import InputError
from .chat import Conversation, Item


@dataclass(frozen=True)
class Visual:
    """Where one image or video lies in the prompt; what drawing needs.

    Attributes:
        row: which prompt of the batch.
        item: what it is (kind, frames, times, name).
        grid: (t, h, w) of LLM tokens, or None when the family does not lay them out as one grid.
        where: (t * h * w,) int64 positions in the padded row, frame by frame and line by line; empty without a grid.
    """

    row: int
    item: Item
    grid: tuple[int, int, int] | None
    where: Tensor

    @property
    def pictures(self) -> list[Image]:
        """One picture for each of the ``t`` slices of the grid."""
        if self.grid is None or self.grid[0] == len(self.item.frames):
            return list(self.item.frames)
        step = -(-len(self.item.frames) // self.grid[0])
        return list(self.item.frames[::step])

    @property
    def times(self) -> list[float]:
        """Seconds of :attr:`pictures`; empty for a still."""
        if self.grid is None or self.grid[0] == len(self.item.frames):
            return list(self.item.times)
        return list(self.item.times[:: -(-len(self.item.frames) // self.grid[0])])


@dataclass(frozen=True)
class Prompt:
    """A left-padded batch, ready for ``model.generate(**prompt.inputs)``.

    Attributes:
        inputs: input_ids and attention_mask (B, n) int64, and what the family reads besides them.
        visuals: every image and video, in order of rows and of place in the row.
        text: each row's text before the placeholders were repeated.
    """

    inputs: dict[str, Tensor]
    visuals: list[Visual]
    text: list[str]

    @property
    def n(self) -> int:
        """Tokens in a padded row."""
        return int(self.inputs["input_ids"].shape[1])

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Prompt:
        """The same prompt on another device, its pixels in ``dtype``."""
        moved = {
            k: v.to(device, dtype) if v.is_floating_point() and k.startswith("pixel") else v.to(device)
            for k, v in self.inputs.items()
        }
        return replace(self, inputs=moved)


class Builder(Protocol):
    """Turns conversations into a :class:`Prompt`, and ids into text."""

    @property
    def tokenizer(self) -> Any: ...

    def __call__(self, conversations: Sequence[Conversation]) -> Prompt: ...


def render(template_owner: Any, conversation: Conversation) -> str:
    """The conversation as text, by the chat template; without one, contents in order, as base models read them."""
    messages = conversation.messages
    if getattr(template_owner, "chat_template", None) is None:
        token = {kind: getattr(template_owner, f"{kind}_token", None) or "" for kind in ("image", "video")}
        parts = [p for m in messages for p in m["content"]]
        return "".join(p["text"] if p["type"] == "text" else token[p["type"]] for p in parts)
    plain = [m if any(p["type"] != "text" for p in m["content"]) else _joined(m) for m in messages]
    owned: list[list[dict[str, Any]]] = [messages, plain] if conversation.items else [plain, messages]
    problem: Exception | None = None
    for form in owned:  # some templates read only text contents, some only lists
        try:
            text = template_owner.apply_chat_template(form, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # jinja raises whatever a template's author chose
            problem = problem or error
            continue
        if all(p["text"].strip() in text for m in messages for p in m["content"] if p["type"] == "text"):
            return str(text)
    why = f": {' '.join(str(problem).split())}" if problem else " (it drops part of the text)"
    raise InputError(f"the model's chat template does not take this conversation{why}") from problem


def _joined(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "content": "".join(p["text"] for p in message["content"])}


def left_pad(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor, list[int]]:
    """Rows of ids -> input_ids and attention_mask (B, n), and how much each row was padded."""
    n = max(map(len, rows))
    fills = [n - len(r) for r in rows]
    ids = torch.tensor([[pad] * f + list(r) for f, r in zip(fills, rows)], dtype=torch.int64)
    mask = torch.tensor([[0] * f + [1] * len(r) for f, r in zip(fills, rows)], dtype=torch.int64)
    return ids, mask, fills


def pad_id(tokenizer: Any) -> int:
    """The id that fills short rows."""
    for name in ("pad_token_id", "eos_token_id", "unk_token_id"):
        if (value := getattr(tokenizer, name, None)) is not None:
            return int(value)
    return 0
