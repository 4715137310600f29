"""The training of Learn2PD's filter: from a model's own slow runs, in minutes.

Bao et al., arXiv 2509.25188. The model decodes prompts one position at a forward. At every forward the confidences of
the block are noted, and for each position whether its most likely token is the one it ends up with; the filter learns
to tell this from those. It then lets through, in one forward, what the slow run would have said anyway.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ..errors import InputError
from ._schedule import Block, Chooser, Look, Stateless, best
from .engine import generate
from .filter import Filter


@dataclass(frozen=True)
class Lesson:
    """confidences, whether the likeliest token is the final one, and whether it is open: (N, block) each, two bool."""

    confidence: Tensor
    final: Tensor
    masked: Tensor


@dataclass
class _Notes(Stateless):
    """The slow schedule, one position at a forward, which writes down what it saw."""

    name: str = "notes"
    stage: str = "schedules"
    precise = False
    seen: list[list[Look]] = field(default_factory=list)

    def begin(self, block: Block) -> Chooser:
        self.seen.append([])
        return self

    def fill(self, look: Look) -> Tensor:
        self.seen[-1].append(look)
        return best(look.candidates, torch.ones_like(look.quota))

    def __str__(self) -> str:
        return self.name


def collect(model: Any, prompts: Iterable[Tensor], *, length: int, block: int, **options: Any) -> Lesson:
    """Decode prompts (each (B, P) int64) slowly and note what a filter can learn from.

    options: more arguments of :func:`foveate.diffusion.generate`, such as mask_id.

    Raises:
        InputError: no prompts, or a length that the block does not divide.
    """
    if length % block:
        raise InputError(f"the filter sees whole blocks, so 'block' must divide 'length'. Got {block} and {length}.")
    confidence, final, masked = [], [], []
    for ids in prompts:
        notes = _Notes()
        out = generate(model, ids, schedule=notes, length=length, block=block, **options)
        for part, looks in zip(out.report.blocks, notes.seen):
            end = out.ids[:, part.start : part.start + part.size]
            for look in looks:
                confidence.append(look.confidence.cpu())
                final.append((look.tokens == end).cpu())
                masked.append(look.masked.cpu())
    if not confidence:
        raise InputError("there are no prompts to learn from")
    return Lesson(torch.cat(confidence), torch.cat(final), torch.cat(masked))


def fit(
    lesson: Lesson, *, hidden: int | None = None, steps: int = 2000, batch: int = 256, rate: float = 1e-3, seed: int = 0
) -> Filter:
    """Train a filter on what was noted; the loss counts positions that were still masked. hidden: None is 2 blocks.

    The same lesson, seed and steps give the same filter; torch's own random state is left as it was.
    """
    if steps < 1 or batch < 1:
        raise InputError(f"'steps' and 'batch' must be above 0. Got {steps} and {batch}.")
    dice = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        net = Filter(lesson.confidence.shape[1], hidden)
        optimiser = torch.optim.AdamW(net.parameters(), rate)
        for _ in range(steps):
            pick = torch.randint(len(lesson.confidence), (batch,), generator=dice)
            said = net(lesson.confidence[pick].float())
            weight = lesson.masked[pick].float()
            loss = binary_cross_entropy_with_logits(said, lesson.final[pick].float(), weight, reduction="sum")
            optimiser.zero_grad()
            (loss / weight.sum().clamp(min=1)).backward()
            optimiser.step()
    return net.eval().requires_grad_(False)
