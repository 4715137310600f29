"""Stage encoder: shorten the sequence inside the blocks of a vision tower.

A method decides between attention and MLP, as the papers do, without touching the block's code: the hook before the
second norm hands the MLP m tokens, the hook after the MLP lifts its output back to n so that the residual sum fits, and
the hook after the block applies the same map again. Since a map is linear and averages, map(x + lift(y)) = map(x) + y,
which is what the papers' rewritten blocks compute.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PlanError
from ..reduction import Reduction
from ..report import Report
from ..tokens import Tokens
from . import guard
from .cost import block_flops
from .costs import Costs
from .keys import Keys
from .model import Anatomy, attention_of, mlp_of, norms_of
from .packed import Segments
from .tap import Watch
from .vision import NOTE, Note, Tower


def given(anatomy: Anatomy) -> set[str]:
    """Signals that a method inside this encoder can have."""
    heads = {"last_heads"} if anatomy.family.tower == "batch" else set()
    rows = {"received_attention"} | ({"cls_attention"} if anatomy.prefix else set())
    return {"features", "metric", "size", "grid", *heads, *rows}


class EncoderSite:
    """The hooks of all encoder methods of a plan on one tower; also collects encoder signals for later stages."""

    def __init__(
        self, anatomy: Anatomy, methods: list[Any], want: frozenset[str], report: Report, guarded: Costs | None = None
    ) -> None:
        self.anatomy, self.methods, self.report, self.guarded = anatomy, methods, report, guarded
        self.tower = Tower(anatomy, want, report)
        self.at = {m: frozenset(m.at(len(anatomy.blocks))) for m in methods}
        self.keys: dict[int, Keys] = {}
        self._fresh()
        for m in methods:
            bad = [i for i in self.at[m] if not 0 <= i < len(anatomy.blocks)]
            if bad:
                raise PlanError(f"{m.name} acts at block {bad[0]}, but {anatomy.name} has {len(anatomy.blocks)} blocks")
            if not getattr(m, "averages", m.card.average):
                raise PlanError(
                    f"{m.name} does not average, so it cannot act inside a block: {m.card.why or 'it adds'}"
                )

    def _fresh(self) -> None:
        self.total: Reduction | None = None  # every map so far, composed
        self.at_features: Reduction | None = None  # the part up to the features that the projector reads
        self.at_scores: Reduction | None = None  # the part before the attention that scores are read from
        self.after: list[Reduction | None] = []  # the part up to each block's output
        self.now: Reduction | None = None  # the map of the block that is running
        self.middle: Tensor | None = None  # what the MLP's norm was given, if that map mixes many with many
        self.size: Tensor | None = None
        self.cells: Tensor | None = None  # of the tokens left, where a method asks for the grid
        self.segments: Segments | None = None
        self.frames = 1  # attention spans: one, or the frames of a packed sequence
        self.n = 0
        self.offset = 0
        self.lengths: list[int] = []
        self.skip = False

    @property
    def packed(self) -> bool:
        """Whether the tower takes one long sequence."""
        return self.tower.packed

    def place(self, stack: ExitStack) -> dict[nn.Module, list[Watch]]:
        """Put the hooks on; returns the attention watchers to install."""
        encoder = self.anatomy.encoder
        add = stack.callback
        add(encoder.register_forward_pre_hook(self._start, with_kwargs=True).remove)
        add(encoder.register_forward_hook(self._finish, prepend=True).remove)
        watchers: dict[nn.Module, list[Watch]] = {k: list(v) for k, v in self.tower.watchers().items()}
        if not self.methods:
            return watchers
        for i, block in enumerate(self.anatomy.blocks):
            acting = [m for m in self.methods if i in self.at[m]]
            add(block.register_forward_pre_hook(self._enter(i), with_kwargs=True).remove)
            # before transformers' own capture hooks, which would otherwise record the unshortened tensor
            add(block.register_forward_hook(self._leave(i, acting), prepend=True).remove)
            proportional = any(getattr(m, "proportional", False) for m in self.methods)
            needs = {n for m in acting for need in m.card.needs for n in need.split("|")} & given(self.anatomy)
            self.keys[i] = Keys(self, proportional, needs)
            watchers.setdefault(attention_of(block), []).append(self.keys[i])
            if acting:
                add(norms_of(block)[1].register_forward_pre_hook(self._shorten(i, acting)).remove)
                add(mlp_of(block).register_forward_hook(self._lift).remove)
        if self.packed:
            mergers = [encoder.merger, *getattr(encoder, "deepstack_merger_list", [])]
            for merger in mergers:
                add(merger.register_forward_pre_hook(self._before_merger).remove)
        return watchers

    # --- around the tower -----------------------------------------------------------------------------------------

    def _start(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._fresh()
        for keys in self.keys.values():
            keys.parts = {}  # of a run that failed half-way
        self.tower.start(module, args, kwargs)

    def _finish(self, module: nn.Module, args: Any, out: Any) -> Any:
        total, kept = self.total, None
        if self.methods:
            self._account()
        if total is not None:
            self.report.encoded.append(total if self.packed else (self.at_features or total))
        if total is not None and self.anatomy.family.kind == "vlm":
            if not self.packed:
                out.last_hidden_state = self._restore(out.last_hidden_state, total)
                if getattr(out, "hidden_states", None) is not None:
                    after = [None, *self.after]
                    out.hidden_states = tuple(self._restore(h, r) for h, r in zip(out.hidden_states, after))
            if self.anatomy.family.drop:
                at = total if self.packed else (self.at_features or total)
                prefix = 0 if self.packed else self.anatomy.prefix - self.anatomy.lead
                kept = self.tower.raster(at.kept[:, prefix:].flatten())
        if self.anatomy.family.kind == "vlm":
            hidden = None if self.packed else out.last_hidden_state
            images = 1 if hidden is None else hidden.shape[0]
            patches = 0 if hidden is None else hidden.shape[1] - self.anatomy.prefix
            note: Note = self.tower.finish(self.at_scores, kept, images, patches)
            setattr(out, NOTE, note)
        return out

    @staticmethod
    def _restore(h: Any, r: Reduction | None) -> Any:
        """A hidden state of the shortened tower at full length; r: every map up to it."""
        return h if h is None or r is None else r.expand(h)

    def _before_merger(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.total is None:
            return args
        u = self.anatomy.unit
        full = self.total.expand(args[0].unflatten(0, (-1, u)).flatten(1)[None])[0]
        return (full.unflatten(-1, (u, -1)).flatten(0, 1), *args[1:])

    # --- inside the tower -----------------------------------------------------------------------------------------

    def _enter(self, i: int) -> Any:
        def hook(block: nn.Module, args: Any, kwargs: Any) -> Any:
            x = args[0] if args else kwargs["hidden_states"]
            if i == 0:
                self._begin(x, any(isinstance(a, Tensor) and a.ndim == 4 for a in (*args, *kwargs.values())))
            self.offset, self.now = 0, None
            if i == self.anatomy.feature_block:
                self.at_scores = self.total
            self.lengths.append(x.shape[0] if self.packed else x.shape[1])
            if self.segments is not None:
                kwargs = self.segments.fit(kwargs, self.total)
            return args, kwargs

        return hook

    def _begin(self, x: Tensor, masked: bool) -> None:
        """Before the first block: x (B, n, D), or (patches, D) of a packed tower."""
        self.n = x.shape[0] // self.anatomy.unit if self.packed else x.shape[1]
        if self.packed:
            assert self.tower.grid is not None
            self.segments = Segments(self.tower.grid, self.anatomy.unit)
            self.frames = len(self.segments.frames)
        if any("grid" in need for m in self.methods for need in m.card.needs):
            self.cells = self.tower.cells(x.shape[0], self.n)
        reason = None
        if masked and not self.packed:
            reason = "encoder: this image has padded patches, so its tower runs unshortened"
        elif self.guarded is not None:
            rows, width = (
                1 if self.packed else x.shape[0],
                getattr(attention_of(self.anatomy.blocks[0]), "head_dim", 64),
            )
            reason = guard.tower(self.anatomy, self.methods, self.n, self.frames, rows, width, self.guarded)
        self.skip = reason is not None
        if reason is not None:
            self.report.decline(reason)

    def _shorten(self, i: int, acting: list[Any]) -> Any:
        def hook(norm: nn.Module, args: tuple[Tensor, ...]) -> Any:
            if self.skip:
                self.keys[i].take(self.packed)
                return None
            x, read = args[0], self.keys[i].take(self.packed)
            u = self.anatomy.unit
            if self.packed:
                x = x.unflatten(0, (-1, u)).flatten(1)[None]
                read = {k: v.unflatten(1, (-1, u)).mean(2) for k, v in read.items()}
            if "cls_attention" in read:
                read["cls_attention"] = read["cls_attention"].mT
            if "q" in read:
                read["where"] = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
            depth = len(self.anatomy.blocks)
            tokens = Tokens(x, self.anatomy.prefix, self.n, i, depth, grid=self.cells, size=self._sizes(x), **read)
            now: Reduction | None = None
            for m in acting:
                row = self.report.row("encoder", str(m))
                with self.report.clock(row, x.device):
                    r = m.reduce(tokens) if self.segments is None else self.segments.reduce(m, tokens)
                    now = r if now is None else now.then(r)
                    tokens = tokens.gathered(r).with_(full=self.n, metric=r(tokens.need("metric")))
            assert now is not None
            self.middle = args[0] if now.matrix is not None else None
            x, self.size, self.cells = tokens.x, tokens.size, tokens.grid
            self.now = now
            return (x[0].unflatten(-1, (u, -1)).flatten(0, 1) if self.packed else x,)

        return hook

    def _sizes(self, x: Tensor) -> Tensor:
        return self.size if self.size is not None else torch.ones(x.shape[:2], device=x.device)

    def _lift(self, mlp: nn.Module, args: Any, out: Tensor) -> Tensor | None:
        if self.now is None:
            return None
        lift = self.now.expand if self.now.matrix is None else self.now.spread
        if not self.packed:
            return lift(out)
        u = self.anatomy.unit
        full: Tensor = lift(out.unflatten(0, (-1, u)).flatten(1)[None])[0]
        lifted: Tensor = full.unflatten(-1, (u, -1)).flatten(0, 1)
        return lifted

    def _leave(self, i: int, acting: list[Any]) -> Any:
        def hook(block: nn.Module, args: Any, out: Any) -> Any:
            if not acting:
                self.keys[i].take(self.packed)
            if self.now is None:
                self._note_after(i)
                return None
            x = out[0] if isinstance(out, tuple) else out
            if self.packed:
                u = self.anatomy.unit
                x = self._mapped(x.unflatten(0, (-1, u)).flatten(1)[None])[0].unflatten(-1, (u, -1)).flatten(0, 1)
                if self.segments is not None:
                    self.segments.shorten(self.now)
            else:
                x = self._mapped(x)
            self.total = self.now if self.total is None else self.total.then(self.now)
            self._note_after(i)
            return (x, *out[1:]) if isinstance(out, tuple) else x

        return hook

    def _mapped(self, x: Tensor) -> Tensor:
        """The block's output (B, n, D) at m tokens: a map that mixes many with many is applied before the MLP's sum."""
        assert self.now is not None
        if self.middle is None:
            return self.now(x)
        middle = self.middle
        if self.packed:
            middle = middle.unflatten(0, (-1, self.anatomy.unit)).flatten(1)[None]
        return self.now(middle) + self.now.gather(x - middle)

    def _note_after(self, i: int) -> None:
        self.after.append(self.total)
        if i <= self.anatomy.feature_block:
            self.at_features = self.total

    def patch_size(self, length: int) -> Tensor | None:
        """(B, length) how many patches each token of the current attention call stands for; None while all are one."""
        if self.total is None or self.size is None:
            return None
        if not self.packed:
            return self.size
        size = self.size.repeat_interleave(self.anatomy.unit, dim=1)[:, self.offset : self.offset + length]
        self.offset += length
        return size

    def _account(self) -> None:
        if not self.lengths:
            return
        full = self.n * (self.anatomy.unit if self.packed else 1)
        rows = self.total.b if self.total is not None else 1
        for m in self.methods:
            row = self.report.row("encoder", str(m))
            row.tokens_in += rows * self.n
            row.tokens_out += int(self.total.lengths.sum()) if self.total is not None else rows * self.n
            span = self.frames
            row.flops += rows * sum(block_flops(b, n, n // span) for b, n in zip(self.anatomy.blocks, self.lengths))
            row.flops_full += rows * sum(block_flops(b, full, full // span) for b in self.anatomy.blocks)
