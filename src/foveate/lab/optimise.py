"""The optimiser: Muon for the matrices inside the two transformers, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

MUON = 5.0  # undoes the 0.2 of match_rms_adamw: both then move a weight as far in a step
HEADS = ("what.", "place.", "whole.", "past.")  # readings, dropped when training ends
OUTSIDE = ("embed", "lm_head", *HEADS)  # tables and readings, not maps between hidden states


class Optimiser:
    """Two optimisers as one. Muon's steps are scaled to the size of AdamW's, so one learning rate fits both.

    Sources: Muon (Jordan et al. 2024), its scaling (Moonlight, arXiv:2502.16982), AdamW (arXiv:1711.05101).
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], scale: Any, lr: float, decay: float):
        """scale: name -> share of the learning rate."""
        matrices: dict[float, list[nn.Parameter]] = {}
        rest: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, p in parameters:
            if p.ndim == 2 and not any(part in name for part in OUTSIDE):
                matrices.setdefault(scale(name), []).append(p)
            else:
                rest.setdefault((scale(name), decay if p.ndim > 1 else 0.0), []).append(p)
        muon = [{"params": ps, "scale": MUON * s, "weight_decay": decay / MUON} for s, ps in matrices.items()]
        adam = [{"params": ps, "scale": s, "weight_decay": d} for (s, d), ps in rest.items()]
        self.each: Sequence[torch.optim.Optimizer] = (
            torch.optim.Muon(muon, lr=lr, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(adam, lr=lr, betas=(0.9, 0.98), fused=True),
        )
        self._of = {id(p): o for o in self.each for g in o.param_groups for p in g["params"]}

    @property
    def lr(self) -> float:
        """The learning rate before any share."""
        group = self.each[1].param_groups[0]
        return float(group["lr"] / group["scale"])

    def set(self, lr: float) -> None:
        """Give every group its share of a learning rate."""
        for group in (g for o in self.each for g in o.param_groups):
            group["lr"] = lr * group["scale"]

    def step(self) -> None:
        """Move all parameters."""
        for optimiser in self.each:
            optimiser.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimiser in self.each:
            optimiser.zero_grad(set_to_none=True)

    def moments(self, p: nn.Parameter) -> dict[str, Tensor]:
        """What is remembered of a parameter, by name; empty before the first step."""
        return dict(self._of[id(p)].state.get(p, {}))

    def remember(self, p: nn.Parameter, moments: dict[str, Tensor]) -> None:
        """The reverse of :meth:`moments`."""
        self._of[id(p)].state[p] = moments
