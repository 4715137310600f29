"""FSPAD: its draft head over the given features, and the tree that it grows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.parts.fused_head import FusedHead, grow
from foveate.parts.trees import Tree


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    hidden, ids = given["hidden"], given["input_ids"]
    n = hidden.shape[1]
    weights = {k: v for k, v in given.items() if k not in ("hidden", "input_ids", "head")}
    head = FusedHead(weights, int(params["heads"]), float(params["rms_norm_eps"]), float(params["rope_theta"]))
    feature, regress = head.read(hidden, ids[:, 1:], torch.arange(n))
    total, depth, top = int(params["total_tokens"]), int(params["depth"]), int(params["top_k"])
    tokens, parents = grow(head, feature[0, -1], regress[0, -1], n, given["head"], total - 1, depth, top)
    tree = Tree.of(parents)
    inner = set(tree.parents.tolist())
    leaves = torch.tensor([i for i in range(tree.q) if i not in inner])
    return {
        "feature": feature,
        "regress": regress,
        "draft_tokens": torch.cat([ids[0, -1:], tokens]),
        "tree_mask": tree.ancestors,
        "depths": tree.depth,
        "retrieve_indices": tree.path(leaves),
    }
