"""From a batch to what the models take, and linear heads that say what each cell of a picture shows.

The heads teach the vision tower to see before it is asked anything; they are dropped when training ends.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot, rms_norm

from ..prompt.pixels import patchify
from .data import CELL, WHAT, Batch
from .models import MEAN, STD, Sizes, rule
from .tasks import CLASSES
from .tasks.past import CLASSES as PAST
from .tokenizer import IMAGE, VIDEO, entries

MOST = 32  # rows and columns of visual tokens that can be told apart
WHOLE = ("cuts", "flashes")  # labels of a frame, not of its cells
EMPTY = 0.2  # how much a cell of background counts


def normalised(pixels: Tensor) -> Tensor:
    """pixels (..., H, W, 3) uint8 -> (..., 3, H, W) float, as the processors make them."""
    mean, std = (torch.tensor(v, device=pixels.device) for v in (MEAN, STD))
    return ((pixels.float() / 255 - mean) / std).movedim(-1, -3).contiguous()


def sight(batch: Batch, sizes: Sizes) -> dict[str, Tensor]:
    """What the tower of the model reads of a batch."""
    if not len(batch.pixels):
        return {}
    x = normalised(batch.pixels)
    if sizes.temporal == 1:
        return {"pixel_values": x[:, 0]}
    cut, ends = rule(sizes), ("", "image") if batch.kind == "image" else ("_videos", "video")
    patches = [patchify(clip, cut) for clip in x]
    grid = torch.tensor([g for _, g in patches], device=x.device)
    return {f"pixel_values{ends[0]}": torch.cat([p for p, _ in patches]), f"{ends[1]}_grid_thw": grid}


def inputs(batch: Batch, sizes: Sizes) -> dict[str, Tensor]:
    """All that the model's forward takes."""
    out = {"input_ids": batch.ids, "attention_mask": batch.mask, **sight(batch, sizes)}
    if sizes.temporal > 1:
        known = entries()
        out["mm_token_type_ids"] = (batch.ids == known[IMAGE]).int() + 2 * (batch.ids == known[VIDEO]).int()
        if batch.kind == "video":
            out["second_per_grid_ts"] = torch.full((batch.rows,), batch.step_seconds, device=batch.ids.device)
    return out


def tower(model: Any) -> nn.Module:
    """The vision tower of either model."""
    found: nn.Module = getattr(model.model, "vision_tower", None) or model.model.visual
    return found


def look(model: Any, batch: Batch, sizes: Sizes) -> Any:
    """What the tower alone gives for a batch."""
    seen = sight(batch, sizes)
    if sizes.temporal == 1:
        return tower(model)(seen["pixel_values"], output_hidden_states=True)
    pixels, grid = seen.values()
    return tower(model)(pixels, grid_thw=grid)


def features(output: Any, batch: Batch, sizes: Sizes) -> tuple[Tensor, Tensor | None]:
    """What the tower gave -> the visual tokens (B, t, rows, cols, D), and the class token (B, D) where there is one."""
    high, wide = batch.pixels.shape[2] // sizes.token, batch.pixels.shape[3] // sizes.token
    t = -(-batch.pixels.shape[1] // sizes.temporal)
    if sizes.temporal > 1:
        return output.pooler_output.view(batch.rows, t, high, wide, -1), None
    hidden = output.hidden_states[-2]
    return hidden[:, 1:].reshape(batch.rows, 1, high, wide, -1), hidden[:, 0]


class Heads(nn.Module):
    """A linear reading of every visual token: what each of its four quarters shows, and its row and column.

    Where a quarter is one cell, it has one colour, shape and letter. Larger quarters may have several, of several
    frames, and each is there or not: a reading of every cell by itself would spread "a star" over as many directions as
    there are cells, and the LLM finds none of them. Where the tower has a class token, that says what there is at all.
    For clips the hidden states of the decoder are read too: what each thing has done so far.
    """

    def __init__(self, width: int, sizes: Sizes, whole: bool):
        super().__init__()
        self.frames, self.side = sizes.temporal, sizes.token // CELL
        self.many = self.frames * self.side**2 > 4
        cells = 4 if self.many else self.frames * self.side**2
        self.what = nn.ModuleDict({k: nn.Linear(width, cells * CLASSES[k]) for k in WHAT})
        self.place = nn.ModuleDict({k: nn.Linear(width, MOST) for k in ("row", "col")})
        self.whole = nn.ModuleDict({k: nn.Linear(width, CLASSES[k]) for k in WHAT} if whole else {})
        self.past = nn.ModuleDict({k: nn.Linear(sizes.text.width, n) for k, n in PAST.items() if sizes.temporal > 1})

    def forward(
        self, tokens: Tensor, first: Tensor | None, labels: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss, and shares that are right. tokens (B, t, rows, cols, D), first (B, D), labels (B, T, H / 7, W / 7)."""
        losses, right = [], {}
        for name in WHAT:
            n, want = CLASSES[name], self.cells(labels[name])
            said = self.what[name](tokens).float().view(-1, n)
            read = self._several if self.many else self._one
            loss, right[name] = read(said, want, n)
            losses.append(loss)
            if first is not None and self.whole:
                there = one_hot(want.flatten(1), n).amax(1).float()
                losses.append(binary_cross_entropy_with_logits(self.whole[name](first).float(), there))
        for name, dim in (("row", 2), ("col", 3)):
            index = torch.arange(tokens.shape[dim], device=tokens.device).clamp(max=MOST - 1)
            shape = [1, 1, -1, 1] if name == "row" else [1, 1, 1, -1]
            want = index.view(shape).expand(tokens.shape[:4]).flatten()
            said = self.place[name](tokens).float().view(-1, MOST)
            losses.append(0.3 * cross_entropy(said, want))
            right[name] = (said.argmax(-1) == want).float().mean()
        return torch.stack(losses).sum(), {
            k: float(v) for k, v in zip(right, torch.stack(list(right.values())).tolist())
        }

    def follow(self, hidden: Tensor, labels: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Loss, and shares that are right, of what the decoder knows at visual tokens of all frames up to theirs.

        hidden (B, t, rows, cols, D) of a layer in the middle of the decoder, labels (B, T, H / 7, W / 7).
        """
        hidden = rms_norm(hidden.float(), hidden.shape[-1:])
        losses, right = [], {}
        for name, head in self.past.items():
            # of a token's frames the last, of its cells the one of the highest class: 0 is background
            want = self.cells(labels[name]).unflatten(-1, (self.frames, -1))[..., -1, :].amax(-1)
            if name in WHOLE:
                said, want = head(hidden.mean((2, 3))), want[:, :, 0, 0]
                loss = cross_entropy(said.flatten(0, 1), want.flatten())
                right[name] = (said.argmax(-1) == want).float().mean()
            else:
                loss, right[name] = self._one(head(hidden).flatten(0, 3), want, PAST[name])
            losses.append(loss)
        return torch.stack(losses).sum(), {k: float(v) for k, v in right.items()}

    def _one(self, said: Tensor, want: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """One class a cell. said (cells, n), want (B, t, rows, cols, cells of a token) -> loss, and share right."""
        weight = torch.ones(n, device=said.device)
        weight[0] = EMPTY
        want = want.flatten()
        return cross_entropy(said, want, weight), (said.argmax(-1) == want)[want > 0].float().mean()

    def _several(self, said: Tensor, want: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Any classes a quarter. said (quarters, n), want as above -> loss, and how often the surest class is there."""
        half = self.side // 2
        cut = want.unflatten(-1, (self.frames, 2, half, 2, half)).movedim((-4, -2), (-5, -4))
        there = said.new_zeros(said.shape).scatter(1, cut.reshape(len(said), -1), 1.0)[:, 1:]
        loss = binary_cross_entropy_with_logits(said[:, 1:], there, reduction="none").sum(-1)
        some = there.any(-1)
        weight = torch.where(some, 1.0, EMPTY)
        best = there.gather(1, said[:, 1:].argmax(-1, keepdim=True))[:, 0]
        return (loss * weight).sum() / weight.sum(), best[some].mean()

    def cells(self, labels: Tensor) -> Tensor:
        """labels (B, T, H / 7, W / 7) -> (B, t, rows, cols, cells of a token) int64; an odd last frame counts twice."""
        b, frames, high, wide = labels.shape
        if frames % self.frames:
            labels = torch.cat([labels, labels[:, -1:].expand(-1, -frames % self.frames, -1, -1)], 1)
        t, s = labels.shape[1] // self.frames, self.side
        cut = labels.view(b, t, self.frames, high // s, s, wide // s, s).permute(0, 1, 3, 5, 2, 4, 6)
        return cut.reshape(b, t, high // s, wide // s, -1).long()
