"""Cache methods that decide once all layers were read: budgets, shared layers, a prompt that is read again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foveate
from foveate import Entries
from foveate.cache.kvzip import KVzip
from foveate.cache.minicache import MiniCache
from foveate.cache.vlcache import VLCache
from foveate.errors import PlanError, UnsupportedCallError
from foveate.parts.replay import recalled
from foveate.stores.shared import Pair, slerp
from foveate.testing.packs import held
from site_kit import check_maskout, check_same, generate, make


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- two layers in one store ------------------------------------------------------------------------------------------


def test_the_arc_between_two_directions() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    torch.testing.assert_close(slerp(a, b, 0.5), torch.full((2,), 0.5**0.5))
    torch.testing.assert_close(slerp(a, b, 1 / 3), torch.tensor([3**0.5 / 2, 0.5]))
    assert torch.equal(slerp(a, a, 0.6), a)
    assert slerp(a * 0, a * 0, 0.6).tolist() == [0, 0]


def pair(n: int = 40, retain: float = 0.1, step: int = 8, noise: float = 0.1) -> tuple[Pair, list[Tensor]]:
    x = [random(3, 2, n, 16, seed=s) for s in (0, 1)]
    x += [y * 3 + noise * random(3, 2, n, 16, seed=7) for y in x]
    return Pair(((x[0], x[1]), (x[2], x[3])), 0.6, retain, step), x


def test_lengths_come_back_and_distinct_tokens_stay() -> None:
    both, x = pair()
    for side in (0, 1):
        for got, want in zip(both.half(side).read(), x[2 * side : 2 * side + 2]):
            torch.testing.assert_close(got.norm(dim=-1), want.norm(dim=-1))
            same = (got == want).all(-1).all(1)
            assert (same.sum(1) == 4).all()
            assert (got - want).norm() < 0.1 * want.norm()
    first, second = both.half(0), both.half(1)
    assert first.nbytes + second.nbytes == held(both)
    full = sum(t.nbytes for t in x)
    assert held(both) < 0.7 * full


def test_later_tokens_are_merged_once_both_layers_have_them() -> None:
    both, x = pair()
    halves = [both.half(0), both.half(1)]
    for t in range(8):
        for i, half in enumerate(halves):
            half.append(x[2 * i][:, :, t : t + 1], x[2 * i + 1][:, :, t : t + 1])
            assert half.n == 41 + t
    assert both.length == 48
    assert all(tail[0].shape[2] == 0 for tail in both.tails)
    assert halves[0].nbytes + halves[1].nbytes == held(both)
    torch.testing.assert_close(halves[1].read()[0][:, :, 40:].norm(dim=-1), x[2][:, :, :8].norm(dim=-1))


def test_layers_are_changed_one_after_the_other() -> None:
    both, _ = pair()
    halves, rows = [both.half(0), both.half(1)], torch.tensor([2, 0, 0])
    before = [h.read() for h in halves]
    halves[0].select(rows)
    assert torch.equal(halves[0].read()[0], before[0][0][rows])
    assert torch.equal(halves[1].read()[0], before[1][0])
    halves[1].select(rows)
    assert both.rows == [None, None]
    assert torch.equal(halves[1].read()[1], before[1][1][rows])
    halves[0].crop(10)
    assert torch.equal(halves[1].read()[1], before[1][1][rows])
    halves[1].crop(12)
    assert both.length == 12
    assert torch.equal(halves[0].read()[0], before[0][0][rows][:, :, :10])
    assert torch.equal(halves[1].read()[0], before[1][0][rows][:, :, :12])
    for h in halves:
        h.crop(0)
    halves[0].append(*before[0])
    assert torch.equal(halves[0].read()[0], before[0][0])
    assert halves[1].n == 0


def test_layers_that_say_the_same_lose_nothing() -> None:
    e = [Entries(random(2, 2, 30, 8) * (i + 1), random(2, 2, 30, 8, seed=1), layer=i, layers=4) for i in range(4)]
    made = MiniCache(retain=0.0).settle(e)
    assert made[:2] == [None, None]
    for one, store in zip(e[2:], made[2:]):
        assert store is not None
        torch.testing.assert_close(store.read()[0], one.keys)
    assert [s is not None for s in MiniCache(start=0.0).settle(e[:3])] == [True, True, False]


@pytest.mark.parametrize("more", [{}, {"batch": 2, "ragged": True}])
@pytest.mark.parametrize("name", ["llama", "llava"])
def test_minicache_in_a_model(name: str, more: dict[str, Any]) -> None:
    z = make(name, **more)
    out, report = generate(z, "minicache(retain=0.1, step=2)", max_new_tokens=6, min_new_tokens=6)
    layers = out.past_key_values.layers
    half = len(layers) // 2
    shared = layers[half].compact.pair
    assert shared is layers[half + 1].compact.pair
    assert shared.length == layers[half].held - layers[half].held % 2 + z.inputs["input_ids"].shape[1] % 2
    full = 2 * 4 * layers[0].keys.numel()
    assert layers[half].nbytes + layers[half + 1].nbytes < 0.85 * 2 * full
    assert report.kv_bytes < report.kv_bytes_full
    bare, _ = generate(z, max_new_tokens=6, min_new_tokens=6)
    assert out.sequences.shape == bare.sequences.shape


def test_all_tokens_retained_is_the_bare_model() -> None:
    check_same(make("llama"), "minicache(retain=1.0)")


def test_minicache_before_and_after_eviction() -> None:
    z = make("llama")
    out, _ = generate(z, "minicache + snapkv(keep=0.5, window=4)")
    assert out.past_key_values.layers[-1].held < z.inputs["input_ids"].shape[1]
    generate(z, "minicache", num_beams=2, output_logits=False)
    generate(z, "minicache(step=2)", prompt_lookup_num_tokens=2)
    with pytest.raises(UnsupportedCallError, match="hold different tokens"):
        generate(z, "snapkv(keep=0.5, window=4) + minicache")


# --- budgets of layers ------------------------------------------------------------------------------------------------


def test_layers_with_denser_attention_keep_more() -> None:
    k = random(1, 2, 40, 8)
    asks = [torch.zeros(1, 4, 40, 8), 30 * k[:, :, 5:6].repeat(1, 2, 40, 1)]
    method = VLCache(keep=0.25, part=0.5)
    wide, narrow = method.settle([method.weigh(Entries(k, k, q, 1.0, layer=i, layers=2)) for i, q in enumerate(asks)])
    assert wide.lengths.tolist()[0] > 15
    assert narrow.lengths.tolist()[0] < 5
    assert wide.m + narrow.m <= 20
    assert 5 in narrow.keep[0]


def test_only_words_after_the_picture_ask() -> None:
    k = torch.nn.functional.normalize(random(1, 1, 20, 8), dim=-1)
    q = torch.zeros(1, 1, 20, 8)
    visual = torch.zeros(1, 20, dtype=torch.bool)
    visual[:, 4:16] = True
    q[:, :, 16:] = 20 * k[:, :, 6:7]
    q[:, :, :16] = 20 * k[:, :, 2:3]
    assert VLCache().asking(Entries(k, k, q, visual=visual)).nonzero()[:, 1].tolist() == [16, 17, 18, 19]
    assert VLCache(keep=1, recent=0.0).reduce(Entries(k, k, q, 1.0, visual=visual)).keep.tolist() == [[6]]
    assert VLCache(last=3).asking(Entries(k, k, q)).sum() == 3


@pytest.mark.parametrize("more", [{}, {"batch": 2, "ragged": True}])
@pytest.mark.parametrize("name", ["llava", "qwen3"])
def test_vlcache_is_masking(name: str, more: dict[str, Any]) -> None:
    z = make(name, **more)
    check_maskout(z, "vlcache(keep=0.4)")
    check_same(z, "vlcache(keep=1.0)")


# --- a prompt that is read again --------------------------------------------------------------------------------------


def test_the_repetition_is_a_second_prefill_behind_the_first() -> None:
    z = make("llama")
    ids = z.inputs["input_ids"]
    n, caught = ids.shape[1], {}

    class Spy(KVzip):
        name, stage, card = KVzip.name, KVzip.stage, KVzip.card

        def settle(self, layers: Any) -> Any:
            caught.update({e.layer: e for e in layers})
            return super().settle(layers)

    with torch.no_grad(), foveate.apply(z.model, [Spy(keep=1.0, stretch=n, sinks=0)]):
        run = z.model(input_ids=ids, use_cache=True)
    assert run.past_key_values.get_seq_length() == n
    seen: dict[int, Any] = {}
    hooks = [
        layer.self_attn.q_proj.register_forward_hook(lambda m, a, out, i=i: seen.__setitem__(i, out))
        for i, layer in enumerate(z.model.model.layers)
    ]
    with torch.no_grad():
        twice = z.model(input_ids=torch.cat([ids, ids], 1), use_cache=True)
    for h in hooks:
        h.remove()
    rotary = z.model.model.rotary_emb
    for i, layer in enumerate(twice.past_key_values.layers):
        cos, sin = rotary(layer.keys, torch.arange(2 * n)[None])
        q = seen[i].view(1, 2 * n, -1, layer.keys.shape[3]).transpose(1, 2)[:, :, n:]
        half = torch.cat([-q[..., q.shape[3] // 2 :], q[..., : q.shape[3] // 2]], -1)
        q = q * cos[:, None, n:] + half * sin[:, None, n:]
        k = layer.keys
        want = recalled(q, k[:, :, n:], k[:, :, :n], q.shape[3] ** -0.5)
        torch.testing.assert_close(caught[i].recalled, want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("more", [{}, {"batch": 2, "ragged": True}])
@pytest.mark.parametrize("name", ["llama", "llava", "qwen2_vl", "qwen3_vl"])
def test_kvzip_is_masking(name: str, more: dict[str, Any]) -> None:
    z = make(name, **more)
    check_maskout(z, "kvzip(keep=0.5, stretch=7, ask=(5, 6))")
    report = check_same(z, "kvzip(keep=1.0)")
    assert report.kv_bytes == report.kv_bytes_full


def test_a_row_is_repeated_as_if_it_were_alone() -> None:
    z = make("llama", batch=2, ragged=True)
    out, _ = generate(z, "kvzip(keep=0.5, heads='apart', stretch=6)", max_new_tokens=1)
    b = int(z.inputs["attention_mask"].sum(1).argmin())
    pads = int((z.inputs["attention_mask"][b] == 0).sum())
    assert pads
    alone = make("llama", batch=2, ragged=True)
    alone.inputs = {k: v[b : b + 1, pads:] for k, v in z.inputs.items()}
    m = out.past_key_values.layers[0].held
    one, _ = generate(alone, f"kvzip(keep={m}, heads='apart', stretch={6})", max_new_tokens=1)
    for both, single in zip(out.past_key_values.layers, one.past_key_values.layers):
        kept = [set(w[w >= 0].tolist()) for w in both.where[b]]
        assert [set((w + pads).tolist()) for w in single.where[0]] == kept


def test_kvzip_needs_the_prompt_as_it_was() -> None:
    z = make("llama")
    with pytest.raises(UnsupportedCallError, match="before other cache methods"):
        generate(z, "snapkv(keep=0.5, window=4) + kvzip")
    out, _ = generate(z, "kvzip(keep=0.5, heads='apart') + kivi(group=2, recent=2)")
    assert out.past_key_values.layers[0].compact is not None


@pytest.mark.filterwarnings("ignore:sliding-window layers keep their window")
def test_sliding_windows_are_as_they_were() -> None:
    z = make("gemma3")
    bare, _ = generate(z)
    out, _ = generate(z, "kvzip(keep=1.0, stretch=9)")
    assert torch.equal(out.sequences, bare.sequences)
    for a, b in zip(out.past_key_values.layers, bare.past_key_values.layers):
        torch.testing.assert_close(a.keys, b.keys)


def test_in_pieces_they_wait_for_the_last_one() -> None:
    z = make("llama")
    with pytest.raises(PlanError, match="twice"), foveate.apply(z.model, "kvzip(keep=0.5)", chunk=8):
        pass
    with foveate.apply(z.model, "minicache", chunk=8), torch.no_grad():
        out = z.model.generate(**z.inputs, max_new_tokens=2, do_sample=False, return_dict_in_generate=True)
    whole, _ = generate(z, "minicache", max_new_tokens=2)
    for a, b in zip(out.past_key_values.layers, whole.past_key_values.layers):
        torch.testing.assert_close(a.keys, b.keys, atol=1e-5, rtol=1e-4)
        assert a.nbytes == b.nbytes
