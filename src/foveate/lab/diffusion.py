"""The lab's masked-diffusion language model: a small bidirectional Llama that answers the lab's questions about texts.

Trained as LLaDA is (Nie et al., arXiv 2502.09992): of the answer and the end tokens that fill up its canvas, a random
share is masked, and the model predicts what stood there; the loss of a row is divided by its share.

    foveate lab train diffusion --minutes 60
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..builtin import WEIGHTS
from ..errors import InputError
from . import checkpoint, tokenizer
from .models import Stack, _spread
from .optimise import Optimiser
from .schedule import Budget, rate
from .tasks import generate as items_of

MASK = "<|mask|>"
CANVAS = 24  # positions of an answer, end tokens included
FILE = Path("training") / "checkpoint.safetensors"
#: Task -> words of a text or entries to copy: the least, the most while training, and what is asked afterwards.
TASKS = {"recall": (20, 45, 40), "copy": (3, 16, 12)}
SIZE = Stack(width=192, layers=4, heads=4, mlp=448)
SMALL = Stack(width=32, layers=2, heads=2, mlp=48)


@dataclass(frozen=True)
class Recipe:
    """How it is trained.

    Attributes:
        size: of the model. seed: of weights, texts and masks. batch: texts in a step.
        peak: highest learning rate. warm: steps of warm-up. decay: of the weights. every: steps between two records.
        ramp: steps over which texts become as long as they get.
    """

    size: Stack = SIZE
    seed: int = 0
    batch: int = 48
    peak: float = 2e-3
    warm: int = 50
    decay: float = 0.05
    every: int = 25
    ramp: int = 400


@dataclass
class Progress:
    """How far a run is, and what it noted on the way."""

    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


def ids() -> dict[str, int]:
    """Ids of the special tokens, the mask's included: it follows the lab's own tokens."""
    known = tokenizer.entries()
    return {"pad": known[tokenizer.PAD], "eos": known[tokenizer.EOS], "mask": len(known)}


def make(size: Stack, seed: int = 0) -> Any:
    """The model with random weights: an ordinary Llama of transformers whose config says that it is not causal."""
    from transformers import LlamaConfig, LlamaForCausalLM

    special = ids()
    config = LlamaConfig(
        vocab_size=special["mask"] + 1,
        hidden_size=size.width,
        intermediate_size=size.mlp,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        pad_token_id=special["pad"],
        eos_token_id=special["eos"],
        bos_token_id=tokenizer.entries()[tokenizer.BOS],
        is_causal=False,
        mask_token_id=special["mask"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = LlamaForCausalLM(config).float()
        _spread(model)
    return model


def prompt(question: str) -> list[int]:
    """A question as the chat template has it, up to where the answer begins."""
    known = tokenizer.entries()
    asked = tokenizer.encode(question)
    return [known[tokenizer.BOS], known[tokenizer.USER], *asked, known[tokenizer.ASSISTANT]]


def stacked(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Prompts as one table, padded on the left: ids and mask (B, n) int64."""
    n, pad = max(map(len, rows)), ids()["pad"]
    table = torch.tensor([[pad] * (n - len(r)) + list(r) for r in rows])
    mask = torch.tensor([[0] * (n - len(r)) + [1] * len(r) for r in rows])
    return table, mask


@dataclass(frozen=True)
class Batch:
    """ids, mask and hidden (B, n) with the canvas in the last columns; share (B, 1) of it that is hidden."""

    ids: Tensor
    mask: Tensor
    hidden: Tensor
    share: Tensor


def batch(recipe: Recipe, step: int) -> Batch:
    """The texts and masks of a step; they depend on the seed and its number alone."""
    rng, special = Random(f"{recipe.seed}/diffusion/{step}"), ids()
    questions, answers = [], []
    for i in range(recipe.batch):
        task = rng.choice(list(TASKS))
        low, high, _ = TASKS[task]
        most = low + round((high - low) * min(1.0, (step + 1) / recipe.ramp))
        number = (recipe.seed << 40) + (step << 10) + i
        turn = items_of(task, number, 1, split="train", length=rng.randint(low, most))[0].turns[0]
        answer = [*tokenizer.encode(turn.answer), special["eos"]][:CANVAS]
        questions.append(prompt(turn.question))
        answers.append(answer + [special["eos"]] * (CANVAS - len(answer)))
    table, mask = stacked(questions)
    dice = torch.Generator().manual_seed((recipe.seed << 32) + step)
    share = 0.02 + 0.98 * torch.rand(recipe.batch, 1, generator=dice)
    inside = torch.rand(recipe.batch, CANVAS, generator=dice) < share
    inside[:, 0] |= ~inside.any(-1)
    hidden = torch.cat([torch.zeros_like(table, dtype=torch.bool), inside], 1)
    whole = torch.cat([table, torch.tensor(answers)], 1)
    return Batch(whole, torch.nn.functional.pad(mask, (0, CANVAS), value=1), hidden, share)


def loss_of(model: Any, given: Batch) -> tuple[Tensor, float]:
    """The loss of a batch, and the share of hidden tokens that were predicted right."""
    from ..diffusion import read_with

    given = Batch(*(t.to(model.device) for t in (given.ids, given.mask, given.hidden, given.share)))
    seen = given.ids.masked_fill(given.hidden, ids()["mask"])
    n = given.ids.shape[1]
    said = read_with(model, given.mask.bool()).whole(seen, n - CANVAS, n).float()
    hidden, want = given.hidden[:, n - CANVAS :], given.ids[:, n - CANVAS :]
    each = cross_entropy(said[hidden], want[hidden], reduction="none")
    weight = (1 / given.share).expand_as(hidden)[hidden]
    right = (said.detach().argmax(-1) == want)[hidden].float().mean()
    return (each * weight).sum() / weight.sum(), float(right)


def train(
    recipe: Recipe | None = None,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    out: str | Path | None = None,
    device: str | torch.device | None = None,
    resume: bool = False,
    items: int = 100,
    tell: Callable[[dict[str, Any], float], None] | None = None,
) -> dict[str, Any] | None:
    """Train it and write its folder: weights, tokenizer, card and log.

    Returns what the log says; None when Ctrl-C or SIGTERM came first: then there is only the checkpoint to resume from.

    Args:
        minutes: to train for, or steps: the same on every machine; both count from the start of the run.
        out: the folder; None for where ``foveate.load("lab/diffusion")`` looks.
        device: None takes a GPU if there is one.
        resume: go on from the folder's checkpoint. items: asked of each task at the end.
        tell: called with each record, and how much of the budget is used.

    Raises:
        InputError: neither or both of minutes and steps, a folder with another run, or nothing to resume.
    """
    from .train import _device

    recipe = recipe or Recipe()
    if (minutes is None) == (steps is None) or (minutes or steps or 0) <= 0:
        raise InputError(f"give either 'minutes' or 'steps', above 0. Got {minutes} and {steps}.")
    folder = Path(out) if out is not None else WEIGHTS / "diffusion"
    if not resume and (folder / FILE).is_file():
        raise InputError(f"{folder} holds a run already; go on with --resume, or choose another --out")
    budget = Budget(None if minutes is None else 60 * minutes, steps)
    place = _device(device)
    model, at = make(recipe.size, recipe.seed).to(place).train(), Progress()
    optimiser = Optimiser(model.named_parameters(), lambda name: 1.0, recipe.peak, recipe.decay)
    if resume:
        tensors, data = checkpoint.read(folder / FILE)
        if data["recipe"] != json.loads(json.dumps(asdict(recipe))):
            raise InputError(f"the run in {folder} has another recipe; choose another --out")
        checkpoint.unpack(tensors, {"model": model}, optimiser)
        at = Progress(**data["run"])
    with _signals() as stopped:
        finished = _learn(model, optimiser, recipe, budget, at, tell, stopped)
    checkpoint.write(
        folder / FILE, checkpoint.pack({"model": model}, optimiser), {"recipe": asdict(recipe), "run": asdict(at)}
    )
    (folder / FILE.parent / ".gitignore").write_text("*\n", encoding="utf-8")
    return _finished(model.eval(), recipe, at, folder, items) if finished else None


def _learn(
    model: Any,
    optimiser: Optimiser,
    recipe: Recipe,
    budget: Budget,
    at: Progress,
    tell: Callable[[dict[str, Any], float], None] | None,
    stopped: Callable[[], bool],
) -> bool:
    """Train until the budget is used; False when a signal came before."""
    told: list[tuple[float, float]] = []
    begun = time.perf_counter()
    while (gone := budget.gone(at.step, at.seconds)) < 1:
        if stopped():
            return False
        optimiser.set(recipe.peak * rate(at.step, gone, recipe.warm))
        loss, right = loss_of(model, batch(recipe, at.step))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        told.append((float(loss.detach()), right))
        at.step += 1
        now = time.perf_counter()
        at.seconds, begun = at.seconds + now - begun, now
        if at.step % recipe.every == 0:
            record = {
                "step": at.step,
                "seconds": round(at.seconds, 1),
                "loss": sum(x for x, _ in told) / len(told),
                "right": round(sum(x for _, x in told) / len(told), 4),
            }
            at.history.append(record)
            told = []
            if tell is not None:
                tell(record, budget.gone(at.step, at.seconds))
    return True


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Inside, SIGINT and SIGTERM only set what is yielded; in a thread of its own nothing is changed."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {s: signal.signal(s, lambda number, frame: came.append(number)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _finished(model: Any, recipe: Recipe, at: Progress, folder: Path, n: int) -> dict[str, Any]:
    """Save the model, ask it, and write the card and the log."""
    from .diffusion_eval import card, evaluate

    words = tokenizer.make()
    words.add_special_tokens({"mask_token": MASK})
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    result = {}
    for task in TASKS:
        scores = evaluate(model, task, n=n, seed=1, schedule="lowconfidence").scores
        result[task] = sum(scores) / len(scores)
    log = {"recipe": asdict(recipe), "steps": at.step, "seconds": at.seconds, "items": n, "accuracy": result}
    (folder / "log.json").write_text(json.dumps({**log, "history": at.history}, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(model.num_parameters(), log), encoding="utf-8")
    return log
