"""Tokens of a cached prompt changed: what a fresh prefill holds, where it can be known without reading the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

import foveate
from foveate.errors import InputError, UnsupportedCallError, UnsupportedModelError
from foveate.parts.rotary import turn
from site_kit import generate, make

START, STOP = 5, 9


def read(model: Any, ids: Tensor) -> Any:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=True).past_key_values


def words(z: Any, m: int, seed: int = 1) -> Tensor:
    ids = z.inputs["input_ids"]
    return torch.randint(4, 40, (len(ids), m), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("m", [0, 2, 4, 7])
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_an_edit_is_a_fresh_prefill_up_to_its_end_and_in_the_first_layer(name: str, m: int) -> None:
    z = make(name, batch=2)
    ids, new = z.inputs["input_ids"], words(z, m)
    cache = read(z.model, ids)
    foveate.edit_cache(z.model, cache, START, STOP, new if m else None)
    fresh = read(z.model, torch.cat([ids[:, :START], new, ids[:, STOP:]], 1))
    assert cache.get_seq_length() == fresh.get_seq_length()
    for i, (got, want) in enumerate(zip(cache.layers, fresh.layers)):
        upto = None if i == 0 else START + m
        for a, b in ((got.keys, want.keys), (got.values, want.values)):
            torch.testing.assert_close(a[:, :, :upto], b[:, :, :upto], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(cache.layers[1].keys, fresh.layers[1].keys, atol=1e-3)


def test_keys_behind_an_edit_are_only_turned() -> None:
    z = make("llama")
    ids = z.inputs["input_ids"]
    old, cache = read(z.model, ids), read(z.model, ids)
    foveate.edit_cache(z.model, cache, START, START, words(z, 3))
    rates = z.model.model.rotary_emb.inv_freq
    for a, b in zip(cache.layers, old.layers):
        tail = b.keys[:, :, START:]
        torch.testing.assert_close(a.keys[:, :, START + 3 :], turn(tail, torch.full(tail.shape[:3], 3), rates))
        assert torch.equal(a.values[:, :, START + 3 :], b.values[:, :, START:])


def test_a_shortened_cache_goes_on_after_an_edit() -> None:
    z = make("llama")
    ids = z.inputs["input_ids"]
    out, _ = generate(z, "streaming_llm(keep=12, sinks=6)", max_new_tokens=1)
    cache, n = out.past_key_values, ids.shape[1]
    foveate.edit_cache(z.model, cache, START, STOP, words(z, 1))
    layer = cache.layers[0]
    assert layer.get_seq_length() == n - 3
    assert layer.where[0, 0].tolist() == [0, 1, 2, 3, 4, 5, *range(n - 9, n - 3)]
    with torch.no_grad(), foveate.apply(z.model, "streaming_llm(keep=12, sinks=6)"):
        z.model(input_ids=ids[:, -2:], past_key_values=cache, use_cache=True)
    assert layer.get_seq_length() == n - 1


def test_what_cannot_be_edited_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    z = make("llama")
    cache = read(z.model, z.inputs["input_ids"])
    with pytest.raises(InputError, match="within the"):
        foveate.edit_cache(z.model, cache, 4, 900)
    with pytest.raises(InputError, match="ids of shape"):
        foveate.edit_cache(z.model, cache, 4, 6, torch.zeros(3, 2, dtype=torch.long))
    with pytest.raises(UnsupportedCallError, match="dynamic cache"):
        foveate.edit_cache(z.model, DynamicCache(), 0, 0)
    out, _ = generate(z, "snapkv(keep=0.5, window=4)", max_new_tokens=1)
    with pytest.raises(UnsupportedCallError, match="head by head"):
        foveate.edit_cache(z.model, out.past_key_values, 4, 6)
    with foveate.apply(z.model, "knorm"), pytest.raises(UnsupportedCallError, match="a plan is on"):
        foveate.edit_cache(z.model, cache, 4, 6)
    monkeypatch.setitem(z.model.config.rope_parameters, "rope_type", "dynamic")
    with pytest.raises(UnsupportedModelError, match="dynamic"):
        foveate.edit_cache(z.model, cache, 4, 6)
    g = make("gemma3_text")
    with pytest.raises(UnsupportedCallError, match="Sliding"):
        foveate.edit_cache(g.model, read(g.model, g.inputs["input_ids"]), 4, 6)
