"""Small language models with random weights that say different things."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM


def llama(words: int, **ids: int | None) -> Any:
    """Two layers and so many words, weights large enough that the words differ. ids: special tokens of the config."""
    torch.manual_seed(5)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    made = LlamaForCausalLM(LlamaConfig(vocab_size=words, bos_token_id=None, **shape, **ids)).eval()
    for p in made.parameters():
        if p.ndim > 1:
            p.data.normal_(std=1.5 * p.shape[-1] ** -0.5)
    return made


def prompts(first: int, last: int, rows: int, n: int) -> Tensor:
    """(rows, n) of words from ``first`` to before ``last``."""
    return torch.randint(first, last, (rows, n), generator=torch.Generator().manual_seed(2))
