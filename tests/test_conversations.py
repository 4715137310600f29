"""Conversations, beams, drafts and threads on a shortened cache."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

import foveate
from foveate.testing import FAMILIES
from foveate.testing.maskout import MaskOut, visible
from foveate.testing.tiny_prompt import Tiny
from site_kit import ALL, KINDS, generate, logits_of, make, new_tokens, two_turns

VLM, LM = FAMILIES["vlm"], FAMILIES["lm"]
SNAP = "snapkv(keep=0.5, window=4)"
quiet = pytest.mark.filterwarnings("ignore:sliding-window layers keep their window")


def next_turn(z: Tiny, out: Any, words: Tensor) -> dict[str, Tensor]:
    """The inputs of a second turn: all that was said, and new words."""
    ids = torch.cat([out.sequences, words.expand(out.sequences.shape[0], -1)], 1)
    mask = z.inputs["attention_mask"]
    return {
        "input_ids": ids,
        "attention_mask": torch.cat([mask, mask.new_ones(len(mask), ids.shape[1] - mask.shape[1])], 1),
    }


@quiet
@pytest.mark.parametrize("attn", KINDS)
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", [*VLM, *LM])
@torch.no_grad()
def test_a_second_turn_feeds_the_new_tokens_alone(name: str, ragged: bool, attn: str) -> None:
    plan = SNAP if name in LM else ALL
    z = make(name, attn, batch=2, ragged=True) if ragged else make(name, attn)
    words = torch.tensor([[5, 6, 7, 8, 9]])
    asked = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    fed = []
    with foveate.apply(z.model, plan) as report:
        one = z.model.generate(**z.inputs, **asked)
        before = len(report.kept)
        hook = z.model.get_decoder().layers[0].register_forward_pre_hook(lambda m, a: fed.append(a[0].shape[1]))
        two = z.model.generate(**next_turn(z, one, words), **asked, past_key_values=one.past_key_values)
        hook.remove()
    assert fed == [6, 1, 1]  # the last word said, five new ones, and one step each
    assert len(report.kept) == before
    n = z.inputs["input_ids"].shape[1]
    run = MaskOut(z.model)
    mask = next_turn(z, one, words)["attention_mask"]
    run.feed(visible(z.model, report, one.past_key_values, z.inputs["input_ids"].shape), **z.inputs)
    torch.testing.assert_close(logits_of(two), two_turns(run, one, two, words, mask, n), atol=2e-5, rtol=0)


@quiet
@pytest.mark.parametrize("attn", KINDS)
@pytest.mark.parametrize("name", VLM)
@torch.no_grad()
def test_a_second_turn_with_a_new_image(name: str, attn: str) -> None:
    z = make(name, attn)
    later = make(name, attn, seed=1).inputs
    n = z.inputs["input_ids"].shape[1]
    both = torch.cat([z.inputs["attention_mask"], later["attention_mask"]], 1)
    second = later | {"attention_mask": both}
    if "mm_token_type_ids" in later:  # such models need told positions once something is cached
        at = torch.arange(n, n + later["input_ids"].shape[1])
        second["position_ids"] = at.expand(3, 1, -1)
    try:
        bare = DynamicCache(config=z.model.get_decoder().config)
        z.model(**z.inputs, past_key_values=bare)
        z.model(**second, past_key_values=bare)
    except RuntimeError:
        pytest.skip("this transformers cannot take an image behind a cache")
    cache = DynamicCache(config=z.model.get_decoder().config)
    with foveate.apply(z.model, ALL) as report:
        a = z.model(**z.inputs, past_key_values=cache, use_cache=True).logits[:, -1]
        first = list(report.kept)
        seen = visible(z.model, report, cache, (1, n))
        b = z.model(**second, past_key_values=cache, use_cache=True).logits[:, -1]
    new = report.kept[len(first) :]
    assert {k.stage for k in new} == {"inputs", "layers"}
    assert all(k.where is not None and int(k.where.min()) >= n for k in new)
    assert cache.get_seq_length() == both.shape[1]
    run = MaskOut(z.model)
    torch.testing.assert_close(run.feed(seen, **z.inputs)[:, -1], a, atol=2e-5, rtol=0)
    again = visible(z.model, report, None, later["input_ids"].shape, start=n, kept=new)
    torch.testing.assert_close(run.feed(again, **second)[:, -1], b, atol=2e-5, rtol=0)


@quiet
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "qwen3"])
@torch.no_grad()
def test_two_conversations_in_turns(name: str) -> None:
    plan = SNAP if name in LM else ALL
    z, other = make(name), make(name, seed=3).inputs
    words = torch.tensor([[11], [12], [13]])

    def step(cache: Any, inputs: dict[str, Any], i: int) -> Tensor:
        seen = inputs["attention_mask"].shape[1]
        more: dict[str, Any] = {"attention_mask": torch.ones(1, seen + i + 1, dtype=torch.long)}
        if "mm_token_type_ids" in inputs:
            more = {"position_ids": torch.full((3, 1, 1), seen + i)}
        logits: Tensor = z.model(input_ids=words[i][None], past_key_values=cache, **more).logits[:, -1]
        return logits

    def alone(inputs: dict[str, Any]) -> list[Tensor]:
        cache = DynamicCache(config=z.model.get_decoder().config)
        with foveate.apply(z.model, plan):
            out = [z.model(**inputs, past_key_values=cache).logits[:, -1]]
            return out + [step(cache, inputs, i) for i in range(3)]

    wanted = [alone(z.inputs), alone(other)]
    caches = [DynamicCache(config=z.model.get_decoder().config) for _ in range(2)]
    got: list[list[Tensor]] = [[], []]
    with foveate.apply(z.model, plan):
        for c, inputs in enumerate((z.inputs, other)):
            got[c].append(z.model(**inputs, past_key_values=caches[c]).logits[:, -1])
        for i in range(3):
            for c, inputs in enumerate((z.inputs, other)):
                got[c].append(step(caches[c], inputs, i))
    for a, b in zip(wanted, got):
        assert all(torch.equal(x, y) for x, y in zip(a, b))


# --- ways to generate ---------------------------------------------------------------------------------------------


@quiet
@pytest.mark.parametrize("name", [*VLM, *LM])
@torch.no_grad()
def test_drafts_change_nothing(name: str) -> None:
    plans = [SNAP] if name in LM else [ALL, "streaming_llm(keep=0.4)"]
    z = make(name)
    for plan in plans:
        a, _ = generate(z, plan, max_new_tokens=16)
        b, _ = generate(z, plan, max_new_tokens=16, prompt_lookup_num_tokens=3)
        assert torch.equal(a.sequences, b.sequences)
        torch.testing.assert_close(logits_of(a), logits_of(b), atol=2e-5, rtol=0)


@quiet
@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_5_vl", "gemma3", "idefics3", "llama"])
@torch.no_grad()
def test_sampling_with_a_seed(name: str) -> None:
    z = make(name)
    keep_all = "snapkv(keep=1.0)" if name in LM else "random(keep=1.0) + fastv(layer=1, keep=1.0) + snapkv(keep=1.0)"
    out = []
    for plan in (None, keep_all, keep_all):
        torch.manual_seed(7)
        out.append(generate(z, plan, do_sample=True, max_new_tokens=8)[0].sequences)
    assert torch.equal(out[0], out[1])
    assert torch.equal(out[0], out[2])


@quiet
@pytest.mark.parametrize("name", [*VLM, "llama", "gemma3_text"])
@torch.no_grad()
def test_beams(name: str) -> None:
    """Beams are rows: two beams of a batch of two give what each row gives alone."""
    plan = "snapkv(keep=12, window=4)"
    if name in VLM:
        plan = "fastervlm(keep=0.5) + fastv(layer=1, keep=0.5) + " + plan
    asked: dict[str, Any] = {"num_beams": 2, "max_new_tokens": 5, "do_sample": False, "output_scores": True}
    asked |= {"return_dict_in_generate": True}
    one, two = make(name), make(name, batch=2, ragged=True)
    out = []
    for z in (one, two):
        with foveate.apply(z.model, plan):
            out.append(z.model.generate(**z.inputs, **asked))
    assert torch.equal(new_tokens(one, out[0])[0], new_tokens(two, out[1])[0])
    torch.testing.assert_close(out[0].sequences_scores[0], out[1].sequences_scores[0], atol=1e-4, rtol=0)
    for z, o in ((one, out[0]), (two, out[1])):
        with foveate.apply(z.model, plan.replace("keep=12", "keep=1.0").replace("keep=0.5", "keep=1.0")):
            keep = z.model.generate(**z.inputs, **asked)
        assert torch.equal(keep.sequences, z.model.generate(**z.inputs, **asked).sequences)
        assert o.sequences.shape == keep.sequences.shape


@quiet
@pytest.mark.parametrize("name", ["llava", "llava_onevision", "qwen3_vl", "gemma3"])
def test_in_a_thread_of_its_own(name: str) -> None:
    z = make(name)
    wanted, _ = generate(z, ALL)
    got: list[Any] = []

    def work() -> None:
        with torch.no_grad():
            got.append(z.model.generate(**z.inputs, max_new_tokens=4, do_sample=False))

    with foveate.apply(z.model, ALL) as report:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert torch.equal(got[0], wanted.sequences)
    assert {r.stage for r in report.rows if r.tokens_in} == {"inputs", "layers", "cache"}
