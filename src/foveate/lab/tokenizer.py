"""The lab's tokenizer: one token for each word, capital letter, digit and mark of :func:`foveate.lab.tasks.vocabulary`.

A word is a token that carries the space before it, so any text of these words comes back exactly as it was.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

from .tasks import vocabulary

PAD, BOS, EOS, UNKNOWN = "<|pad|>", "<|bos|>", "<|eos|>", "<|unknown|>"
IMAGE, VIDEO, START, END = "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"
USER, ASSISTANT = "<|user|>", "<|assistant|>"
SPECIAL = (PAD, BOS, EOS, UNKNOWN, IMAGE, VIDEO, START, END, USER, ASSISTANT)

TEMPLATE = (
    f"{BOS}{{% for m in messages %}}"
    f"{{% if m['role'] == 'assistant' %}}{ASSISTANT}{{% else %}}{USER}{{% endif %}}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    f"{{% if c['type'] == 'image' %}}{START}{IMAGE}{END}"
    f"{{% elif c['type'] == 'video' %}}{START}{VIDEO}{END}"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
    f"{{% if m['role'] == 'assistant' %}}{EOS}{{% endif %}}{{% endfor %}}"
    f"{{% if add_generation_prompt %}}{ASSISTANT}{{% endif %}}"
)

_SPACE = "▁"
_CUT = r" ?[a-z]+| ?[A-Z]| ?[0-9]| ?[^\sA-Za-z0-9]"


@functools.cache
def entries() -> dict[str, int]:
    """Every token with its id: the special ones, then each piece after a space, then those that may follow directly."""
    pieces = vocabulary()
    glued = [p for p in pieces if not p.islower()]
    return {t: i for i, t in enumerate([*SPECIAL, *(_SPACE + p for p in pieces), *glued])}


def encode(text: str) -> list[int]:
    """What the tokenizer makes of a text without special tokens, in plain Python: workers need no transformers."""
    known = entries()
    pieces = re.findall(_CUT, text if text.startswith(" ") or not text else " " + text)
    return [known.get(p.replace(" ", _SPACE), known[UNKNOWN]) for p in pieces]


def make() -> Any:
    """The tokenizer as transformers' PreTrainedTokenizerFast, with its chat template."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(entries(), unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(_SPACE, prepend_scheme="always", split=False),
            pre_tokenizers.Split(Regex(_CUT.replace(" ?", f"{_SPACE}?")), "isolated"),
        ]
    )
    core.decoder = decoders.Sequence([decoders.Metaspace(_SPACE, prepend_scheme="always", split=False)])
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=4096,
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": IMAGE, "video_token": VIDEO},
    )


def conversation(turns: Sequence[tuple[str, str]], visual: str | None, tokens: int) -> tuple[list[int], list[int]]:
    """Ids of questions and answers as the chat template has them, and for each token the number of its answer or -1.

    visual: IMAGE or VIDEO, whose placeholder is repeated ``tokens`` times before the first question; None for text. The
    end of an answer belongs to it.
    """
    known = entries()
    ids, owner = [known[BOS]], [-1]

    def say(new: Iterable[int], turn: int = -1) -> None:
        before = len(ids)
        ids.extend(new)
        owner.extend([turn] * (len(ids) - before))

    for i, (question, answer) in enumerate(turns):
        say([known[USER]])
        if i == 0 and visual is not None:
            say([known[START], *[known[visual]] * tokens, known[END]])
        say(encode(question))
        say([known[ASSISTANT]])
        say([*encode(answer), known[EOS]], i)
    return ids, owner
