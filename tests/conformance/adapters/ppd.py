"""PPD: its trees, and decoding with them where the target and its prompt tokens are lookup tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tables import after
from torch import Tensor

from foveate.decode.ppd import Guesser
from foveate.parts.prompt_trees import PromptTree, prompt_trees
from foveate.parts.trees import Tree
from foveate.parts.verify_tree import follow_greedy


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    count, limit = int(params["num_prompt_tokens"]), int(params["input_length_limit"])
    trees = prompt_trees(given["accuracies"].double().tolist(), limit, pause=True)
    out: dict[str, Tensor] = {}
    for i, tree in enumerate(trees):
        out |= {f"tree{i + 1}_paths": _paths(tree), f"tree{i + 1}_prompt_tokens": torch.tensor(tree.prompts)}
    guesser = Guesser(trees, count)
    text: list[int] = given["prompt"].tolist()
    root = int(after(given["table"], text).argmax())
    behind = given["prompt_table"][:, text[-1]]  # the prompt is read with prompt tokens behind it
    guesser.carried = [count]
    guesser.take(torch.tensor([0]), torch.cat([behind[:1], behind])[None])
    lengths, states, sizes = [], [], [len(text) + count]
    for _ in range(int(params["max_steps"])):
        tokens, parents, soft, _ = guesser.layout(torch.tensor([[root]]))
        tree, words = Tree.of(parents), [root, *tokens[0].tolist()]
        logits = []
        for i in range(tree.q):
            line = [words[j] for j in tree.ancestors[i].nonzero()[:, 0].tolist() if words[j] >= 0]
            k = -1 if i == 0 else int(soft[i - 1])
            logits.append(after(given["table"], [*text, *line]) if k < 0 else given["prompt_table"][k, line[-1]])
        said = torch.stack(logits)[None]
        made = follow_greedy(tree, tokens, said.argmax(-1))
        kept = int(made.accepted)
        text += [root, *made.tokens[0, :kept].tolist()]
        root = int(made.tokens[0, kept])
        guesser.take(made.path[:, kept], said)
        lengths.append(kept + 1)
        states.append(guesser.state)
        sizes.append(tree.q)
    return out | {
        "sequence": torch.tensor(text),
        "accept_len": torch.tensor(lengths),
        "state": torch.tensor(states),
        "forward_sizes": torch.tensor(sizes),
        "n_forward": torch.tensor(len(sizes)),
    }


def _paths(tree: PromptTree) -> Tensor:
    deep = max(len(p) for p in tree.paths)
    return torch.tensor([[*p, *[-1] * (deep - len(p))] for p in tree.paths])
