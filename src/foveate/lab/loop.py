"""The training loop: two stages, bounded by time or steps, that can be interrupted at any step and go on exactly."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..load import load
from . import checkpoint, segments, steps
from .data import Diet, default_workers, serve
from .meter import STAGES, Meter, State
from .models import SIZES, Sizes, make
from .optimise import HEADS, Optimiser
from .schedule import DECAY, Budget, rate
from .supervise import Heads
from .teach import Teacher

LAYERS = ("CLIPEncoderLayer", "LlamaDecoderLayer", "Qwen2_5_VLDecoderLayer")  # those worth compiling
TAUGHT, JOINED = 0.2, 0.8  # of the highest learning rate, for a taught tower and the decoder that it is joined to
GENTLE = 0.3  # of the joint stage: then the learning rate goes down, with a teacher
LONGER = 2.25  # times the dense stage with a teacher
SOONER = 3  # times sooner the questions are hard for its decoder
FOLDER = "training"  # of the run's folder: what is needed to go on, and not to use the model
#: Called with a record of the history and how much of the budget of its stage is used.
Tell = Callable[[dict[str, Any], float], None]


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        kind: "image" or "video". sizes: None for the usual ones. seed: of the weights and the data.
        batch, turns, ramp: see :class:`foveate.lab.data.Diet`.
        share: of the budget for the dense stage, at most ``most_dense`` seconds; more with a teacher, whose decoder
            needs less of the joint stage.
        peak: highest learning rate; the tower gets half of it once all is trained. warm: steps of warm-up.
        aux: weight of the heads in the joint stage. bf16: autocast.
        teacher: a lab model, by name or folder, whose decoder to begin with and whose tokens to imitate; None for none.
        fuse: compile the layers (torch.compile): faster after a minute; on a CPU it needs a C++ compiler.
        workers: processes that make data; None for what fits the machine.
        every: steps between two records. save: seconds between two checkpoints.
    """

    kind: str
    sizes: Sizes | None = None
    seed: int = 0
    batch: int = 32
    turns: int = 8
    ramp: int = 60_000
    share: float = 0.2
    most_dense: float = 1800.0
    peak: float = 1e-3
    warm: int = 150
    decay: float = 0.05
    aux: float = 0.4
    teacher: str | None = None
    bf16: bool = True
    fuse: bool = False
    workers: int | None = None
    every: int = 25
    save: float = 180.0

    @property
    def size(self) -> Sizes:
        return self.sizes or SIZES[self.kind]

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        sizes = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.size).items()}
        told = {"kind": self.kind, "seed": self.seed, "batch": self.batch, "turns": self.turns, "sizes": sizes}
        return told if self.teacher is None else {**told, "teacher": self.teacher}


class Run:
    """One run in a folder."""

    def __init__(self, recipe: Recipe, budget: Budget, folder: Path, device: torch.device, tell: Tell | None = None):
        self.recipe, self.folder, self.device, self.tell = recipe, folder / FOLDER, device, tell
        self.budget = budget
        self.model = make(recipe.kind, recipe.size, recipe.seed).to(device)
        self.teacher = Teacher(load(recipe.teacher).model, device) if recipe.teacher is not None else None
        if self.teacher is not None:
            self.teacher.begin(self.model)
        if device.type == "cpu":  # there the backward pass of the fused kernel is slower than two plain products
            self.model.set_attn_implementation("eager")
            if recipe.kind == "video":
                segments.use(self.model.model.visual)
        if recipe.fuse:
            for layer in (m for m in self.model.modules() if type(m).__name__ in LAYERS):
                layer.compile(dynamic=True)
        self.heads = self._heads().to(device)
        self.state = State()
        self.stopping = False
        self._moments: dict[str, torch.Tensor] = {}

    def _heads(self) -> Heads:
        image = self.recipe.kind == "image"
        width = self.recipe.size.tower.width if image else self.recipe.size.text.width
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.recipe.seed)
            return Heads(width, self.recipe.size, image)

    def part(self, stage: str) -> Budget:
        """The dense stage gets its share of the budget, the joint stage all that was not used."""
        if stage == "dense":
            longer = 1.0 if self.teacher is None else LONGER
            share = self.budget.part(self.recipe.share * longer)
            return share if share.seconds is None else Budget(min(share.seconds, self.recipe.most_dense * longer))
        used = self.state.spent.get("dense", {"steps": 0, "seconds": 0.0})
        if self.budget.seconds is None:
            return Budget(steps=(self.budget.steps or 0) - int(used["steps"]))
        return Budget(self.budget.seconds - used["seconds"])

    def decay(self, stage: str) -> float:
        """The share of a stage over which the learning rate goes down."""
        return GENTLE if self.teacher is not None and stage == "joint" else DECAY

    def _rate(self, stage: str, gone: float) -> float:
        return self.recipe.peak * rate(self.state.step, gone, self.recipe.warm, self.decay(stage))

    @property
    def parts(self) -> dict[str, nn.Module]:
        return {"model": self.model, "heads": self.heads}

    @property
    def latest(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def _level(self, stage: str) -> Path:
        """The checkpoint from before the learning rate went down: from there a longer run goes on."""
        return self.folder / f"level-{stage}.safetensors"

    def resume(self) -> None:
        """Go on from the last checkpoint; with a larger budget from the last one at full learning rate.

        Raises:
            InputError: there is none, or it is of another model.
        """
        tensors, data = checkpoint.read(self.latest)
        if data["identity"] != self.recipe.identity:
            differ = [k for k, v in self.recipe.identity.items() if data["identity"].get(k) != v]
            raise InputError(f"the run in {self.folder.parent} has another {', '.join(differ)}; choose another --out")
        state = State(**data["run"])
        self.state = state
        gone = self.part(state.stage).gone(state.step, state.seconds)
        if state.decaying and gone < 1 - self.decay(state.stage) and self._level(state.stage).is_file():
            tensors, data = checkpoint.read(self._level(state.stage))
            state = State(**data["run"])
        checkpoint.unpack(tensors, self.parts, None)
        self.state, self._moments = state, tensors

    def go(self) -> bool:
        """Train until the budget is used; False when a signal came before. The checkpoint is written in both cases."""
        with self._signals():
            for stage in STAGES[STAGES.index(self.state.stage) :]:
                if self.state.stage != stage:
                    self.state.stage, self.state.step, self.state.seconds, self.state.pictures = stage, 0, 0.0, 0
                    self.state.decaying, self._moments = False, {}
                    if self.teacher is not None:
                        self.teacher.join(self.model, self.heads)
                if not self._stage(stage):
                    return False
        return True

    def _stage(self, stage: str) -> bool:
        state, recipe, budget = self.state, self.recipe, self.part(stage)
        optimiser = self._optimiser(stage)
        checkpoint.unpack(self._moments, self.parts if self._moments else {}, optimiser)
        workers = default_workers(self.device) if recipe.workers is None else recipe.workers
        side, ramp = self.teacher.side if self.teacher is not None else 0, recipe.ramp
        if self.teacher is not None and stage == "joint":
            ramp //= SOONER
        diet = Diet(recipe.kind, recipe.size, stage, recipe.seed, recipe.batch, recipe.turns, ramp, side)
        batches = serve(diet, state.step, workers, self.device.type == "cuda")
        meter, saved, begun = Meter(), time.monotonic(), time.perf_counter()
        while (gone := budget.gone(state.step, state.seconds)) < 1 and not self.stopping:
            if gone > 1 - self.decay(stage) and not state.decaying:
                self._write(self._level(stage), optimiser)
                state.decaying = True
            learned = self._learn(next(batches), optimiser, self._rate(stage, gone))
            state.step += 1
            now = time.perf_counter()
            state.seconds, begun = state.seconds + now - begun, now
            meter.add(learned)
            if state.step % recipe.every == 0:
                state.history.append(meter.record(stage, state, optimiser.lr))
                if self.tell is not None:
                    self.tell(state.history[-1], budget.gone(state.step, state.seconds))
            if time.monotonic() - saved > recipe.save:
                self._write(self.latest, optimiser)
                saved = time.monotonic()
        del batches
        state.spent[stage] = {"seconds": state.seconds, "steps": state.step, "pictures": state.pictures}
        self._write(self.latest, optimiser)
        return not self.stopping

    def _optimiser(self, stage: str) -> Optimiser:
        """Once all is trained the tower is slower; with a teacher, all but the heads."""
        named = [*self.model.named_parameters(), *self.heads.named_parameters()]

        def scale(name: str) -> float:
            if stage == "dense" or name.startswith(HEADS):
                return 1.0
            own = "vision_tower" in name or "visual." in name
            if self.teacher is not None:
                return TAUGHT if own else JOINED
            return 0.5 if own else 1.0

        return Optimiser(named, scale, self.recipe.peak, self.recipe.decay)

    def _learn(self, batch: Any, optimiser: Optimiser, lr: float) -> steps.Learned:
        recipe, sizes = self.recipe, self.recipe.size
        self.state.pictures += batch.rows
        batch = batch.to(self.device)
        optimiser.set(lr)
        with torch.autocast(self.device.type, torch.bfloat16, recipe.bf16):
            if self.state.stage == "dense":
                learned = steps.dense(self.model, self.heads, batch, sizes, self.teacher)
            else:
                learned = steps.joint(self.model, self.heads, batch, sizes, recipe.aux, self.teacher)
        optimiser.zero_grad()
        learned.loss.backward()
        norm = nn.utils.clip_grad_norm_([p for part in self.parts.values() for p in part.parameters()], 1.0)
        if bool(torch.isfinite(norm)):
            optimiser.step()
        else:
            self.state.skipped += 1
        return learned

    def _write(self, path: Path, optimiser: Optimiser) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / ".gitignore").write_text("*\n", encoding="utf-8")
        tensors = checkpoint.pack(self.parts, optimiser)
        checkpoint.write(path, tensors, {"identity": self.recipe.identity, "run": asdict(self.state)})

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run after the step at hand; a second Ctrl-C at once."""

        def stop(number: int, frame: Any) -> None:
            if self.stopping and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.stopping = True

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
