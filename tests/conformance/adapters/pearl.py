"""PEARL's schedule, and plain speculative decoding beside it, over two lookup tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tables import after
from torch import Tensor

from foveate.decode.pearl import parallel
from foveate.parts.verify import accept_greedy


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prompt, gamma, new = given["prompt"].tolist(), int(params["gamma"]), int(params["max_new_tokens"])

    def target(text: Sequence[int]) -> int:
        return int(after(given["table"], text).argmax())

    def draft(text: Sequence[int]) -> int:
        return int(after(given["draft_table"], text).argmax())

    made = parallel(target, draft, prompt, gamma, new)
    text, kept = list(prompt), []
    while len(text) < len(prompt) + new:
        drafted: list[int] = []
        for _ in range(gamma):
            drafted.append(draft([*text, *drafted]))
        best = [target([*text, *drafted[:i]]) for i in range(gamma + 1)]
        verdict = accept_greedy(torch.tensor([best]), torch.tensor([drafted]))
        kept.append(int(verdict.accepted))
        text += verdict.tokens[0, : kept[-1] + 1].tolist()
    return {
        "sequence": torch.tensor(made.text),
        "n_target_forward": torch.tensor(made.target_forwards),
        "n_draft_forward": torch.tensor(made.draft_forwards),
        "accepted_per_round": torch.tensor(made.accepted),
        "sd_sequence": torch.tensor(text),
        "sd_n_target_forward": torch.tensor(len(kept)),
        "sd_accepted": torch.tensor(kept),
    }
