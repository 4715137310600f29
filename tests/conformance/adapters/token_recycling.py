"""Token recycling: the case's tree and a target that is a lookup table; two prompts share one matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tables import read
from torch import Tensor

from foveate.decode.token_recycling import Recycler
from foveate.parts.trees import Tree
from foveate.parts.verify_tree import follow_greedy


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    paths = [[r for r in row if r >= 0] for row in given["tree"].tolist()]
    recycler = Recycler(int(params["vocab"]), int(params["k"]), paths, empty=0)
    tree, out = Tree.of(recycler.parents), {}
    for i in range(2):
        made = _decode(recycler, tree, given["table"], given[f"prompt{i}"].tolist(), params)
        out |= {f"{name}{i}": value for name, value in made.items()}
    return out


def _decode(
    recycler: Recycler, tree: Tree, table: Tensor, prompt: list[int], params: Mapping[str, Any]
) -> dict[str, Tensor]:
    text, root, eos = prompt[:-1], prompt[-1], params["eos_token_id"]
    lengths: list[int] = []
    drafts: list[Tensor] = []
    while True:
        nodes = torch.cat([torch.tensor([root]), recycler.grow(torch.tensor([root]))[0]])
        drafts.append(nodes)
        logits = read(table, text, nodes, tree)
        made = follow_greedy(tree, nodes[None, 1:], logits.argmax(-1)[None])
        kept = int(made.accepted)
        committed = [root, *made.tokens[0, :kept].tolist()]
        text += committed
        lengths.append(len(committed))
        root = int(made.tokens[0, kept])
        if eos in committed or len(text) - len(prompt) > params["max_new_tokens"]:
            break
        recycler.write(nodes[None], logits[None])
        if root == eos:
            break
    return {
        "sequence": torch.tensor(text),
        "accept_len": torch.tensor(lengths),
        "n_forward": torch.tensor(1 + len(lengths)),
        "adjacency": recycler.matrix.long(),
        "first_draft": drafts[0],
        "last_draft": drafts[-1],
    }
