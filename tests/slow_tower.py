"""A slow re-run of vision towers with merging, for the tests of the encoder stage; it shares no code with the library.

It merges tokens one by one, attends with explicit masks over the full sequence, and takes from the model only its
weights: norms, projections, MLPs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, elu
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision


@dataclass
class Token:
    """One token of one image: its features (patches, D), how many it stands for, and who is in it."""

    x: Tensor
    size: float
    at: int  # the place it inherits
    members: list[int]


def tome(tokens: list[Token], metric: list[Tensor], prefix: int, r: int) -> list[tuple[int, int]]:
    """(source, destination) pairs: each even token's best odd one, the r best pairs."""
    pairs = []
    for i in range(0, len(tokens), 2):
        if i < prefix:
            continue
        odd = [j for j in range(1, len(tokens), 2) if j >= prefix]
        sims = [float(cosine_similarity(metric[i], metric[j], dim=0)) for j in odd]
        best = max(range(len(odd)), key=lambda k: sims[k])
        pairs.append((sims[best], i, odd[best]))
    pairs.sort(key=lambda p: -p[0])
    return [(i, j) for _, i, j in pairs[:r]]


def pitome(tokens: list[Token], metric: list[Tensor], prefix: int, ratio: float) -> list[tuple[int, int]]:
    """(source, destination) pairs among the tokens of highest energy."""
    body = torch.stack(metric[prefix:])
    n = len(body)
    unit = body / body.norm(dim=-1, keepdim=True)
    energy = elu(unit @ unit.T - 0.9).mean(-1)
    r = int(n - n * ratio + 1e-9)
    rank = energy.argsort(descending=True)[: 2 * r].tolist()
    a, b = rank[::2], rank[1::2]
    return [(i + prefix, max(b, key=lambda j: float(unit[i] @ unit[j])) + prefix) for i in a]


def merged(tokens: list[Token], pairs: list[tuple[int, int]]) -> list[Token]:
    """Tokens after merging, in spatial order."""
    into: dict[int, list[int]] = {}
    for i, j in pairs:
        into.setdefault(j, []).append(i)
    gone = {i for i, _ in pairs}
    out = []
    for j, t in enumerate(tokens):
        if j in gone:
            continue
        group = [t, *[tokens[i] for i in into.get(j, [])]]
        size = sum(g.size for g in group)
        x = sum((g.x * g.size for g in group), torch.zeros_like(t.x)) / size
        out.append(Token(x, size, t.at, [m for g in group for m in g.members]))
    return out


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """q, k, v (H, n, d), mask (n, n) bool, bias (n,) -> output (n, H * d) and the attention (H, n, n)."""
    logits = (q @ k.mT * scale + bias).masked_fill(~mask, -torch.inf)
    a = logits.softmax(-1)
    return (a @ v).transpose(0, 1).flatten(1), a


def child(block: Any, *names: str) -> Any:
    found = next((m for n in names if (m := getattr(block, n, None)) is not None), torch.nn.Identity())
    return getattr(found, "dense", found)


def run_blocks(
    blocks: Any, start: Tensor, prefix: int, pick: Any, bias: bool
) -> tuple[list[Token], list[list[Token]], list[Tensor]]:
    """start (n, D) -> tokens after the last block, after each block, and each block's attention."""
    tokens = [Token(x[None], 1.0, i, [i]) for i, x in enumerate(start)]
    after, maps = [], []
    for block in blocks:
        attn = child(block, "attention", "self_attn")
        inner = getattr(attn, "attention", attn)  # older towers nest it
        x = torch.cat([t.x for t in tokens])
        n, d = x.shape
        h = child(block, "layernorm_before", "layer_norm1", "norm1")(x)
        q, k, v = (
            child(inner, f"{c[0]}_proj", c)(h).view(n, 4, d // 4).transpose(0, 1) for c in ("query", "key", "value")
        )
        sizes = torch.tensor([t.size for t in tokens])
        full = torch.ones(n, n, dtype=torch.bool)
        y, a = attend(q, k, v, (d // 4) ** -0.5, full, sizes.log() if bias else torch.zeros(n))
        maps.append(a)
        x = x + child(block, "layer_scale1")(child(attn, "o_proj", "out_proj", "output")(y))
        tokens = [Token(x[i][None], t.size, t.at, t.members) for i, t in enumerate(tokens)]
        metric = list(k.mean(0))
        tokens = merged(tokens, pick(tokens, metric, prefix))
        x = torch.cat([t.x for t in tokens])
        x = x + child(block, "layer_scale2")(block.mlp(child(block, "layernorm_after", "layer_norm2", "norm2")(x)))
        tokens = [Token(x[i][None], t.size, t.at, t.members) for i, t in enumerate(tokens)]
        after.append(tokens)
    return tokens, after, maps


def blocks_of(model: Any) -> Any:
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    return max(lists, key=len)


def recorded(model: Any, blocks: Any, run: Any) -> tuple[list[Tensor], list[dict[str, Any]], list[Tensor]]:
    """Inputs, keyword arguments and outputs of every block during ``run()``."""
    entered: list[Tensor] = []
    named: list[dict[str, Any]] = []
    left: list[Tensor] = []

    def before(block: Any, args: Any, kwargs: Any) -> None:
        entered.append(args[0])
        named.append(kwargs)

    hooks = []
    for block in blocks:
        hooks.append(block.register_forward_pre_hook(before, with_kwargs=True))
        hooks.append(block.register_forward_hook(lambda m, a, o: left.append(o[0] if isinstance(o, tuple) else o)))
    try:
        run()
    finally:
        for h in hooks:
            h.remove()
    return entered, named, left


def run_packed(tower: Any, start: Tensor, named: list[dict[str, Any]], frames: list[int], r: int) -> list[Tensor]:
    """start (patches, D) in the tower's order; merge groups of four patches; frames: groups in each."""
    u = 4
    groups = [Token(g, 1.0, i, [i]) for i, g in enumerate(start.unflatten(0, (-1, u)))]
    frame = [f for f, n in enumerate(frames) for _ in range(n)]
    out = []
    for block, given in zip(tower.blocks, named):
        edges = (given["cu_seqlens"] // u).tolist()
        cos, sin = given["position_embeddings"]
        x = torch.cat([t.x for t in groups])
        n, d = x.shape
        h = block.norm1(x)
        q, k, v = block.attn.qkv(h).view(n, 3, 4, d // 4).unbind(1)
        at = torch.cat([torch.arange(t.at * u, t.at * u + u) for t in groups])
        q, k = apply_rotary_pos_emb_vision(q, k, cos[at], sin[at])
        span = torch.tensor([sum(e <= t.at for e in edges) for t in groups]).repeat_interleave(u)
        sizes = torch.tensor([t.size for t in groups]).repeat_interleave(u)
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
        y, _ = attend(q, k, v, (d // 4) ** -0.5, span[:, None] == span[None], sizes.log())
        x = x + block.attn.proj(y)
        groups = [Token(g, t.size, t.at, t.members) for g, t in zip(x.unflatten(0, (-1, u)), groups)]
        metric = k.mean(0).unflatten(0, (-1, u)).mean(1)
        new: list[Token] = []
        for f in range(len(frames)):
            mine = [i for i, t in enumerate(groups) if frame[t.at] == f]
            rows = [groups[i] for i in mine]
            new += merged(rows, tome(rows, [metric[i] for i in mine], 0, min(r, len(rows) // 2)))
        groups = new
        x = torch.cat([t.x for t in groups])
        x = x + block.mlp(block.norm2(x))
        groups = [Token(g, t.size, t.at, t.members) for g, t in zip(x.unflatten(0, (-1, u)), groups)]
        out.append(x)
    return out
