"""Attention over packed entries as they are: the same as over what they read back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import foveate
from foveate import spec
from foveate.errors import FoveateError
from foveate.stores import bits as packing
from foveate.stores.compact import Coded, Halves
from foveate.stores.compact_layer import CompactLayer
from foveate.stores.folded import Codes
from foveate.tokens import Entries

PLANS = (
    *(f"kivi(bits={b}, value_bits={b}, recent=32)" for b in (1, 1.58, 2, 3, 4, 8)),
    *("kivi(group=16, recent=16)", "vidkv", "vidkv(bits=1, key_bits=1)", "vidkv(bits=2, key_bits=2)"),
    *("vidkv(protect=0.3)", "vidkv(variant='code')", "zipcache(recent=20)", "mikv(recent=4)", "mikv(bits=4)"),
    *("gear(bits=2, recent=32)", "gear(rank=0)", "cskv(window=16)", "cskv(bits=16)", "cskv(keep=0.3, bits=3)"),
    *("think(recent=8)", "mustafar(recent=8)", "mustafar(sparsity=1.0, value_sparsity=1.0)"),
)


def entries(b: int = 2, g: int = 2, n: int = 150, d: int = 16) -> Entries:
    g_ = torch.Generator().manual_seed(n)
    keys, values = torch.randn(2, b, g, n, d, generator=g_)
    queries = torch.randn(b, 3 * g, n, d, generator=g_)
    return Entries(
        keys, values, queries, d**-0.5, received=torch.rand(b, 3 * g, n, generator=g_), visual=torch.rand(b, n) < 0.5
    )


def plain(q: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
    keys, values = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (keys, values))
    return (q @ keys.mT * scaling).softmax(-1) @ values


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("n", [150, 21])
def test_as_what_is_read_back(plan: str, n: int) -> None:
    e = entries(n=n)
    (m,) = spec.Plan.of(plan)
    store = m.pack(e)
    assert isinstance(store, Halves)
    g = torch.Generator().manual_seed(1)
    for _ in range(3):  # with new entries behind
        key, value = torch.randn(2, 2, 2, 1, 16, generator=g)
        q = torch.randn(2, 6, 1, 16, generator=g)
        coded = Coded(store, key, value)
        want = plain(q, *coded.dense(), e.scaling)
        torch.testing.assert_close(store.attend(q, key, value, e.scaling), want, atol=2e-5, rtol=1e-4)
        assert torch.equal(coded.dense()[0][:, :, -1:], key)
        store.append(key, value)


@pytest.mark.parametrize("bits", packing.BITS)
@pytest.mark.parametrize(("tokens", "width"), [(32, 1), (1, 16), (1, 64), (7, 4), (3, 30), (1, 30)])
@pytest.mark.parametrize(("g", "d"), [(4, 16), (2, 30)])
def test_codes_of_any_shape(bits: float, tokens: int, width: int, g: int, d: int) -> None:
    make, blocks = torch.Generator().manual_seed(0), 5
    c = -(-g * d // width) * width
    codes = torch.randint(0, packing.levels(bits), (2, blocks, tokens, c), generator=make)
    scale, low = torch.rand(2, 2, blocks, c // width, generator=make)
    packed = Codes(packing.pack(codes.flatten(2), bits), scale, low, bits, tokens, width)
    if not packed.fits:
        assert c % {1: 8, 1.58: 5, 2: 4, 3: 8, 4: 2}[bits]
        return
    x = codes.unflatten(3, (-1, width)) * scale[:, :, None, :, None] + low[:, :, None, :, None]
    x = x.flatten(3).flatten(1, 2)[..., : g * d].unflatten(2, (g, d)).transpose(1, 2)
    q = torch.randn(2, g, 3, d, generator=make)
    p = torch.rand(2, g, 3, blocks * tokens, generator=make)
    torch.testing.assert_close(packed.scores(q), q @ x.mT, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(packed.mix(p, d), p @ x, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("plan", ["kivi(recent=32)", "snapkv(keep=0.5, window=8) + kivi(bits=4, recent=32)"])
def test_a_model_says_the_same(plan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = foveate.load("tiny")
    ids = torch.randint(5, 100, (2, 120), generator=torch.Generator().manual_seed(0))
    asked = []
    attend = Halves.attend

    def counted(self: Halves, *args: object) -> Tensor:
        asked.append(1)
        return attend(self, *args)  # type: ignore[arg-type]

    def steps() -> Tensor:
        with torch.inference_mode(), foveate.apply(loaded.model, plan):
            cache = loaded.model(input_ids=ids, use_cache=True).past_key_values
            out = [loaded.model(input_ids=ids[:, i : i + 1], past_key_values=cache).logits for i in (0, 1, 2)]
        return torch.cat(out, 1)

    monkeypatch.setattr(Halves, "attend", counted)
    fast = steps()
    assert asked
    monkeypatch.setattr(CompactLayer, "_alone", lambda *_: False)
    asked.clear()
    torch.testing.assert_close(fast, steps(), atol=1e-4, rtol=1e-4)
    assert not asked


def test_without_a_plan_on_the_model_tensors_are_read() -> None:
    loaded = foveate.load("tiny")
    ids = torch.randint(5, 100, (1, 80), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        with foveate.apply(loaded.model, "kivi(bits=8, value_bits=8, recent=32)"):
            cache = loaded.model(input_ids=ids, use_cache=True).past_key_values
        got = loaded.model(input_ids=ids[:, :1], past_key_values=cache).logits
        want = loaded.model(input_ids=torch.cat([ids, ids[:, :1]], 1), use_cache=True).logits[:, -1:]
    assert (got - want).abs().max() < 0.1


def test_every_packing_method_is_among_the_plans() -> None:
    packing_methods = {n for n, c in spec.methods().items() if c.stage == "cache" and hasattr(c, "pack")}
    told = {m.name for plan in PLANS for m in spec.Plan.of(plan)}
    for name in packing_methods - told:  # a newer one: it attends as it reads, or reads
        try:
            store = spec.get(name)().pack(entries())
        except FoveateError:
            continue
        assert not isinstance(store, Halves) or store.attend(*_one(), 0.25).isfinite().all()
    assert told <= packing_methods


def _one() -> tuple[Tensor, Tensor, Tensor]:
    return torch.ones(2, 6, 1, 16), torch.ones(2, 2, 1, 16), torch.ones(2, 2, 1, 16)


def test_the_dense_path_is_taken_where_a_mask_hides_entries() -> None:
    """Rows of different lengths: what is padding for one row is no entry, so the mask decides and entries are read."""
    loaded = foveate.load("tiny")
    ids = torch.randint(5, 100, (2, 90), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :40] = 0
    plan = "kivi(bits=8, value_bits=8, recent=32)"
    with torch.inference_mode(), foveate.apply(loaded.model, plan):
        cache = loaded.model(input_ids=ids, attention_mask=mask, use_cache=True).past_key_values
        more = torch.cat([mask, mask[:, :1] * 0 + 1], 1)
        both = loaded.model(input_ids=ids[:, :1], attention_mask=more, past_key_values=cache).logits
        alone = loaded.model(input_ids=ids[:1, 40:], use_cache=True).past_key_values
        one = loaded.model(input_ids=ids[:1, :1], past_key_values=alone).logits
    assert (both[:1] - one).abs().max() < 0.1
