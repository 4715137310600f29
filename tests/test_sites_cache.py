"""Stage cache: eviction is masking for all later tokens, and frees what it says."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import foveate
from foveate.errors import UnsupportedCallError
from foveate.stores.held import HeldLayer
from foveate.testing import FAMILIES
from site_kit import ALL, KINDS, cases, check_maskout, check_same, generate, make

VLM, LM = FAMILIES["vlm"], FAMILIES["lm"]
SNAP = "snapkv(keep=0.5, window=4)"
quiet = pytest.mark.filterwarnings("ignore:sliding-window layers keep their window")


@pytest.mark.parametrize("attn", KINDS)
@pytest.mark.parametrize(("name", "more"), cases("vlm", "lm"))
def test_keep_all_is_the_bare_model(name: str, more: dict[str, Any], attn: str) -> None:
    z = make(name, attn, **more)
    for plan in ("snapkv(keep=1.0)", "streaming_llm(keep=1.0)"):
        check_same(z, plan)


@pytest.mark.parametrize("attn", KINDS)
@pytest.mark.parametrize(("name", "more"), cases("vlm", "lm"))
def test_evicting_is_masking(name: str, more: dict[str, Any], attn: str) -> None:
    z = make(name, attn, **more)
    for plan in (SNAP, "snapkv(keep=9, window=2)", "streaming_llm(keep=0.3)"):
        check_maskout(z, plan)


@quiet
def test_heads_choose_for_themselves() -> None:
    z = make("llama")
    out, _ = generate(z, SNAP)
    where = out.past_key_values.layers[2].where
    assert where.shape[:2] == (1, 2)
    assert not torch.equal(where[:, 0], where[:, 1])


@pytest.mark.parametrize("name", ["gemma3", "gemma3_text"])
def test_sliding_layers_are_skipped_with_one_warning(name: str) -> None:
    z = make(name)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with foveate.apply(z.model, SNAP), torch.no_grad():
            out = z.model.generate(**z.inputs, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    assert [str(w.message) for w in said if "sliding" in str(w.message)] == [
        "sliding-window layers keep their window: snapkv skips them"
    ]
    n = z.inputs["input_ids"].shape[1]
    assert [layer.held for layer in out.past_key_values.layers] == [15, n // 2 + 2] * 2


# --- bytes --------------------------------------------------------------------------------------------------------


@quiet
@pytest.mark.parametrize("keep", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("name", ["llama", "qwen3", "llava", "qwen3_vl", "internvl"])
def test_bytes_are_those_of_the_storages(name: str, keep: float) -> None:
    z = make(name)
    bare, _ = generate(z, max_new_tokens=1)
    out, report = generate(z, f"snapkv(keep={keep}, window=4)", max_new_tokens=1)
    held = sum(t.untyped_storage().nbytes() for layer in out.past_key_values.layers for t in (layer.keys, layer.values))
    full = sum(2 * layer.keys.numel() * layer.keys.element_size() for layer in bare.past_key_values.layers)
    assert report.kv_bytes == held
    assert report.kv_bytes_full == full
    n = z.inputs["input_ids"].shape[1]
    assert held / full == int(keep * n) / n  # a share is rounded down
    for layer in out.past_key_values.layers:
        for t in (layer.keys, layer.values):
            assert t.untyped_storage().nbytes() == t.numel() * t.element_size()


@quiet
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3"])
def test_bytes_fall_at_every_stage(name: str) -> None:
    z = make(name)
    out, report = generate(z, ALL, max_new_tokens=1)
    held = sum(layer.nbytes for layer in out.past_key_values.layers)
    assert held == report.kv_bytes < report.kv_bytes_full / 2
    if name == "gemma3":  # while drafts may be undone, windows hold more
        return
    _, drafted = generate(z, ALL, max_new_tokens=8, prompt_lookup_num_tokens=3)
    assert drafted.kv_bytes == report.kv_bytes
    assert drafted.prefills == report.prefills == 1


# --- calls that cannot work ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "llava"])
@torch.no_grad()
def test_without_a_cache_there_is_nothing_to_evict(name: str) -> None:
    z = make(name)
    with foveate.apply(z.model, SNAP), pytest.raises(UnsupportedCallError, match="use_cache=False"):
        z.model(**z.inputs, use_cache=False)
    with foveate.apply(z.model, SNAP), pytest.raises(UnsupportedCallError, match="use_cache=False"):
        z.model.generate(**z.inputs, use_cache=False, max_new_tokens=2)


@pytest.mark.parametrize("plan", ["random(keep=0.5)", "fastv(layer=1)", SNAP])
@pytest.mark.parametrize("kind", ["static", "offloaded"])
@torch.no_grad()
def test_other_caches_are_refused(kind: str, plan: str) -> None:
    z = make("llava")
    with foveate.apply(z.model, plan), pytest.raises(UnsupportedCallError, match="cache"):
        z.model.generate(**z.inputs, max_new_tokens=2, cache_implementation=kind)


# --- the cache layer itself ---------------------------------------------------------------------------------------


def test_rolling_back_what_was_drafted() -> None:
    layer = HeldLayer(window=4)
    k = torch.arange(10.0).view(1, 1, 10, 1)
    layer.activate_past_recording()
    layer.update(k[:, :, :6], k[:, :, :6])
    layer.crop(0)
    assert layer.keys.flatten().tolist() == [3, 4, 5]
    layer.update(k[:, :, 6:9], k[:, :, 6:9])
    layer.crop(-2)
    assert layer.get_seq_length() == 7
    assert layer.keys.flatten().tolist() == [4, 5, 6]
    assert layer.where.flatten().tolist() == [4, 5, 6]


def test_rolling_back_past_a_full_window_is_refused() -> None:
    layer = HeldLayer(window=4)
    k = torch.zeros(1, 1, 6, 1)
    layer.update(k, k)
    with pytest.raises(UnsupportedCallError, match="rolled back"):
        layer.crop(-1)


def test_rolling_back_into_what_was_evicted_head_by_head_is_refused() -> None:
    layer = HeldLayer()
    k = torch.randn(1, 2, 6, 3)
    layer.update(k, k)
    layer.shrink(foveate.Reduction.take(torch.tensor([[0, 1, 2], [3, 4, 5]]), 6))
    with pytest.raises(UnsupportedCallError, match="head by head"):
        layer.crop(-3)
    assert layer.get_seq_length() == 6
