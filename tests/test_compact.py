"""Compressed caches: what is packed comes back, takes the bytes it says, and works in a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import foveate
from foveate import Entries
from foveate.cache.actqkv import ActQKV
from foveate.cache.cskv import CSKV
from foveate.cache.gear import GEAR
from foveate.cache.kivi import KIVI
from foveate.cache.mikv import MiKV
from foveate.cache.mustafar import Mustafar
from foveate.cache.think import ThinK
from foveate.cache.vidkv import VidKV
from foveate.errors import InputError, OptionError, UnsupportedCallError
from foveate.sites.compacting import compact
from foveate.stores.bits import BITS, levels, pack, size, unpack
from foveate.stores.compact_layer import CompactLayer
from foveate.stores.held import HeldLayer
from foveate.stores.packed import Grid, Signs, Tile, per_channel, per_token
from foveate.stores.spectral import spectrum, unspectrum
from foveate.stores.stream import Coder, Stream
from foveate.testing.packs import held
from site_kit import generate, logits_of, make

B, G, N, D = 2, 2, 1100, 64


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def entries(n: int = N, dtype: torch.dtype = torch.bfloat16) -> Entries:
    keys, values = (random(B, G, n, D, seed=s).to(dtype) for s in (1, 2))
    queries, received = random(B, 2 * G, n, D, seed=3).to(dtype), random(B, 2 * G, n, seed=4).abs()
    return Entries(keys, values, queries, D**-0.5, received=received)


# --- bits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("n", [0, 1, 4, 5, 7, 8, 9, 640, 1001])
def test_packed_numbers_come_back(bits: float, n: int) -> None:
    codes = torch.randint(levels(bits), (3, 2, n), generator=torch.Generator().manual_seed(n))
    data = pack(codes, bits)
    assert data.dtype == torch.uint8
    assert data.shape == (3, 2, size(n, bits))
    assert torch.equal(unpack(data, bits, n).long(), codes)


def test_how_many_bytes() -> None:
    assert [size(40, bits) for bits in BITS] == [5, 8, 10, 15, 20, 40]


# --- coders -------------------------------------------------------------------------------------------------------


def coded(coder: Coder, x: Tensor) -> Tensor:
    return coder.decode(coder.encode(x), x.shape)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rounding_is_at_most_half_a_step(bits: int) -> None:
    x = random(B, G, 64, D)
    for coder, dim in ((per_channel(bits, 32), 2), (per_token(bits, 32), 3)):
        parts = x.unflatten(dim, (-1, 32))
        step = (parts.amax(dim + 1, keepdim=True) - parts.amin(dim + 1, keepdim=True)) / (2**bits - 1)
        assert ((coded(coder, x).unflatten(dim, (-1, 32)) - parts).abs() <= step / 2 + 1e-5).all()


def test_one_bit_and_three_values_by_hand() -> None:
    x = torch.tensor([4.0, -1.0, 2.0, -1.0]).view(1, 1, 4, 1)
    assert coded(Signs(1, Tile(4, 1)), x).flatten().tolist() == [2, -2, 2, -2]
    assert coded(Signs(1.58, Tile(4, 1)), x).flatten().tolist() == [2, 0, 2, 0]


def test_what_the_bits_hold_comes_back_exactly() -> None:
    x = torch.randint(4, (B, G, 32, D), generator=torch.Generator().manual_seed(0)).float()
    x[:, :, 0], x[:, :, 1] = 0, 3
    assert torch.equal(coded(per_channel(2, 32), x), x)
    assert torch.equal(coded(Grid(2, Tile(32, 1)), x * 0 + 5), x * 0 + 5)


@pytest.mark.parametrize("e", [1, 2, 3, 8, 17])
def test_a_spectrum_is_as_many_numbers(e: int) -> None:
    x = random(3, e)
    assert spectrum(x).shape == x.shape
    for whole in (False, True):
        torch.testing.assert_close(unspectrum(spectrum(x, whole), whole), x)


def test_sinks_and_the_newest_stay_whole() -> None:
    x = random(1, 1, 100, 8)
    s = Stream(x, per_channel(2, 32), step=32, hold=16, sinks=4)
    assert (s.sink.shape[2], s.coded, s.recent.shape[2]) == (4, 64, 32)
    out = s.read()
    assert torch.equal(out[:, :, :4], x[:, :, :4])
    assert torch.equal(out[:, :, 68:], x[:, :, 68:])
    s.append(x[:, :, :16])
    assert (s.coded, s.recent.shape[2]) == (96, 16)
    s.crop(3)
    s.append(x[:, :, 3:])
    assert torch.equal(s.read()[:, :, :4], x[:, :, :4])


# --- bytes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 1.58, 2, 3, 4, 8])
def test_bytes_are_those_asked_for(bits: float) -> None:
    """Codes at their width, a scale and (from two bits on) a minimum of two bytes a group, what is whole at two."""
    e = entries()
    store = KIVI(bits=bits, value_bits=bits, group=32, recent=128).pack(e)
    numbers = B * G * D
    old_keys, old_values = N // 128 * 128, N - 128
    old, whole = (old_keys + old_values) * numbers, (2 * N - old_keys - old_values) * numbers
    want = old * bits / 8 + old / 32 * 2 * (1 if bits < 2 else 2) + whole * 2
    assert store.nbytes == held(store)
    assert abs(store.nbytes / want - 1) < 0.02


def test_bytes_of_the_others() -> None:
    e = entries()
    n, full = N // 32 * 32, B * G * D * 2
    vid = VidKV(bits=1.58).pack(e).nbytes
    scales = n / 32 * (1 + 1.5) * full
    assert abs(vid / (n * (1.5 + 1.58) / 16 * full + scales + 2 * (N - n) * full) - 1) < 0.02
    assert abs(ThinK(keep=0.5, recent=0).pack(e).nbytes / (1.5 * N * full) - 1) < 0.02
    must = Mustafar(sparsity=0.5, value_sparsity=0.75, recent=1).pack(e).nbytes
    assert abs(must / (N * (0.75 + 2 / 16) * full) - 1) < 0.02
    kept = MiKV(keep=0.25, low_bits=2, recent=0).pack(e).nbytes
    assert abs(kept / (2 * N * (0.25 + 0.75 * (2 / 16 + 2 / 64)) * full) - 1) < 0.02


# --- methods ------------------------------------------------------------------------------------------------------


def error(method: object, e: Entries) -> float:
    keys, values = method.pack(e).read()  # type: ignore[attr-defined]
    far = (keys - e.keys).float().square().mean() + (values - e.values).float().square().mean()
    return float(far)


def test_more_bits_are_closer() -> None:
    e = entries(512, torch.float32)
    for method, bits in ((KIVI, (2, 3, 4, 8)), (GEAR, (2, 3, 4, 8))):
        far = [error(method(bits=b, **({"value_bits": b} if method is KIVI else {})), e) for b in bits]
        assert far == sorted(far, reverse=True)
        assert far[-1] < 1e-4
    far = [error(VidKV(bits=b, key_bits=k), e) for b, k in ((1, 1), (1.58, 1.5), (2, 2))]
    assert far == sorted(far, reverse=True)


def test_the_levels_of_gear_as_published() -> None:
    e = entries(512, torch.float32)
    far = [error(GEAR(bits=b, variant="code", rank=0), e) for b in (2, 3, 4, 8)]
    assert far == sorted(far, reverse=True)  # 3, 8, 15 and 63 steps
    assert error(GEAR(bits=8, rank=0), e) < far[-1]


def test_each_part_of_gear_brings_it_closer() -> None:
    e = entries(512, torch.float32)
    e.keys[..., 3, :] += 30 * random(B, G, D)  # an outlier of each channel
    far = [error(GEAR(bits=2, sparsity=s, rank=r), e) for s, r in ((0.0, 0), (0.02, 0), (0.02, 4))]
    assert far == sorted(far, reverse=True)


def test_mikv_keeps_what_is_attended_to() -> None:
    e = entries(64, torch.float32)
    assert e.received is not None
    e.received.copy_(torch.arange(64.0).flip(0).expand_as(e.received))
    keys, values = MiKV(keep=16, recent=4).pack(e).read()
    for got, want in ((keys, e.keys), (values, e.values)):
        same = (got == want).all(-1)
        assert same[:, :, :12].all()
        assert same[:, :, -4:].all()
        assert not same[:, :, 12:-4].any()


def test_mikv_balances_wide_channels() -> None:
    e = entries(64, torch.float32)
    assert e.queries is not None
    e.queries[..., 0] /= 1000
    e.keys[..., 0] *= 1000  # one channel would take the whole range of a token
    keys = MiKV(keep=1, recent=0, low_bits=4).pack(e).read()[0]
    assert (keys - e.keys)[..., 1:].square().mean() < 0.05 * e.keys[..., 1:].square().mean()


def test_think_drops_channels_nobody_asks_for() -> None:
    e = entries(64, torch.float32)
    assert e.queries is not None
    e.queries[..., ::2] = 0
    keys, values = ThinK(keep=0.5, recent=8).pack(e).read()
    assert torch.equal(values, e.values)
    assert torch.equal(keys[..., 1::2], e.keys[..., 1::2])
    assert not keys[:, :, :-8, ::2].any()
    assert torch.equal(keys[:, :, -8:], e.keys[:, :, -8:])


def test_vidkv_protects_what_the_prompt_asks_for() -> None:
    e = entries(96, torch.float32)
    method = VidKV(bits=1, protect=0.25)
    mask = method.protected(method.relevance(e, 96))
    assert mask.sum(1).tolist() == [24, 24]
    far, plain = (m.pack(e).read()[1] - e.values for m in (method, VidKV(bits=1)))
    chosen = mask[:, None].expand(-1, G, -1)
    assert far[chosen].square().mean() < plain[chosen].square().mean() / 2


def test_cskv_is_exact_in_a_subspace_and_reads_weights(tmp_path: Path) -> None:
    e = entries(64, torch.float32)
    base = random(8, G * D)
    x = (random(B, 64, 8) @ base).unflatten(2, (G, D)).transpose(1, 2)
    low = replace(e, keys=x, values=x)
    keys, _ = CSKV(keep=8, bits=16).pack(low).read()
    torch.testing.assert_close(keys, x, atol=1e-3, rtol=1e-3)
    up = torch.linalg.qr(base.mT).Q.mT.contiguous()
    names = [f"0.{side}.{name}" for side in ("keys", "values") for name in ("down", "up")]
    save_file(dict(zip(names, (t.clone() for t in (up.mT.contiguous(), up, up.mT.contiguous(), up)))), tmp_path / "w")
    given = CSKV(bits=16, weights=str(tmp_path / "w")).pack(low)
    torch.testing.assert_close(given.read()[0], x, atol=1e-3, rtol=1e-3)
    assert given.nbytes == 2 * B * 64 * 8 * 4
    with pytest.raises(InputError, match="holds no tensor"):
        CSKV(bits=16, weights=str(tmp_path / "w")).pack(replace(low, layer=1))
    with pytest.raises(InputError, match="channels"):
        CSKV(bits=16, weights=str(tmp_path / "w")).pack(replace(low, keys=x[:, :1]))


def test_actqkv_keeps_the_blocks_that_unusual_queries_ask_for() -> None:
    e = entries(96, torch.float32)
    assert e.queries is not None
    e.queries[:] = 1.0
    target = random(B, G, D, seed=9)
    e.queries[:, :, -2] = 20 * target.repeat_interleave(2, 1)
    e.keys[:, :, 32:48] = target[:, :, None]
    kept = ActQKV(keep=24, window=8, block=16).reduce(e).keep
    assert kept[:, :16].tolist() == [list(range(32, 48))] * (B * G)
    assert kept[:, 16:].tolist() == [list(range(88, 96))] * (B * G)


def test_a_window_that_is_no_number_of_groups_is_refused() -> None:
    with pytest.raises(OptionError, match="multiple"):
        KIVI(group=32, recent=48)


# --- the layer ----------------------------------------------------------------------------------------------------


class Cache:
    def __init__(self, layer: HeldLayer) -> None:
        self.layers = [layer]


def layer(n: int = 40, window: int | None = None) -> tuple[CompactLayer, Tensor]:
    plain, x = HeldLayer(window), random(3, 2, n, 16)
    plain.update(x, x)
    return compact(Cache(plain), 0, KIVI(bits=8, value_bits=8, group=8, recent=8), Entries(x, x)), x


def test_a_layer_grows_and_forgets() -> None:
    it, x = layer()
    assert it.nbytes == held(it.compact) < 2 * x.nbytes
    new = random(3, 2, 5, 16, seed=1)
    keys, _ = it.update(new, new)
    assert torch.equal(keys[:, :, 40:], new)
    assert (keys - torch.cat([x, new], 2)).abs().max() < 0.02
    assert it.get_seq_length() == it.held == it.compact.n == 45  # type: ignore[union-attr]
    assert it.get_mask_sizes(1) == (46, 0)
    it.crop(0)
    it.crop(-15)
    assert it.get_seq_length() == it.held == it.compact.n == 30  # type: ignore[union-attr]
    assert (it.values - x[:, :, :30]).abs().max() < 0.02
    with pytest.raises(UnsupportedCallError, match="negative"):
        it.crop(3)


def test_a_layer_follows_its_rows() -> None:
    it, x = layer()
    it.batch_repeat_interleave(2)
    assert (it.keys - x.repeat_interleave(2, 0)).abs().max() < 0.02
    it.batch_select_indices(torch.tensor([4, 0]))
    assert (it.keys - x[[2, 0]]).abs().max() < 0.02
    it.reorder_cache(torch.tensor([1, 1]))
    assert (it.keys - x[[0, 0]]).abs().max() < 0.02
    assert it.where is not None
    assert it.where.shape == (2, 1, 40)
    assert it.entries == 2 * 2 * 40


def test_a_layer_that_is_reset_starts_anew() -> None:
    it, _ = layer()
    it.reset()
    assert (it.get_seq_length(), it.held, it.nbytes) == (0, 0, 0)
    x = random(1, 2, 6, 16)
    keys, _ = it.update(x, x)
    assert torch.equal(keys, x)
    assert compact(Cache(it), 0, KIVI(group=2, recent=2), Entries(x, x)).compact is not None


def test_a_packed_layer_can_be_cut() -> None:
    it, x = layer()
    keep = torch.arange(40).expand(3, 40) % 4 == 0
    it.cut(keep)
    assert it.held == it.compact.n == 10  # type: ignore[union-attr]
    assert (it.keys - x[:, :, ::4]).abs().max() < 0.03
    assert it.where is not None
    assert it.where[0, 0].tolist() == list(range(0, 40, 4))


def test_a_sliding_window_is_refused() -> None:
    with pytest.raises(UnsupportedCallError, match="sliding"):
        layer(window=64)


# --- in a model ---------------------------------------------------------------------------------------------------

PLANS = ["kivi(bits=8, value_bits=8, group=8, recent=8)", "gear(bits=8, group=8, rank=1, recent=8)"]


@pytest.mark.parametrize("name", ["llama", "llava", "qwen2_5_vl"])
@pytest.mark.parametrize("plan", PLANS)
def test_eight_bits_are_nearly_the_bare_model(name: str, plan: str) -> None:
    z = make(name)
    inputs = {"max_new_tokens": 12}
    bare, _ = generate(z, **inputs)
    out, report = generate(z, plan, **inputs)
    layers = out.past_key_values.layers
    assert all(isinstance(each, CompactLayer) for each in layers)
    assert layers[0].get_seq_length() == bare.past_key_values.layers[0].get_seq_length()
    assert report.kv_bytes < report.kv_bytes_full
    first = (logits_of(out)[:, :2] - logits_of(bare)[:, :2]).abs().max()
    assert first < 0.05 * logits_of(bare).abs().max()


@pytest.mark.parametrize("name", ["llama", "llava", "qwen2_5_vl"])
@pytest.mark.parametrize(
    "method", [m for m, c in foveate.methods().items() if hasattr(c, "pack") and not hasattr(c, "settle")]
)
def test_every_packing_method_runs(name: str, method: str) -> None:
    z = make(name, batch=2, ragged=True)
    out, report = generate(z, method, max_new_tokens=6)
    assert torch.isfinite(logits_of(out)).all()
    layers = out.past_key_values.layers
    assert [each.nbytes for each in layers] == [held(each.compact) for each in layers]
    beams, _ = generate(z, method, max_new_tokens=6, num_beams=3)
    assert beams.sequences.shape[0] == 2
    drafted, _ = generate(make(name), method, max_new_tokens=8, prompt_lookup_num_tokens=3)
    assert drafted.sequences.shape[0] == 1
    assert report.prefills == 1


@pytest.mark.parametrize("name", ["llama", "llava", "qwen2_5_vl"])
def test_evicted_then_packed(name: str) -> None:
    z = make(name)
    _, full = generate(z, "snapkv(keep=1.0)", max_new_tokens=1)
    out, report = generate(z, "snapkv(keep=0.3) + vidkv(bits=1.58, group=4)", max_new_tokens=6)
    layers, n = out.past_key_values.layers, z.inputs["input_ids"].shape[1]
    assert all(isinstance(each, CompactLayer) for each in layers)
    assert layers[0].where.shape[-1] == int(0.3 * n) + 5
    assert layers[0].get_seq_length() == n + 5
    assert report.kv_bytes < 0.3 * full.kv_bytes
    assert torch.isfinite(logits_of(out)).all()


def test_packed_then_evicted() -> None:
    z = make("llama")
    out, _ = generate(z, "kivi(bits=8, value_bits=8, group=8, recent=8) + snapkv(keep=0.5, window=4)")
    assert all(isinstance(each, CompactLayer) for each in out.past_key_values.layers)
    assert torch.isfinite(logits_of(out)).all()
