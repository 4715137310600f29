"""A one-layer draft head over a target's features, with a gated fusion in front and two outputs (FSPAD)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from .rotary import turn

#: Weights of a head, as they are called in a checkpoint with dots for underscores.
ATTENTION, MLP = "layers_0_self_attn_{}_proj_weight", "layers_0_mlp_{}_proj_weight"


class FusedHead:
    """Says, of a feature and the token that came after it, the feature there; keeps keys and values of what it read.

    Gui et al., "Boosting Lossless Speculative Decoding via Feature Sampling and Partial Alignment Distillation", AAAI
    2025, arXiv 2408.15562. Fusion: x = fc([e, f]); x + down(silu(gate(e)) * up(norm(x))), the gate reading the token's
    own embedding e. Then a decoder layer without a norm in front of its attention, whose MLP gives two vectors: one for
    the language model's head, one that is the feature of the next step.

    Args:
        weights: float tensors, ``embed_tokens_weight`` (V, D), ``fc_fc_{weight,bias}``, ``fc_mlp_{gate,up,down}_proj_
            weight``, ``fc_post_attention_layernorm_weight``, ``layers_0_self_attn_{q,k,v,o}_proj_weight``,
            ``layers_0_mlp_{gate,up,down}_proj_weight`` (down: 2 D wide), ``layers_0_post_attention_layernorm_weight``.
        heads: attention heads; keys and values may have fewer.
    """

    def __init__(self, weights: Mapping[str, Tensor], heads: int, eps: float = 1e-6, theta: float = 10000.0) -> None:
        self.w = {name.replace(".", "_"): t.float() for name, t in weights.items()}
        self.heads, self.eps = heads, eps
        self.size = self.w[ATTENTION.format("q")].shape[0] // heads
        self.rates = theta ** -(torch.arange(0, self.size, 2).float() / self.size)
        self.keys: Tensor | None = None  # (B, g, n, d) of what was read
        self.values: Tensor | None = None

    @property
    def length(self) -> int:
        """Pairs read so far."""
        return 0 if self.keys is None else self.keys.shape[2]

    def crop(self, n: int) -> None:
        """Keep the first n pairs."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[:, :, :n], self.values[:, :, :n]

    def read(self, feature: Tensor, token: Tensor, at: Tensor, sees: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read pairs on.

        Args:
            feature: (B, k, D) and token (B, k) int64, the token after each.
            at: (k,) positions.
            sees: (B or 1, k, n + k) bool, which pairs each may look at; None is causal.

        Returns:
            (B, k, D) each, float32: the feature for the language model's head, and that of the next step.
        """
        x = self._fused(feature.float(), self.w["embed_tokens_weight"][token])
        b, k, width = x.shape
        q, key, value = (
            linear(x, self.w[ATTENTION.format(n)]).view(b, k, -1, self.size).transpose(1, 2) for n in "qkv"
        )
        rates = self.rates.to(x.device)
        q, key = turn(q, at, rates), turn(key, at, rates)
        if self.keys is not None and self.values is not None:
            key, value = torch.cat([self.keys, key], 2), torch.cat([self.values, value], 2)
        self.keys, self.values = key, value
        if sees is None:
            sees = torch.ones(1, k, key.shape[2], dtype=torch.bool, device=x.device).tril(key.shape[2] - k)
        group = self.heads // key.shape[1]
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        logits = (q @ key.mT * self.size**-0.5).masked_fill(~sees[:, None], -torch.inf)
        h = x + linear((logits.softmax(-1) @ value).transpose(1, 2).reshape(b, k, -1), self.w[ATTENTION.format("o")])
        normed = self._norm(h, self.w["layers_0_post_attention_layernorm_weight"])
        up = silu(linear(normed, self.w[MLP.format("gate")])) * linear(normed, self.w[MLP.format("up")])
        both = torch.cat([h, h], -1) + linear(up, self.w[MLP.format("down")])
        return both[..., :width], both[..., width:]

    def _fused(self, feature: Tensor, embed: Tensor) -> Tensor:
        x = linear(torch.cat([embed, feature], -1), self.w["fc_fc_weight"], self.w.get("fc_fc_bias"))
        normed = self._norm(x, self.w["fc_post_attention_layernorm_weight"])
        gate = silu(linear(embed, self.w["fc_mlp_gate_proj_weight"]))
        return x + linear(gate * linear(normed, self.w["fc_mlp_up_proj_weight"]), self.w["fc_mlp_down_proj_weight"])

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return x * (x.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt() * weight


def grow(
    head: FusedHead, out: Tensor, feature: Tensor, at: int, words: Tensor, total: int, depth: int, top: int
) -> tuple[Tensor, Tensor]:
    """The best guesses of a head as a tree, grown along the most likely branches (Li et al., "EAGLE-2", 2024,
    arXiv 2406.16858): on each level the ``top`` likeliest nodes get ``top`` children each, and of all nodes scored
    the ``total`` likeliest stay. One row; the head has read the text and reads no more than that afterwards.

    Args:
        out, feature: (D,) the head's two outputs at the end of the text.
        at: position of the next pair.
        words: (V, D) the language model's head.
        total: guesses in the tree; depth: levels below the first; top: children.

    Returns:
        tokens (total,) and parents (total,) int64, in the order they were scored.
    """
    n = head.length
    first = linear(out, words.float()).log_softmax(-1).topk(top)
    score, token = first.values, first.indices
    tokens, scores, above = [token], [score], [torch.full_like(token, -1)]
    known = torch.arange(top, device=token.device)  # the number of each frontier node among all that were scored
    inputs = feature[None, None].expand(1, top, -1)
    tree = torch.eye(top, dtype=torch.bool, device=token.device)
    count = top
    for step in range(depth):
        past = torch.ones(top, n, dtype=torch.bool, device=token.device)
        said, onward = head.read(inputs, token[None], torch.full((top,), at + step), torch.cat([past, tree], 1)[None])
        best = linear(said[0], words.float()).log_softmax(-1).topk(top, -1)
        chance = (score[:, None] + best.values).flatten()
        tokens.append(best.indices.flatten())
        scores.append(chance)
        above.append(known.repeat_interleave(top))
        chosen = chance.topk(top)
        parent = chosen.indices // top
        known, score, token = count + chosen.indices, chosen.values, tokens[-1][chosen.indices]
        count += top * top
        inputs = onward[:, parent]
        tree = torch.cat([tree[parent], torch.eye(top, dtype=torch.bool, device=token.device)], 1)
    head.crop(n)
    flat, parents = torch.cat(scores), torch.cat(above)
    stay = flat.topk(min(total, len(flat))).indices.sort().values
    number = torch.zeros_like(flat, dtype=torch.bool).index_fill(0, stay, True).long().cumsum(0) - 1
    old = parents[stay]
    return torch.cat(tokens)[stay], torch.where(old >= 0, number[old.clamp(min=0)], -1)
