"""The paired items of a study: made once, kept as files, prepared in batches, asked under one plan after another."""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from ..apply import apply
from ..drawing import slots
from ..errors import InputError
from ..lab.evaluate import needed_tokens
from ..lab.tasks import Item, generate, load, score, write
from ..load import Loaded
from ..prompt import Prompt
from ..spec import Plan
from .once import once

#: Tasks by family of the plots; "small_text" is "read" with a few letters smaller than a patch.
FAMILIES: dict[str, tuple[str, ...]] = {
    "objects": ("attribute", "shape", "relation", "position", "negation"),
    "counting": ("counting",),
    "fine": ("read", "small_text", "chart", "detail"),
    "dialogue": ("dialogue",),
    "overall": ("describe",),  # and all others
}
TASKS = tuple(t for tasks in FAMILIES.values() for t in tasks)
SMALL, LETTERS = 18, 3  # signs no higher than this many pixels, whose letters are of 12 or less; and how many letters


@dataclass(frozen=True)
class Batch:
    """Items asked together.

    Attributes:
        at: their numbers in the exam. prompt: up to the first question, with its image.
        rest: ids that follow the first question in a conversation, one list for each row; empty without one.
        most: new tokens, one more than the longest answer, so that an answer that runs on is seen to.
        seen: what the vision tower made of the prompt, once a plan has been asked.
    """

    at: tuple[int, ...]
    prompt: Prompt
    rest: tuple[tuple[int, ...], ...]
    most: int
    seen: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass
class Sheet:
    """What came of an exam, one entry for each item.

    Attributes:
        said: the model's words. kept: share of the visual tokens left after all stages.
        evidence: share of the tokens that show the answer which are left in their place; None without such tokens.
    """

    said: list[str] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    evidence: list[float | None] = field(default_factory=list)


@dataclass(frozen=True)
class Exam:
    """Items with the task that each stands for, ready to be asked."""

    tasks: tuple[str, ...]
    items: tuple[Item, ...]
    batches: tuple[Batch, ...]

    def scores(self, said: Sequence[str], wanted: Sequence[str] | None = None) -> list[float]:
        """How right each answer is, 0 to 1; against ``wanted`` instead of the right answers where given."""
        right = [i.answer for i in self.items] if wanted is None else wanted
        return [score(s, w, i.turns[-1].task) for s, w, i in zip(said, right, self.items)]


def items_of(seed: int, n: int, folder: Path, difficulty: float = 0.5) -> list[tuple[str, Item]]:
    """``n`` items shared out evenly among TASKS, with their tasks; read from ``folder`` if they were made before.

    Raises:
        InputError: fewer items than tasks.
    """
    if n < len(TASKS):
        raise InputError(f"'items' must be at least the number of tasks, {len(TASKS)}. Got {n}.")
    home = folder / name(seed, n, difficulty)
    if not home.is_dir():
        part = home.with_name(home.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        for k, task in enumerate(TASKS):
            count = n // len(TASKS) + (k < n % len(TASKS))
            made = _small(seed, count) if task == "small_text" else generate(task, seed, count, difficulty=difficulty)
            for item in made:
                write(item, part / task)
        part.replace(home)
    return [(task, item) for task in TASKS for item in load(home / task)]


def name(seed: int, n: int, difficulty: float) -> str:
    """What tells these items from others."""
    return f"items-{n}-{seed}-{difficulty}-{sources('lab/tasks', 'bench/exam.py')}"


def _small(seed: int, n: int) -> list[Item]:
    """Items of "read" with a few letters that are smaller than a patch of 14 pixels."""
    found: list[Item] = []
    for more in range(1, 100):  # other seeds than those of "read", so that no picture comes twice
        for item in generate("read", seed + 1000 * more, 4 * n, difficulty=1.0):
            boxes = [e.box for e in item.evidence]
            if len(boxes) == 1 and boxes[0][3] - boxes[0][1] <= SMALL and len(item.answer) <= LETTERS:
                found.append(item)
        if len(found) >= n:
            return found[:n]
    raise InputError(f"found {len(found)} of {n} items with small text")


@functools.cache
def sources(*places: str) -> str:
    """Ten letters that change with the source of these folders and files of foveate."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for place in places:
        for path in sorted((root / place).rglob("*.py")) if (root / place).is_dir() else [root / place]:
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:10]


def prepare(loaded: Loaded, found: Sequence[tuple[str, Item]], batch: int = 50) -> Exam:
    """Prompts of all items, pixels included, in batches of like answers' lengths; conversations are apart."""
    tasks, items = tuple(t for t, _ in found), tuple(i for _, i in found)
    words = loaded.builder.tokenizer
    lengths = [len(words(i.answer, add_special_tokens=False)["input_ids"]) for i in items]
    order = sorted(range(len(items)), key=lambda i: (len(items[i].turns) > 1, lengths[i]))
    batches, few = [], list[int]()
    for i in order:
        if few and (len(few) == batch or (len(items[i].turns) > 1) != (len(items[few[0]].turns) > 1)):
            batches.append(_batch(loaded, items, few, lengths))
            few = []
        few.append(i)
    return Exam(tasks, items, (*batches, _batch(loaded, items, few, lengths)))


def _batch(loaded: Loaded, items: Sequence[Item], at: list[int], lengths: list[int]) -> Batch:
    most = max(lengths[i] for i in at) + 1
    whole = [items[i].messages for i in at]
    prompt = loaded.prompt([m[:1] for m in whole])
    if all(len(m) == 1 for m in whole):
        return Batch(tuple(at), prompt, (), most)
    begun, said = (_rows(p) for p in (prompt, loaded.prompt(whole)))
    for first, full in zip(begun, said):
        if full[: len(first)] != first or len(full) == len(first):
            raise InputError("the chat template writes a conversation otherwise than its turns one by one")
    return Batch(tuple(at), prompt, tuple(tuple(f[len(b) :]) for b, f in zip(begun, said)), most)


def _rows(prompt: Prompt) -> list[list[int]]:
    """The ids of each row without padding."""
    ids, mask = (prompt.inputs[k].tolist() for k in ("input_ids", "attention_mask"))
    return [[t for t, m in zip(row, seen) if m] for row, seen in zip(ids, mask)]


@torch.inference_mode()
def ask(exam: Exam, loaded: Loaded, plan: Any) -> Sheet:
    """Every item, greedily. In a conversation the picture is shortened when the first question is asked, and the last
    question is asked of what is left, as happens to users.

    Raises:
        PlanError: a plan that cannot work on this model.
    """
    n = len(exam.items)
    sheet = Sheet([""] * n, [1.0] * n, [None] * n)
    made = Plan.of(plan)
    for batch in exam.batches:
        with once(loaded.model, made, batch.seen), apply(loaded.model, made) as report:
            texts = _answers(loaded, batch)
        for i, text in zip(batch.at, texts):
            sheet.said[i] = text
        ended = slots(batch.prompt, report.kept, ("inputs", "layers"))
        for visual in batch.prompt.visuals:
            i, where = batch.at[visual.row], visual.where.cpu()
            left = ended[visual.row, where] == where
            sheet.kept[i] = float(left.float().mean())
            if visual.grid is not None and bool((needed := needed_tokens(exam.items[i], visual)).any()):
                sheet.evidence[i] = float(left.view(visual.grid)[needed].float().mean())
    return sheet


def _answers(loaded: Loaded, batch: Batch) -> list[str]:
    given: dict[str, Any] = dict(batch.prompt.inputs)
    if batch.rest:
        cache = DynamicCache(config=loaded.model.get_decoder().config)
        loaded.model(**given, past_key_values=cache, use_cache=True, logits_to_keep=1)
        ids, mask = _padded(batch.rest, given["input_ids"])
        ids = torch.cat([given["input_ids"], ids], 1)
        mask = torch.cat([given["attention_mask"], mask], 1)
        given = {"input_ids": ids, "attention_mask": mask, "past_key_values": cache}
    out = loaded.model.generate(
        **given, max_new_tokens=batch.most, do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None
    )
    return [t.strip() for t in loaded.decode(out[:, given["input_ids"].shape[1] :])]


def _padded(rows: Sequence[Sequence[int]], like: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and mask (B, n) of rows padded on the left, whatever stands at padding."""
    n = max(map(len, rows))
    ids, mask = (torch.zeros(len(rows), n, dtype=like.dtype) for _ in range(2))
    for k, row in enumerate(rows):
        ids[k, n - len(row) :], mask[k, n - len(row) :] = torch.tensor(row), 1
    return ids.to(like.device), mask.to(like.device)
