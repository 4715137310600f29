"""A model that finds needles by construction: weights that are written down, not trained.

Two layers of an ordinary Llama do what trained models do to look something up (induction). In the first, one head
copies the token before, another the token before that. In the second, a head looks for the place where the last two
tokens came before, and says what stood there. So a code that a text of up to a thousand tokens tells once is said
exactly when asked for, and every wrong letter is the cache's fault. Tokens are the rows of a random rotation, so that
entries look like any others.
"""

from __future__ import annotations

import math
from random import Random
from typing import Any

import torch
from torch import Tensor

TOKENS = 64
#: Kinds of tokens: the beginning, what announces a code, names of codes, letters, other words.
BEGIN, CODE = 0, 1
NAMES, LETTERS, WORDS = range(2, 18), range(18, 44), range(44, TOKENS)
LENGTH = 4  # letters of a code
WIDTH, HALF = 256, 128  # of a head, and of the pairs that positions turn
SHARP = 40.0  # by how much, in logits, the right place stands out in the first layer
MATCH = 30.0  # and what each of the two tokens adds in the second
_SLOW = HALF - TOKENS  # from here on pairs hardly turn, and can hold what a token is


def reader(dtype: torch.dtype = torch.float32) -> Any:
    """The model, a ``LlamaForCausalLM``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden = 4 * TOKENS + 2  # the token, the one before, the one before that, what is said, a one, and a zero
    config = LlamaConfig(
        vocab_size=TOKENS,
        hidden_size=hidden,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=WIDTH,
        max_position_embeddings=1 << 16,
        rope_parameters={"rope_type": "default", "rope_theta": 1e8},
        rms_norm_eps=1e-12,
        bos_token_id=BEGIN,
        eos_token_id=None,
        pad_token_id=BEGIN,
    )
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        _write(model, hidden)
    return model.to(dtype)


def _write(model: Any, hidden: int) -> None:
    turn = torch.linalg.qr(torch.randn(TOKENS, TOKENS, generator=torch.Generator().manual_seed(0))).Q
    one, said = 4 * TOKENS, 3 * TOKENS
    decoder = model.model
    decoder.embed_tokens.weight[:, :TOKENS] = turn
    decoder.embed_tokens.weight[:, one] = 1
    model.lm_head.weight[:, said : said + TOKENS] = turn
    decoder.norm.weight.fill_(1)
    eye = torch.eye(TOKENS)
    first, second = (layer.self_attn for layer in decoder.layers)
    # the squared length of the residual is 2 before the first layer and 4 before the second, so this undoes the norm
    for layer, length in zip(decoder.layers, (2, 4)):
        layer.input_layernorm.weight.fill_(math.sqrt(length / hidden))
        layer.post_attention_layernorm.weight.fill_(1)
    rates = 1e8 ** (-torch.arange(0, WIDTH, 2).float() / WIDTH)
    quick = slice(0, _SLOW // 2)
    scale = math.sqrt(SHARP * math.sqrt(WIDTH))
    for head in (0, 1):  # a query turned back by one (two) steps fits the key that stands one (two) steps before
        row, slot = head * WIDTH, (1 + head) * TOKENS
        first.k_proj.weight[row : row + _SLOW // 2, one] = scale
        first.q_proj.weight[row : row + _SLOW // 2, one] = scale * torch.cos((head + 1) * rates[quick])
        turned = slice(row + HALF, row + HALF + _SLOW // 2)
        first.q_proj.weight[turned, one] = -scale * torch.sin((head + 1) * rates[quick])
        first.v_proj.weight[row : row + TOKENS, :TOKENS] = eye
        first.o_proj.weight[slot : slot + TOKENS, row : row + TOKENS] = eye
    scale = math.sqrt(MATCH * math.sqrt(WIDTH))
    for part, start in enumerate((_SLOW, HALF + _SLOW)):  # this token is that one's predecessor, and so on
        second.q_proj.weight[start : start + TOKENS, part * TOKENS : (part + 1) * TOKENS] = scale * eye
        second.k_proj.weight[start : start + TOKENS, (part + 1) * TOKENS : (part + 2) * TOKENS] = scale * eye
    second.v_proj.weight[:TOKENS, :TOKENS] = eye
    second.o_proj.weight[said : said + TOKENS, :TOKENS] = eye


def text(seed: int, length: int, depth: float, others: int = 3) -> tuple[Tensor, Tensor]:
    """A text of ``length`` tokens with a code at a depth from 0 to 1, and what asks for it: ids (length,), code (4,).

    ``others`` codes of other names stand anywhere else.
    """
    rng = Random(f"{seed} {length} {depth}")
    names = rng.sample(NAMES, others + 1)
    told = [[CODE, name, *rng.choices(LETTERS, k=LENGTH)] for name in names]
    room = length - 3 - len(told[0])  # without the beginning, the question and the code itself
    lines = [[rng.choice(WORDS)] for _ in range(room - others * len(told[0]))]
    for code in told[1:]:
        lines.insert(rng.randint(0, len(lines)), code)
    at, seen = round(depth * room), 0
    for k, line in enumerate([*lines, []]):
        if seen >= at or not line:
            lines.insert(k, told[0])
            break
        seen += len(line)
    ids = [BEGIN, *(t for line in lines for t in line), CODE, names[0]]
    return torch.tensor(ids), torch.tensor(told[0][2:])


@torch.inference_mode()
def answers(model: Any, ids: Tensor) -> Tensor:
    """What the model says to texts (B, n), greedily: (B, LENGTH)."""
    out: Tensor = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=LENGTH, do_sample=False, num_beams=1
    )
    return out[:, ids.shape[1] :]
