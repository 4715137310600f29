"""What the full model costs on a prompt, counted once for every shape of prompt."""

from __future__ import annotations

from typing import Any

import torch

from ..apply import apply
from ..errors import FoveateError
from ..load import Loaded
from ..prompt import Prompt
from ..report import Report

#: Plans that change nothing: the report counts only where a plan is in place.
_STILL = {True: "random(keep=1.0)", False: "knorm(keep=1.0)"}
_TOWER = "tome(r=0)"
_FEW = 256  # integers of an input that are grids and sizes, not tokens


class Counts:
    """FLOPs and bytes of the full model."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self._known: dict[Any, dict[str, float]] = {}

    def of(self, prompt: Prompt) -> dict[str, float]:
        """A prompt's "flops" in the language model, those of the "tower" (0 if they cannot be counted), "kv" bytes."""
        shape = tuple((k, tuple(v.shape), _grid(k, v)) for k, v in sorted(prompt.inputs.items()))
        if shape not in self._known:
            self._known[shape] = self._count(prompt)
        return self._known[shape]

    def with_plan(self, report: Report, prompt: Prompt) -> dict[str, float]:
        """The same under a plan, tower included: "flops", "kv". report: of answering this prompt."""
        full = self.of(prompt)
        if not report.prefills:  # nothing was in place
            return {"flops": full["flops"] + full["tower"], "kv": full["kv"]}
        inside = [r.flops for r in report.rows if r.stage == "encoder" and r.flops_full]
        return {"flops": report.flops + (inside[0] if inside else full["tower"]), "kv": float(report.kv_bytes)}

    @torch.inference_mode()
    def _count(self, prompt: Prompt) -> dict[str, float]:
        with apply(self.loaded.model, _STILL[bool(prompt.visuals)]) as report:
            self.loaded.model(**prompt.inputs, logits_to_keep=1, use_cache=True)
        tower = 0.0
        if prompt.visuals:
            try:
                with apply(self.loaded.model, _TOWER) as seen:
                    self.loaded.model(**prompt.inputs, logits_to_keep=1)
                tower = seen.row("encoder", _TOWER).flops_full
            except FoveateError:  # a tower whose blocks foveate does not know
                tower = 0.0
        return {"flops": report.flops_full, "tower": tower, "kv": float(report.kv_bytes_full)}


def _grid(name: str, value: torch.Tensor) -> tuple[int, ...]:
    if name in ("input_ids", "attention_mask") or value.is_floating_point() or value.numel() > _FEW:
        return ()
    return tuple(value.flatten().tolist())
