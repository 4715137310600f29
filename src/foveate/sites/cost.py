"""Forward FLOPs and cache bytes from shapes and configuration."""

from __future__ import annotations

from typing import Any

from torch import nn


def linear_flops(module: nn.Module) -> float:
    """FLOPs of all weight matrices of a module for one token."""
    return 2.0 * sum(p.numel() for p in module.parameters() if p.ndim == 2)


def block_flops(block: nn.Module, q: float, kv: float) -> float:
    """FLOPs of a transformer layer on q tokens that attend to kv each (attention counted in full, as is usual)."""
    return q * linear_flops(block) + 4.0 * q * kv * attention_width(block)


def attention_width(block: nn.Module) -> int:
    """Query heads times head size."""
    for name, p in block.named_parameters():
        if name.endswith(("o_proj.weight", "out_proj.weight", "projection_layer.weight", "attn.proj.weight")):
            return int(p.shape[1])
    return int(max((p.shape[0] for p in block.parameters() if p.ndim == 1), default=0))


def stack_flops(layers: tuple[nn.Module, ...], lengths: list[float], past: list[int]) -> float:
    """FLOPs of a stack of layers; lengths and past by layer (tokens run, tokens already cached)."""
    return sum(block_flops(block, q, q + p) for block, q, p in zip(layers, lengths, past))


def kv_bytes_per_token(config: Any, itemsize: int) -> int:
    """Bytes of keys and values of one token in one layer."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * heads * size * itemsize)
