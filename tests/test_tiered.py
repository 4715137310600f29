"""Entries on three tiers: what is fetched is what matters, attention over it is exact, and nothing is lost."""

from __future__ import annotations

import copy
import gc
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate
from foveate.errors import CacheFileError
from foveate.parts.chunk_bounds import abstracts, bounds, candidates, choose, coarser
from foveate.stores.tiered import DEVICE, DISK, HOST, Tiered, tiers
from foveate.testing.packs import held
from site_kit import generate, logits_of, make


def entries(b: int = 1, g: int = 2, n: int = 100, d: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(b, g, n, d), torch.randn(b, g, n, d)


def store(keys: Tensor, values: Tensor, **more: Any) -> Tiered:
    given: dict[str, Any] = {"size": 8, "fan": 4, "keep": 16, "device": 16, "host": 24, "recent": 4}
    return Tiered(keys, values, **given | more)


# --- what bounds say --------------------------------------------------------------------------------------------------


def test_bounds_hold() -> None:
    keys, q = torch.randn(2, 60, 8), torch.randn(6, 8)
    high, low = abstracts(keys, 7)
    above, below = bounds(q, high, low)
    logits = torch.einsum("grd,gnd->grn", q.view(2, 3, 8), keys).reshape(6, 60)
    for c in range(9):
        part = logits[:, 7 * c : 7 * c + 7]
        assert bool((part <= above[:, c : c + 1] + 1e-5).all())
        assert bool((part >= below[:, c : c + 1] - 1e-5).all())
    for t, u in zip(coarser(high, low, 3), abstracts(keys, 21)):
        assert torch.equal(t, u)


@pytest.mark.parametrize("seed", range(10))
def test_no_chunk_with_one_of_the_largest_is_ruled_out(seed: int) -> None:
    torch.manual_seed(seed)
    values = torch.randn(64)
    parts = values.view(16, 4)
    lower, upper = parts.amin(1) - torch.rand(16), parts.amax(1) + torch.rand(16)
    left = candidates(upper, lower, torch.full((16,), 4), 6)
    assert bool(left[values.topk(6).indices // 4].all())


def test_the_chunk_that_is_asked_for_is_chosen() -> None:
    keys = 0.1 * torch.randn(2, 256, 8)
    keys[:, 130] = 5.0
    fine = abstracts(keys, 8)
    got = choose(torch.ones(4, 8), fine, coarser(*fine, 4), 8, 4, 16)
    assert got.tolist() == [0, 16] or 16 in got.tolist()
    assert 0 in got.tolist()
    assert len(got) <= 3


# --- the store --------------------------------------------------------------------------------------------------------


def test_everything_fetched_is_whole_attention() -> None:
    keys, values = entries(b=2)
    s, q = store(keys[:, :, :-1], values[:, :, :-1], keep=1.0), torch.randn(2, 4, 1, 8)
    out = s.attend(q, keys[:, :, -1:], values[:, :, -1:], 0.3)
    k, v = (t.repeat_interleave(2, 1) for t in (keys, values))
    torch.testing.assert_close(out, (q @ k.mT * 0.3).softmax(-1) @ v, atol=1e-5, rtol=0)


def test_attention_is_exact_over_what_is_fetched() -> None:
    keys, values = entries()
    s, q = store(keys[:, :, :-1], values[:, :, :-1], keep=24), torch.randn(1, 4, 1, 8)
    row = s.rows[0]
    chosen = choose(q[0, :, 0] * 0.3, row.fine, row.coarse, 8, 4, 24)
    at = torch.cat([(chosen[:, None] * 8 + torch.arange(8)).flatten(), torch.arange(8 * len(row.chunks), 100)])
    k, v = (t[:, :, at].repeat_interleave(2, 1) for t in (keys, values))
    out = s.attend(q, keys[:, :, -1:], values[:, :, -1:], 0.3)
    torch.testing.assert_close(out, (q @ k.mT * 0.3).softmax(-1) @ v, atol=1e-5, rtol=0)
    assert sum(s.fetched().values()) == len(chosen) < len(row.chunks)


def test_what_is_asked_for_often_moves_up_and_the_rest_down() -> None:
    keys, values = 0.1 * torch.randn(1, 2, 164, 8), torch.randn(1, 2, 164, 8)
    keys[:, :, 80:88] = 3.0
    s = store(keys, values)
    assert s.rows[0].chunks[10].tier == DISK
    for _ in range(3):
        s.attend(torch.ones(1, 4, 1, 8), keys[:, :, -1:], values[:, :, -1:], 1.0)
    assert s.rows[0].chunks[10].tier == DEVICE
    on = [c.tier for c in s.rows[0].chunks]
    assert on.count(DEVICE) <= 2
    assert on.count(HOST) <= 3
    assert torch.equal(s.read()[0], keys)


def test_bytes_are_those_of_memory_and_files() -> None:
    keys, values = entries(n=400)
    s = store(keys, values, device=0.1, host=0.1)
    assert s.nbytes == held(s) < (keys.nbytes + values.nbytes) / 2
    on = s.tiers()
    assert on["device"] + on["host"] == s.nbytes
    assert s.scratch is not None
    assert on["disk"] == s.disk_bytes == sum(f.stat().st_size for f in s.scratch.path.iterdir())
    assert on["disk"] > (keys.nbytes + values.nbytes) * 0.7


def test_files_go_with_the_store(tmp_path: Path) -> None:
    s = store(*entries(), folder=str(tmp_path))
    twin = copy.deepcopy(s)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    del s
    gc.collect()
    assert torch.isfinite(twin.read()[0]).all()
    del twin
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_chunk_that_was_tampered_with_is_never_read(tmp_path: Path) -> None:
    s = store(*entries(), folder=str(tmp_path))
    (path,) = tmp_path.rglob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CacheFileError, match="no longer holds the cache entries"):
        s.read()
    path.write_bytes(data[:-40])
    with pytest.raises(CacheFileError, match="is damaged"):
        s.read()
    path.unlink()
    with pytest.raises(CacheFileError, match="is missing"):
        s.read()


@pytest.mark.parametrize("step", ["mkstemp", "fsync", "replace"])
def test_a_spill_that_fails_loses_nothing(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, values = entries(n=200)
    s = store(keys, values, folder=str(tmp_path))
    before = s.read()[0]

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(tempfile if step == "mkstemp" else os, step, fail)
        with pytest.raises(CacheFileError, match="No space left"):
            s.append(keys[:, :, :40], values[:, :, :40])
    assert torch.equal(s.read()[0][:, :, :200], before)
    assert s.n == 240
    assert not list(tmp_path.rglob("*.part"))


# --- on a model -------------------------------------------------------------------------------------------------------

PLAN = "leoam(keep={}, chunk=4, coarse=2, recent=2, window=4)"


@pytest.mark.parametrize("name", ["llama", "llava", "qwen2_5_vl"])
def test_fetching_everything_says_what_the_model_says(name: str) -> None:
    z = make(name)
    bare, _ = generate(z)
    out, report = generate(z, PLAN.format(1.0))
    torch.testing.assert_close(logits_of(out), logits_of(bare), atol=2e-5, rtol=0)
    cache = out.past_key_values
    assert all(layer.disk_bytes > 0 for layer in cache.layers)
    assert tiers(cache)["disk"] == sum(layer.disk_bytes for layer in cache.layers)
    assert report.kv_bytes < report.kv_bytes_full


def test_decoding_reads_few_chunks_of_many() -> None:
    z = make("qwen2_5_vl", video=True)
    out, _ = generate(z, PLAN.format(8), max_new_tokens=6)
    for layer in out.past_key_values.layers:
        assert 0 < sum(layer.compact.fetched().values()) <= 5 * 3
        assert len(layer.compact.rows[0].chunks) > 15


@pytest.mark.parametrize("more", [{"batch": 2}, {"batch": 2, "ragged": True}])
def test_rows_do_not_see_each_other(more: dict[str, Any]) -> None:
    both, one = make("llama", **more), make("llama")
    a, _ = generate(both, PLAN.format(1.0 if "ragged" in more else 8))
    b, _ = generate(one, PLAN.format(1.0 if "ragged" in more else 8))
    torch.testing.assert_close(logits_of(a)[:1], logits_of(b), atol=2e-5, rtol=0)


def test_it_goes_on_after_eviction_in_pieces() -> None:
    z = make("qwen2_5_vl")
    with torch.no_grad(), foveate.apply(z.model, "streaming_llm(keep=20) + " + PLAN.format(8), chunk=8):
        out = z.model.generate(**z.inputs, max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
    assert all(layer.held == 23 for layer in out.past_key_values.layers)


# --- few bits away from the device ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "share", "near"), [(8, 0.45, 0.02), (4, 0.3, 0.3), (2, 0.25, 1.2)])
def test_chunks_away_from_the_device_take_few_bits(bits: int, share: float, near: float) -> None:
    keys, values = entries(n=800, d=32)
    more = {"size": 32, "device": 64, "host": 96}
    whole, few = store(keys, values, **more), store(keys, values, **more, bits=bits)
    assert few.nbytes == held(few)
    before, after = whole.tiers(), few.tiers()
    assert after["device"] == before["device"]
    assert 0 < after["host"] < share * before["host"]
    assert after["disk"] < share * before["disk"]
    for mine, theirs in zip(few.read(), (keys, values)):
        assert 0 < float((mine - theirs).abs().max()) < near
    exact = [c for c in few.rows[0].chunks if c.tier == DEVICE]
    assert all(c.codes is None for c in exact)


def test_coded_chunks_move_up_and_down_and_are_read_alike() -> None:
    keys, values = 0.1 * torch.randn(1, 2, 164, 8), torch.randn(1, 2, 164, 8)
    keys[:, :, 80:88] = 3.0
    s = store(keys, values, bits=4)
    lossy = s.read()
    for step in range(4):
        q = torch.ones(1, 4, 1, 8) if step < 3 else -torch.ones(1, 4, 1, 8)
        s.attend(q, keys[:, :, -1:], values[:, :, -1:], 1.0)
        if step == 2:
            assert s.rows[0].chunks[10].tier == DEVICE
            for mine, theirs in zip(s.read(), lossy):  # a chunk that came back is what its code says
                at = slice(80, 88)
                torch.testing.assert_close(mine[:, :, at], theirs[:, :, at], atol=1e-6, rtol=0)
    assert s.nbytes == held(s)
    s.crop(60)
    assert s.n == 60
    s.select(torch.tensor([0, 0]))
    assert s.read()[0].shape == (2, 2, 60, 8)


def test_a_saved_cache_of_coded_tiers_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    z = make("llama")
    plan = "leoam(keep=6, chunk=4, coarse=2, recent=2, window=4, device=4, host=4, bits=4)"
    more = torch.tensor([[5]])
    with torch.no_grad(), foveate.apply(z.model, plan):
        cache = z.model(**z.inputs).past_key_values
        for token in (3, 4):
            z.model(input_ids=torch.tensor([[token]]), past_key_values=cache)
        foveate.save_cache(cache, tmp_path / "cache")
        loaded = foveate.load_cache(tmp_path / "cache")
        want = z.model(input_ids=more, past_key_values=cache).logits
        assert torch.equal(z.model(input_ids=more, past_key_values=loaded).logits, want)
