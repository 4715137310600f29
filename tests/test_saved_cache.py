"""A cache on disk is read back as it was, or refused; a save that is cut short leaves the one before."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.cache_utils import DynamicCache, StaticCache

import foveate
from foveate.errors import CacheFileError, UnsupportedCallError
from site_kit import make

PLANS = {
    "plain": "",
    "evicted": "snapkv(keep=0.5, window=4)",
    "ragged": "adakv(keep=0.4, window=4)",
    "lasting": "h2o(keep=9, every=1)",
    "packed": "kivi(bits=2, group=8, recent=8)",
    "low rank": "gear",
    "evicted and packed": "snapkv(keep=0.5, window=4) + vidkv(bits=1.58)",
    "tiered": "leoam(keep=8, chunk=4, coarse=2, recent=2, window=4)",
}


def filled(seed: int = 0, n: int = 20) -> DynamicCache:
    cache = DynamicCache()
    g = torch.Generator().manual_seed(seed)
    for i in range(2):
        cache.update(torch.randn(1, 2, n, 8, generator=g), torch.randn(1, 2, n, 8, generator=g), i)
    return cache


def same(a: Any, b: Any) -> bool:
    return all(
        torch.equal(x.keys, y.keys) and torch.equal(x.values, y.values) for x, y in zip(a.layers, b.layers, strict=True)
    )


# --- read back --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("name", ["llama", "qwen2_5_vl"])
def test_the_next_turn_is_the_same(name: str, plan: str, tmp_path: Path) -> None:
    text = name == "llama"  # others find positions from what generate hands on, or without padding
    z = make(name, batch=2, ragged=text and plan != PLANS["tiered"])
    words = torch.tensor([[5, 6, 7], [8, 9, 10]])
    with torch.no_grad(), foveate.apply(z.model, plan):
        cache = z.model(**z.inputs).past_key_values
        foveate.save_cache(cache, tmp_path / "cache")
        loaded = foveate.load_cache(tmp_path / "cache")
        assert loaded.get_seq_length() == cache.get_seq_length()
        if plan:
            assert [x.nbytes for x in loaded.layers] == [x.nbytes for x in cache.layers]
        mask = torch.cat([z.inputs["attention_mask"], torch.ones_like(words)], 1)
        for i in range(3):
            more = {"attention_mask": mask[:, : mask.shape[1] - 2 + i]} if text else {}
            a, b = (z.model(input_ids=words[:, i : i + 1], past_key_values=c, **more).logits for c in (cache, loaded))
            assert torch.equal(a, b)


def test_a_cache_without_a_plan(tmp_path: Path) -> None:
    cache = filled()
    foveate.save_cache(cache, tmp_path)
    assert type(cache.layers[0]).__name__ == "DynamicLayer"
    loaded = foveate.load_cache(tmp_path)
    assert same(cache, loaded)
    assert loaded.get_seq_length() == 20


def test_what_layers_share_stays_shared(tmp_path: Path) -> None:
    z = make("llama")
    with torch.no_grad(), foveate.apply(z.model, "minicache"):
        cache = z.model(**z.inputs).past_key_values
        foveate.save_cache(cache, tmp_path)
        loaded = foveate.load_cache(tmp_path)
        token = torch.tensor([[7]])
        a, b = (z.model(input_ids=token, past_key_values=c).logits for c in (cache, loaded))
    assert torch.equal(a, b)
    assert [x.nbytes for x in loaded.layers] == [x.nbytes for x in cache.layers]


def test_half_precision_and_views(tmp_path: Path) -> None:
    cache = filled()
    for layer in cache.layers:
        wide = layer.keys.bfloat16()
        layer.keys, layer.values = wide[:, :, :9], wide[:, :, 3:12]
    foveate.save_cache(cache, tmp_path)
    assert same(cache, foveate.load_cache(tmp_path))
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) < 2 * 2 * 2 * 9 * 8 * 2 + 4000


def test_a_second_save_replaces_the_first(tmp_path: Path) -> None:
    foveate.save_cache(filled(0), tmp_path)
    foveate.save_cache(filled(1), tmp_path)
    assert same(foveate.load_cache(tmp_path), filled(1))
    assert len(list(tmp_path.iterdir())) == 3


def test_kinds_that_cannot_be_saved_say_so(tmp_path: Path) -> None:
    config = make("llama").model.config
    with pytest.raises(UnsupportedCallError, match="cannot be saved"):
        foveate.save_cache(StaticCache(config=config, max_cache_len=8), tmp_path)
    with pytest.raises(UnsupportedCallError, match="int is no cache"):
        foveate.save_cache(3, tmp_path)
    cache = foveate.load_cache(foveate.save_cache(filled(), tmp_path))
    cache.layers[0].recent = lambda: 3
    with pytest.raises(UnsupportedCallError, match="function"):
        foveate.save_cache(cache, tmp_path)


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [0.0, 0.01, 0.3, 0.6, 0.999])
@pytest.mark.parametrize("kind", ["flip", "cut", "longer"])
@pytest.mark.parametrize("which", ["cache.json", "layer-001"])
def test_damage_is_refused(which: str, kind: str, where: float, tmp_path: Path) -> None:
    foveate.save_cache(filled(), tmp_path)
    (path,) = tmp_path.glob(f"{which}*")
    data = bytearray(path.read_bytes())
    at = int(where * len(data))
    if kind == "flip":
        data[at] ^= 4
    path.write_bytes(data[:at] if kind == "cut" else bytes(data) + (b"x" if kind == "longer" else b""))
    with pytest.raises(CacheFileError, match=r"damaged|describes no cache|not the file|holds a cache of version"):
        foveate.load_cache(tmp_path)


def test_what_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheFileError, match="holds no cache"):
        foveate.load_cache(tmp_path)
    foveate.save_cache(filled(), tmp_path)
    next(tmp_path.glob("layer-000*")).unlink()
    with pytest.raises(CacheFileError, match="cannot be read"):
        foveate.load_cache(tmp_path)


def rewritten(folder: Path, change: Any) -> None:
    """Change the index and make its hash fit again."""
    from foveate.stores.saved import _sha

    path = folder / "cache.json"
    index = json.loads(path.read_bytes())
    index.pop("sha256")
    change(index)
    path.write_text(json.dumps(index | {"sha256": _sha(index)}))


def test_another_version_is_refused(tmp_path: Path) -> None:
    foveate.save_cache(filled(), tmp_path)
    rewritten(tmp_path, lambda index: index.update(version=2))
    with pytest.raises(
        CacheFileError, match=r"cache of version 2, written by foveate .*, and this one reads version 1"
    ):
        foveate.load_cache(tmp_path)


@pytest.mark.parametrize(
    "tree",
    [
        {"class": "os:system", "number": 0, "fields": ["true"]},
        {"class": "foveate.errors:InputError", "number": 0, "fields": []},
        {"class": "foveate.stores.held:torch", "number": 0, "state": {"dict": []}},
        {"class": "foveate.stores.held:Nothing", "number": 0, "state": {"dict": []}},
        {"tensor": 99},
        {"again": 99},
        {"dtype": "load"},
        {"surprise": 1},
        {"class": "foveate.stores.stretches:Pack", "number": 0, "saved": 3},
    ],
)
def test_descriptions_can_name_nothing_else(tree: Any, tmp_path: Path) -> None:
    foveate.save_cache(filled(), tmp_path)
    rewritten(tmp_path, lambda index: index["layers"][0].update(tree=tree))
    with pytest.raises(CacheFileError):
        foveate.load_cache(tmp_path)


# --- cut short --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("step", ["mkstemp", "write_bytes", "fsync", "replace"])
def test_a_save_that_fails_leaves_the_one_before(
    step: str, which: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foveate.save_cache(filled(0), tmp_path)
    module: Any = {"mkstemp": tempfile, "write_bytes": Path}.get(step, os)
    plain, calls = getattr(module, step), [0]

    def fail(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == (which * 2 if step == "fsync" else which) + 1:  # folders are synced as well
            raise OSError(28, "No space left on device")
        return plain(*args, **kwargs)

    with monkeypatch.context() as m:
        m.setattr(module, step, fail)
        with pytest.raises(CacheFileError, match="No space left"):
            foveate.save_cache(filled(1), tmp_path)
    assert same(foveate.load_cache(tmp_path), filled(0))
    assert not list(tmp_path.glob(".*"))


def _save_for_ever(folder: str, said: Any) -> None:
    for seed in range(10**6):
        foveate.save_cache(filled(seed, n=2000), folder)
        said.value = seed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
@pytest.mark.parametrize("wait", [0.02, 0.05, 0.09])
def test_a_process_that_is_killed_loses_nothing_it_had_saved(wait: float, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    said = context.Value("i", -1, lock=False)
    child = context.Process(target=_save_for_ever, args=(str(tmp_path), said), daemon=True)
    child.start()
    end = time.monotonic() + 20
    while said.value < 1 and time.monotonic() < end:
        time.sleep(0.002)
    time.sleep(wait)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    done = said.value
    assert done >= 1
    loaded = foveate.load_cache(tmp_path)
    assert any(same(loaded, filled(seed, n=2000)) for seed in (done, done + 1))
    foveate.save_cache(filled(0), tmp_path)
    assert len(list(tmp_path.iterdir())) == 3, "what the killed process left is swept"


def test_a_copy_of_a_tiered_cache_is_saved_alike(tmp_path: Path) -> None:
    z = make("llama")
    with torch.no_grad(), foveate.apply(z.model, PLANS["tiered"]):
        cache = z.model(**z.inputs).past_key_values
    twin = copy.deepcopy(cache)
    foveate.save_cache(twin, tmp_path)
    assert same(cache, foveate.load_cache(tmp_path))
