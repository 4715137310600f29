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
from .model import Anatomy
from .vision import Note


class Inputs:
    """The input methods of a plan, and the notes that the vision tower left for this prompt."""

    def __init__(self, anatomy: Anatomy, methods: list[Any], report: Report, guarded: bool) -> None:
        self.anatomy, self.methods, self.report, self.guarded = anatomy, methods, report, guarded

    def columns(self, ids: Tensor, given: list[Note]) -> list[tuple[Note, Tensor]]:
        """For each note (B, n): the column of the note's T tokens that stands at each placeholder, -1 elsewhere."""
        out = []
        notes = list(given)
        for wanted in (self.anatomy.image_ids, self.anatomy.video_ids):
            mine = torch.isin(ids, torch.tensor(wanted, device=ids.device, dtype=ids.dtype)) if wanted else None
            if mine is None or not notes or not bool(mine.any()):
                continue
            note = notes.pop(0)
            sizes = [t.shape[-1] for t in note.scores.values()] + ([len(note.kept)] if note.kept is not None else [])
            counts = mine.sum(1)
            total = int(counts.sum())
            if not sizes or total % sizes[0]:
                continue
            repeat = total // sizes[0]  # beams: generate repeats each prompt's rows
            own = counts[::repeat]
            start = (own.cumsum(0) - own).repeat_interleave(repeat)[: len(counts)]
            column = (start[:, None] + mine.cumsum(1) - 1).masked_fill(~mine, -1)
            out.append((note, column))
        return out

    def _encoded(self, found: list[items.Item], columns: list[tuple[Note, Tensor]]) -> list[Reduction]:
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

    def decide(
        self, x: Tensor, found: list[items.Item], columns: list[tuple[Note, Tensor]], call: Call
    ) -> list[Reduction]:
        """One map for each item, what the encoder dropped included. x (B, n, D): the prompt's embeddings."""
        totals = self._encoded(found, columns)
        left = [items.Item(it.row, it.where[r.keep[0]], it.index) for it, r in zip(found, totals)]
        names = {n for m in self.methods for need in m.card.needs for n in need.split("|")} - {"features"}

        def signals(batch: list[items.Item]) -> Tokens:
            rows = torch.stack([x[it.row, it.where] for it in batch])
            made: dict[str, Any] = {n: v for n in names if (v := self._score(n, batch, columns)) is not None}
            if "text" in names:  # such items are decided one by one
                row = batch[0].row
                made["text"] = x[row, call.kept[row] & ~call.visual[row]][None]
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
        reason = guard.inputs(self.anatomy, m, tokens, call.n) if self.guarded else None
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

    def _score(self, name: str, batch: list[items.Item], columns: list[tuple[Note, Tensor]]) -> Tensor | None:
        for note, column in columns:
            at = torch.stack([column[it.row, it.where] for it in batch])
            if name in note.scores and bool((at >= 0).all()):
                value = note.scores[name][:, at].movedim(0, 1)  # (items, C, n)
                return value[:, 0] if name == "received_attention" else value
        return None
