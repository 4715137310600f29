"""Relevance from replacements: nothing of the model is looked at but its predictions."""

from __future__ import annotations

import torch
from torch import Tensor

from .case import Case


def reagent(
    case: Case,
    share: float = 0.3,
    steps: int = 64,
    rationale: float = 0.3,
    top: int = 3,
    stop: bool = True,
    seed: int = 0,
) -> Tensor:
    """Recursive replacement: tokens whose replacement makes the target less probable gain, the others lose.

    In each step a random ``share`` of the visual tokens is replaced by other visual tokens of the prompt, and the drop
    delta of the target's probability moves every score by logit((1 + delta) / 2), up for the replaced and down for the
    rest. It ends after ``steps``, or with ``stop`` as soon as the best ``rationale`` of the tokens, with all others
    replaced, leave the target among the ``top`` predictions. -> (n,) float32, the mean move of a step.

    The paper replaces words by what a masked language model expects at their place; visual tokens have none, so they
    are exchanged among themselves. Scores start at 0 (the authors' code starts at random).

    Zhao and Shan, "ReAGent: Towards A Model-agnostic Feature Attribution Method for Generative Language Models", 2024.
    https://arxiv.org/abs/2402.00794
    """
    draw = torch.Generator().manual_seed(seed)
    n, device = case.n, case.features.device
    score, done = torch.zeros(n, dtype=torch.float64), 0
    size, best = min(n, max(1, round(share * n))), max(1, round(rationale * n))
    with torch.no_grad():
        whole = case.logits().softmax(-1)[case.target].double().cpu()
        while done < steps:
            done += 1
            gone = torch.zeros(n, dtype=torch.bool)
            gone[torch.randperm(n, generator=draw)[:size]] = True
            delta = whole - _replaced(case, gone, draw, device).softmax(-1)[case.target].double().cpu()
            move = torch.logit((1 + delta.clamp(-1 + 1e-6, 1 - 1e-6)) / 2)
            score += torch.where(gone, move, -move)
            if stop and done < steps:
                rest = torch.ones(n, dtype=torch.bool)
                rest[score.argsort(stable=True, descending=True)[:best]] = False
                said = _replaced(case, rest, draw, device)
                if int((said > said[case.target]).sum()) < top:
                    break
    return (score / max(done, 1)).float().to(device)


def _replaced(case: Case, gone: Tensor, draw: torch.Generator, device: torch.device) -> Tensor:
    """Logits with each ``gone`` (n,) token replaced by another one of the prompt, (V,)."""
    n = len(gone)
    other = (torch.arange(n) + torch.randint(1, max(n, 2), (n,), generator=draw)) % n
    source = torch.where(gone, other, torch.arange(n)).to(device)
    return case.logits(case.features[:, source])
