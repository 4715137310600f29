"""What the tests of the sites share: the cases, running a plan, and comparing it with the mask-out reference."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import foveate
from foveate.report import Report
from foveate.testing import FAMILIES, tiny
from foveate.testing.maskout import mask_out, visible
from foveate.testing.tiny_prompt import Tiny

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()

ALL = "divprune(keep=0.5) + fastv(layer=1, keep=0.5) + snapkv(keep=0.5, window=4)"
KINDS = ("sdpa", "eager")
STEPS = 4


def layouts(name: str) -> list[dict[str, Any]]:
    """The inputs every family is tried with."""
    more: list[dict[str, Any]] = [{}, {"batch": 2, "ragged": True}]
    if name in FAMILIES["vlm"]:
        more.append({"images": 2})
    if name in FAMILIES["video"]:
        more += [{"video": True}, {"video": True, "batch": 2, "ragged": True}]
    return more


def cases(*kinds: str) -> list[Any]:
    """(family, layout) pairs with readable ids."""
    out = []
    for name in (n for k in kinds for n in FAMILIES[k]):
        for more in layouts(name):
            out.append(pytest.param(name, more, id="-".join([name, *more])))
    return out


def generate(z: Tiny, plan: str | None = None, **more: Any) -> tuple[Any, Report]:
    """Greedy generation with logits, under a plan or bare."""
    asked = {"max_new_tokens": STEPS, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    asked |= z.inputs | more
    with torch.no_grad():
        if plan is None:
            return z.model.generate(**asked), Report()
        with warnings.catch_warnings(), foveate.apply(z.model, plan) as report:
            warnings.filterwarnings("ignore", "sliding-window layers keep their window")
            return z.model.generate(**asked), report


def logits_of(out: Any) -> Tensor:
    """(B, steps, V) of a generation."""
    return torch.stack(out.logits, 1)


def new_tokens(z: Tiny, out: Any) -> Tensor:
    """(B, steps) what was generated."""
    tokens: Tensor = out.sequences[:, z.inputs["input_ids"].shape[1] :]
    return tokens


def check_maskout(z: Tiny, plan: str) -> Report:
    """A run under ``plan`` gives what the bare model gives with the dropped columns hidden."""
    out, report = generate(z, plan)
    seen = visible(z.model, report, out.past_key_values, z.inputs["input_ids"].shape)
    torch.testing.assert_close(logits_of(out), mask_out(z.model, z.inputs, new_tokens(z, out), seen), atol=2e-5, rtol=0)
    return report


def check_same(z: Tiny, plan: str) -> Report:
    """A run under ``plan`` gives, bit for bit, what the bare model gives."""
    bare, _ = generate(z)
    out, report = generate(z, plan)
    assert torch.equal(logits_of(out), logits_of(bare))
    assert torch.equal(out.sequences, bare.sequences)
    return report


def make(name: str, attn: str = "sdpa", **more: Any) -> Tiny:
    """A tiny model with its inputs."""
    return tiny(name, attn=attn, **more)


def two_turns(run: Any, one: Any, two: Any, words: torch.Tensor, mask: torch.Tensor, n: int) -> torch.Tensor:
    """What the mask-out reference says in a second turn of three words, (B, 3, V).

    run: it, after the first prompt of n tokens. one, two: what generate gave in both turns. words (1, w): the second
    question. mask: of all that goes before the second answer.
    """
    said = one.sequences[:, n:]
    for i in range(said.shape[1] - 1):
        run.feed(input_ids=said[:, i : i + 1], attention_mask=mask[:, : n + i + 1])
    chunk = torch.cat([said[:, -1:], words.expand(len(said), -1)], 1)
    logits = [run.feed(input_ids=chunk, attention_mask=mask)[:, -1]]
    more = two.sequences[:, mask.shape[1] :]
    for i in range(2):
        mask = torch.cat([mask, mask[:, -1:]], 1)
        logits.append(run.feed(input_ids=more[:, i : i + 1], attention_mask=mask)[:, -1])
    return torch.stack(logits, 1)
