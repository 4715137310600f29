"""Models that need no download. ``tiny`` is untrained: its words mean nothing, what it costs is real."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .errors import InputError

#: The model that ``ask`` uses when none is named.
DEFAULT_MODEL = "tiny"

_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif c['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def default_model() -> str:
    """The name of the model to use when the user names none."""
    return DEFAULT_MODEL


def tokenizer() -> Any:
    """A byte-level tokenizer: one token for each byte of UTF-8, and Qwen's special tokens; nothing is learned."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in _SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        chat_template=_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def tiny() -> tuple[Any, Any]:
    """An untrained model in the shape of Qwen2.5-VL, 1.5 million parameters in float32, and its prompt builder.

    Always the same weights; the global random state is left as it was. It writes printable ASCII only.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

    from .prompt.pixels import PatchRule
    from .prompt.qwen import QwenBuilder

    words = tokenizer()
    ids = {t: words.convert_tokens_to_ids(t) for t in _SPECIAL}
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 4,
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_heads": 4,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1, 3],
            "out_hidden_size": 160,
            "tokens_per_second": 2,
        },
        text_config={
            "hidden_size": 160,
            "intermediate_size": 320,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": len(words),
            "max_position_embeddings": 32768,
            "pad_token_id": ids["<|endoftext|>"],
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "mrope_section": [4, 8, 8], "rope_theta": 1e6},
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = Qwen2_5_VLForConditionalGeneration(config).float().eval()
        _spread(model)
    printable = set(words(bytes(range(32, 127)).decode("ascii"), add_special_tokens=False)["input_ids"])
    model.generation_config.update(
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
        suppress_tokens=[i for i in range(len(words)) if i not in printable and i != ids["<|im_end|>"]],
    )
    cell = 28 * 28
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 4 * cell, "longest_edge": 256 * cell})
    rule = PatchRule(low=4 * cell, high=96 * cell)
    return model, QwenBuilder(words, images, "qwen2_5_vl", rule)


@torch.no_grad()
def _spread(model: torch.nn.Module) -> None:
    """Draw matrices with variance 1 / fan-in: transformers' 0.02 leaves so narrow a model almost constant."""
    for name, p in model.named_parameters():
        if p.ndim > 1:
            p.normal_(std=(p[0].numel()) ** -0.5)
        elif name.endswith("bias"):
            p.zero_()


def untrained(name: str) -> str:
    """What must stand beside every word of a model with random weights."""
    return f"{name} is untrained: the words mean nothing; the table is real"


#: Models of the lab, and where their folders lie.
LAB = ("lab/image", "lab/video", "lab/diffusion")
WEIGHTS = Path(__file__).resolve().parent / "lab" / "weights"


def lab(name: str) -> Path:
    """The folder of a lab model.

    Raises:
        InputError: it is not trained here.
    """
    kind = name.removeprefix("lab/")
    folder = WEIGHTS / kind
    if not (folder / "config.json").is_file():
        raise InputError(f"{name!r} is not trained here; make it with: foveate lab train {kind} --minutes 240")
    return folder


#: Built-in names and their makers: each returns the model and its prompt builder.
BUILTIN: dict[str, Callable[[], tuple[Any, Any]]] = {"tiny": tiny}
#: Built-in models whose weights are random.
UNTRAINED = frozenset({"tiny"})
