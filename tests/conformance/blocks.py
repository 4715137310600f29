"""A pre-norm transformer block that a method shortens between attention and MLP, as a model would run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

#: Attention branch output, and keys averaged over heads.
Attended = tuple[Tensor, Tensor]


def attend(x: Tensor, w: Mapping[str, Tensor], heads: int, eps: float, bias: Tensor | None = None) -> Attended:
    """x (B, n, D) -> the attention branch's output, and the block's keys averaged over heads (B, n, d).

    ``w``: layer_norm1, q_proj, k_proj, v_proj, out_proj, each ".weight" and ".bias". bias (B, n): log size per key.
    """
    y = layer_norm(x, x.shape[-1:], w["layer_norm1.weight"], w["layer_norm1.bias"], eps)
    q, k, v = (
        _linear(y, w, name).unflatten(-1, (heads, -1)).transpose(1, 2) for name in ("q_proj", "k_proj", "v_proj")
    )
    logits = q @ k.mT * q.shape[-1] ** -0.5
    if bias is not None:
        logits = logits + bias[:, None, None]
    return _linear((logits.softmax(-1) @ v).transpose(1, 2).flatten(2), w, "out_proj"), k.mean(1)


def mlp(x: Tensor, w: Mapping[str, Tensor], eps: float, act: Callable[[Tensor], Tensor]) -> Tensor:
    """x (B, n, D) -> x plus the MLP branch. ``w``: layer_norm2, fc1, fc2."""
    y = layer_norm(x, x.shape[-1:], w["layer_norm2.weight"], w["layer_norm2.bias"], eps)
    return x + _linear(act(_linear(y, w, "fc1")), w, "fc2")


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def gelu_tanh(x: Tensor) -> Tensor:
    return gelu(x, approximate="tanh")


def _linear(x: Tensor, w: Mapping[str, Tensor], name: str) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]
