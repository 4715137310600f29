"""Diverse beam search over a table of what follows two tokens; results are padded to the longest there can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from foveate.sampling import DiverseBeam


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prompt, table = given["prompt"], given["table"]
    beams = DiverseBeam(
        params["num_beams"],
        params["num_beam_groups"],
        params["diversity_penalty"],
        params["num_return_sequences"],
        params["length_penalty"],
        params["early_stopping"],
    )
    text = prompt.repeat_interleave(beams.beams, 0)

    def ahead(order: Tensor | None, tokens: Tensor | None) -> Tensor:
        nonlocal text
        if order is not None and tokens is not None:
            text = torch.cat([text[order], tokens], 1)
        before = text[:, -2] if text.shape[1] > 1 else text[:, -1]
        return table[before, text[:, -1]].log_softmax(-1)

    most, fill = prompt.shape[1] + params["max_new_tokens"], params["pad_token_id"]
    found = beams.search(ahead, prompt, most, [params["eos_token_id"]], fill)
    sequences = pad(found.ids, (0, most - found.ids.shape[1]), value=fill)
    return {"sequences": sequences, "scores": found.scores, "n_forward": torch.tensor(found.forwards)}
