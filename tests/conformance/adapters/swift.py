"""SWIFT: the model and its thinner self are two lookup tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tables import after, read
from torch import Tensor

from foveate.decode.swift import comb
from foveate.parts.trees import Tree
from foveate.parts.verify_tree import follow_greedy


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    table, thin = given["table"], given["draft_table"]
    text: list[int] = given["prompt"].tolist()
    start, eos, longest = len(text), params["eos_token_id"], int(params["max_new_tokens"])
    text.append(int(after(table, text).argmax()))
    new = 0
    lengths: list[int] = []
    depths: list[int] = []
    sizes: list[int] = []
    first: Tensor | None = None
    while True:
        said: list[int] = []

        def step(token: Tensor, said: list[int] = said, before: list[int] = text[:-1]) -> Tensor:
            said.append(int(token))
            return after(thin, [*before, *said])[None]

        # the step of this number is the last one: new + step + 2 >= longest
        levels = max(1, min(int(params["max_step_draft"]), longest - new - 1))
        draft, _ = comb(step, torch.tensor([[text[-1]]]), levels, float(params["stop_threshold"]), int(params["topk"]))
        depths.append(len(said))
        if eos in text[start:] or new > longest:
            break
        assert draft.parents is not None
        tree = Tree.of(draft.parents)
        nodes = torch.cat([torch.tensor([text[-1]]), draft.tokens[0]])
        first = nodes if first is None else first
        sizes.append(len(nodes))
        made = follow_greedy(tree, nodes[None, 1:], read(table, text[:-1], nodes, tree).argmax(-1)[None])
        text += made.tokens[0, : int(made.accepted) + 1].tolist()
        lengths.append(int(made.accepted) + 1)
        new += lengths[-1]
    assert first is not None
    return {
        "sequence": torch.tensor(text[:-1]),  # the last one is yet to be read
        "accept_len": torch.tensor(lengths),
        "draft_depth": torch.tensor(depths[:-1]),
        "tree_nodes": torch.tensor(sizes),
        "first_tree_tokens": first,
        "n_target_forward": torch.tensor(1 + len(lengths)),
        "n_draft_forward": torch.tensor(sum(depths)),
    }
