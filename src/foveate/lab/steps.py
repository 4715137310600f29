"""What is learned in a step: in the dense stage what each cell shows, in the joint stage the answers as well."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .data import Batch
from .models import Sizes
from .supervise import Heads, features, inputs, look, tower
from .teach import Teacher, imitate
from .tokenizer import VIDEO, entries

LATE = 2  # layers of the decoder that are left after what has happened so far is known
IMITATE = 6.0  # weight of the teacher's tokens beside the labels


class Learned(NamedTuple):
    """loss: to go down. told: the part of it that is logged. right: shares and counts of what was right, by name."""

    loss: Tensor
    told: float
    right: dict[str, tuple[float, int]]


def dense(model: Any, heads: Heads, batch: Batch, sizes: Sizes, teacher: Teacher | None = None) -> Learned:
    """The tower alone, read by the heads, and beside the teacher's where there is one that can look."""
    tokens, first = features(look(model, batch, sizes), batch, sizes)
    loss, right = heads(tokens, first, batch.labels)
    if teacher is not None and teacher.fits(batch, sizes):
        far, right["teacher"] = imitate(tokens, teacher.look(batch))
        loss = loss + IMITATE * far
    return Learned(loss, float(loss.detach()), {k: (v, 1) for k, v in right.items() if v == v})


def joint(model: Any, heads: Heads, batch: Batch, sizes: Sizes, aux: float, teacher: Teacher | None = None) -> Learned:
    """Every answer of every conversation, and with weight ``aux`` what was learned in the dense stage."""
    seen: list[tuple[Tensor, Tensor | None]] = []
    middle: list[Tensor] = []
    # read at once: transformers splits the output by pictures right after
    hooks = [tower(model).register_forward_hook(lambda m, given, output: seen.append(features(output, batch, sizes)))]
    if aux and any(k in batch.labels for k in heads.past):
        layers = model.model.language_model.layers
        keep = torch.compiler.disable(lambda m, given: middle.append(given[0]))  # a compiled layer breaks off for it
        hooks.append(layers[-LATE].register_forward_pre_hook(keep))
    try:
        hidden = model.model(**inputs(batch, sizes), use_cache=False).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    loss, right = _answers(model.lm_head, hidden, batch)
    total = loss
    if middle:
        shape = (batch.rows, *seen[0][0].shape[1:4], hidden.shape[-1])
        followed, told = heads.follow(middle[0][batch.ids == entries()[VIDEO]].view(shape), batch.labels)
        total = total + aux * followed
        right |= {f"past {k}": (v, 1) for k, v in told.items() if v == v}
    if aux and seen:
        total = total + aux * heads(*seen[0], batch.labels)[0]
        if teacher is not None and teacher.fits(batch, sizes):
            total = total + aux * IMITATE * imitate(seen[0][0] / teacher.scale, teacher.look(batch))[0]
    return Learned(total, float(loss.detach()), right)


def _answers(head: nn.Module, hidden: Tensor, batch: Batch) -> tuple[Tensor, dict[str, tuple[float, int]]]:
    """hidden (B, n, D) -> the loss over answers, long ones weighing less a token, and what was said right by task."""
    number = batch.answer[:, 1:]
    at = number >= 0
    number, want = number[at], batch.ids[:, 1:][at]
    said = head(hidden[:, :-1][at]).float()
    length = torch.bincount(number, minlength=len(batch.tasks))
    weight = length[number].rsqrt()
    loss = (cross_entropy(said, want, reduction="none") * weight).sum() / weight.sum()
    wrong = torch.bincount(number, (said.argmax(-1) != want).double(), minlength=len(batch.tasks))
    tally: dict[str, list[bool]] = {}
    for task, missed in zip(batch.tasks, wrong.tolist()):
        tally.setdefault(task, []).append(missed == 0)
    return loss, {task: (sum(v) / len(v), len(v)) for task, v in tally.items()}
