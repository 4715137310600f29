"""A draft head that reads three tokens at a time beside the target's own states (Chimera)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from ..errors import PlanError
from .rotary import turn

_LAYER = ("input_layernorm", "post_attention_layernorm", "mlp_gate_proj", "mlp_up_proj", "mlp_down_proj")
_ATTENTION = tuple(f"self_attn_{n}_proj" for n in "qkvo")


class TrigramHead:
    """Guesses what follows a token from the state before it and from the three tokens that end with it.

    Zeng et al., "Chimera: A Lossless Decoding Method for Accelerating Large Language Models Inference by Fusing all
    Tokens", 2024, arXiv 2402.15758. Embeddings of tokens i-2, i-1 and i, side by side, go through a residual block and
    become one vector, t_i. One decoder layer lets t_i look at all t_j and at all states s_j up to its own place, s_j
    being what the target held before it said token j. Head h then reads [s_i ; layer(t_i)].

    Args:
        weights: ``embed_tokens_weight`` (V, D), ``trigram_block_{weight,bias}`` (3 D, 3 D), ``trigram_out_{weight,
            bias}`` (D, 3 D), a Llama layer (``input_layernorm_weight``, ``self_attn_{q,k,v,o}_proj_weight``,
            ``post_attention_layernorm_weight``, ``mlp_{gate,up,down}_proj_weight``) and ``heads_{h}_weight`` (V, 2 D).
        heads: attention heads; keys and values may have fewer.

    Raises:
        PlanError: a weight is missing.
    """

    def __init__(self, weights: Mapping[str, Tensor], heads: int, eps: float = 1e-6, theta: float = 10000.0) -> None:
        self.w = {name: t.float() for name, t in weights.items()}
        needed = [f"{n}_weight" for n in ("embed_tokens", "trigram_block", "trigram_out", *_LAYER, *_ATTENTION)]
        if missing := [n for n in (*needed, "heads_0_weight") if n not in self.w]:
            raise PlanError(f"the weights of chimera's head lack {', '.join(missing)}")
        self.levels = sum(name.startswith("heads_") and name.endswith("_weight") for name in self.w)
        self.heads, self.eps = heads, eps
        self.size = self.w["self_attn_q_proj_weight"].shape[0] // heads
        self.rates = theta ** -(torch.arange(0, self.size, 2).float() / self.size)
        self.keys: Tensor | None = None  # (B, g, n, d) of states and trigrams read so far
        self.values: Tensor | None = None
        self.at: Tensor | None = None  # (n,) places of these

    @property
    def width(self) -> int:
        """D."""
        return self.w["embed_tokens_weight"].shape[1]

    def trigram(self, tokens: Tensor) -> Tensor:
        """tokens (B, k + 2) -> t of the last k, (B, k, D)."""
        e = self.w["embed_tokens_weight"][tokens.clamp(min=0)]
        x = torch.cat([e[:, :-2], e[:, 1:-1], e[:, 2:]], -1)
        x = x + silu(linear(x, self.w["trigram_block_weight"], self.w.get("trigram_block_bias")))
        return linear(x, self.w["trigram_out_weight"], self.w.get("trigram_out_bias"))

    def read(self, tokens: Tensor, state: Tensor | None, first: int) -> Tensor:
        """Read tokens on, with the states before them where these are known; -> (B, k, D) the layer's outputs.

        tokens (B, k + 2): the k that are read and the two before them; state (B, k, D) or None; first: the place of the
        first of the k.
        """
        x = self.trigram(tokens)
        at = torch.arange(first, first + x.shape[1], device=x.device)
        rates, normed = self.rates.to(x.device), self._norm(x, "input_layernorm")
        q = turn(self._split(normed, "q"), at, rates)
        for source in (state, x):
            if source is None:
                continue
            side = self._norm(source.float(), "input_layernorm")
            key, value = turn(self._split(side, "k"), at, rates), self._split(side, "v")
            if self.keys is None or self.values is None or self.at is None:
                self.keys, self.values, self.at = key, value, at
            else:
                self.keys, self.values = torch.cat([self.keys, key], 2), torch.cat([self.values, value], 2)
                self.at = torch.cat([self.at, at])
        assert self.keys is not None
        assert self.values is not None
        assert self.at is not None
        group = self.heads // self.keys.shape[1]
        k, v = self.keys.repeat_interleave(group, 1), self.values.repeat_interleave(group, 1)
        logits = (q @ k.mT * self.size**-0.5).masked_fill(self.at > at[:, None], -torch.inf)
        mixed = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
        h = x + linear(mixed, self.w["self_attn_o_proj_weight"])
        normed = self._norm(h, "post_attention_layernorm")
        up = silu(linear(normed, self.w["mlp_gate_proj_weight"])) * linear(normed, self.w["mlp_up_proj_weight"])
        return h + linear(up, self.w["mlp_down_proj_weight"])

    def says(self, level: int, state: Tensor, out: Tensor) -> Tensor:
        """Logits (B, V) of head ``level`` from state and output (B, D)."""
        return linear(torch.cat([state.float(), out], -1), self.w[f"heads_{level}_weight"])

    def crop(self, n: int) -> None:
        """Keep the first n keys."""
        if self.keys is not None and self.values is not None and self.at is not None:
            self.keys, self.values, self.at = self.keys[:, :, :n], self.values[:, :, :n], self.at[:n]

    @property
    def length(self) -> int:
        """Keys held."""
        return 0 if self.at is None else len(self.at)

    def _split(self, x: Tensor, name: str) -> Tensor:
        split: Tensor = linear(x, self.w[f"self_attn_{name}_proj_weight"]).unflatten(-1, (-1, self.size))
        return split.transpose(1, 2)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return x * (x.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt() * self.w[f"{name}_weight"]
