"""Models as lookup tables: the next token depends on the last two."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foveate.parts.trees import Tree


def after(table: Tensor, text: Sequence[int]) -> Tensor:
    """Logits (V,) after a text; table (V, V, V) by the last two tokens, the first one standing for both."""
    return table[text[-2] if len(text) > 1 else text[-1], text[-1]]


def read(table: Tensor, before: Sequence[int], nodes: Tensor, tree: Tree) -> Tensor:
    """Logits (q, V) at every node of a tree; nodes (q,) tokens, the root first, after the text ``before``."""
    words = nodes.tolist()
    out = []
    for i in range(tree.q):
        branch = [words[j] for j in tree.ancestors[i].nonzero()[:, 0].tolist()]
        out.append(after(table, [*before, *branch]))
    return torch.stack(out)
