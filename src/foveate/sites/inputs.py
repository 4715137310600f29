"""What the inputs stage decides: one map for each visual item of a prompt, from what encoder and methods drop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..reduction import Reduction
from ..report import Kept, Report
from ..tokens import Tokens
from . import guard, items
from .call import Call
from .costs import Costs
from .geometry import apart
from .model import Anatomy
from .signals import VISION, Columns, read


class Inputs:
    """The input methods of a plan, and the notes that the vision tower left for this prompt."""

    def __init__(
        self, anatomy: Anatomy, methods: list[Any], report: Report, guarded: Costs | None, together: bool = False
    ) -> None:
        self.anatomy, self.methods, self.report, self.guarded = anatomy, methods, report, guarded
        self.together = together

    @property
    def scope(self) -> str:
        """Which tokens methods see together; see :func:`foveate.sites.items.find`."""
        return "row" if self.together else self.anatomy.family.scope

    def _encoded(self, found: list[items.Item], columns: Columns) -> list[Reduction]:
        """What the encoder already dropped, as a selection for each item."""
        maps = []
        for it in found:
            mask = torch.ones(1, len(it.where), dtype=torch.bool, device=it.where.device)
            for note, column in columns:
                at = column[it.row, it.where]
                if note.kept is not None and bool((at >= 0).all()):
                    mask = note.kept[at][None]
            maps.append(Reduction.from_mask(mask))
        return maps

    def decide(self, x: Tensor, found: list[items.Item], call: Call) -> list[Reduction]:
        """One map for each item, what the encoder dropped included. x (B, n, D): the prompt's embeddings."""
        columns = call.columns
        totals = self._encoded(found, columns)
        left = [items.Item(it.row, it.where[r.keep[0]], it.index) for it, r in zip(found, totals)]
        names = {n for m in self.methods for need in m.card.needs for n in need.split("|")} - {"features"}

        def signals(batch: list[items.Item]) -> Tokens:
            rows = torch.stack([x[it.row, it.where] for it in batch])
            places = [(it.row, it.where) for it in batch]
            found = {n: read(self.anatomy, n, places, columns) for n in names & {*VISION}}
            made: dict[str, Any] = {n: v for n, v in found.items() if v is not None}
            if self.together and "grid" in made and call.runs is not None:
                made["grid"] = apart(made["grid"], torch.stack([call.runs[r, at] for r, at in places]))
            if "times" in made and call.pace is not None:
                made["times"] = made["times"] * call.pace[[it.row for it in batch]][:, None]
            if "text" in names:  # such items are decided one by one
                row = batch[0].row
                made["text"] = x[row, call.words[row]][None]
            return Tokens(rows, layers=len(self.anatomy.layers), full=rows.shape[1], **made)

        def run_all(tokens: Tokens) -> Reduction:
            total = Reduction.identity(tokens.x.shape[0], tokens.n, tokens.x.device)
            for m in self.methods:
                r = self._run(m, tokens, call)
                if r is not None:
                    tokens, total = tokens.gathered(r), total.then(r)
            return total

        maps = items.run(left, signals, run_all, alone="text" in names)
        label = " + ".join(map(str, self.methods))
        for i, (it, r) in enumerate(zip(found, maps)):
            totals[i] = totals[i].then(r)
            stood = call.where[it.row, it.where]
            self.report.kept.append(Kept("inputs", label, it.row, it.index, None, totals[i], stood))
        return totals

    def _run(self, m: Any, tokens: Tokens, call: Call) -> Reduction | None:
        """One method on one batch of items, with its row of the report; None when the guard declines."""
        rows, n = tokens.x.shape[:2]
        row = self.report.row("inputs", str(m))
        reason = guard.inputs(self.anatomy, m, tokens, call.n, self.guarded) if self.guarded else None
        r = None
        if reason is not None:
            self.report.decline(reason)
            row.note = "declined"
        else:
            with self.report.clock(row, tokens.x.device):
                r = m.reduce(tokens)
        left = rows * n if r is None else rows * r.m
        row.tokens_in, row.tokens_out = row.tokens_in + rows * n, row.tokens_out + left
        call.inputs.append((row, rows * n - left))
        return r
