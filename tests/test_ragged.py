"""Heads that hold different numbers of entries: what is dropped is freed, and what is left is attended to exactly."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

import foveate
from foveate.method import method, option
from foveate.reduction import Reduction
from foveate.stores.held import HeldLayer
from foveate.stores.ragged import RaggedLayer
from foveate.testing import FAMILIES
from foveate.testing.maskout import MaskOut, visible
from foveate.tokens import Entries
from site_kit import KINDS, cases, check_maskout, check_same, generate, logits_of, make, new_tokens, two_turns
from test_conversations import next_turn

VLM, LM = FAMILIES["vlm"], FAMILIES["lm"]
quiet = pytest.mark.filterwarnings("ignore:sliding-window layers keep their window")


@method(needs=())
class Uneven:
    """Keeps a random number of entries in each head, the last one always."""

    stage: ClassVar[str] = "cache"
    name: ClassVar[str] = "uneven"
    share: float = option(0.5, None, "how likely an entry stays")

    def reduce(self, entries: Entries) -> Reduction:
        b, g, n = entries.keys.shape[:3]
        draw = torch.rand(b * g, n, generator=torch.Generator().manual_seed(entries.layer))
        threshold = self.share * torch.linspace(0.5, 1.5, b * g)[:, None] if self.share < 1 else torch.ones(b * g, 1)
        keep = draw <= threshold
        keep[:, -1] = True
        if entries.valid is not None:
            keep &= entries.valid.repeat_interleave(g, 0)
        return Reduction.from_mask(keep)


@method(needs=())
class Folded(Uneven):
    """The same, and what goes is averaged into the first entry that stays."""

    stage: ClassVar[str] = "cache"
    name: ClassVar[str] = "folded"

    def reduce(self, entries: Entries) -> Reduction:
        r = super().reduce(entries)
        assign = r.assign.clamp(min=0)
        number = torch.zeros(r.b, r.m).scatter_add(1, assign, torch.ones(r.b, r.n))
        return Reduction(r.keep, assign, 1 / number.gather(1, assign))


def layers_of(out: Any) -> list[RaggedLayer]:
    """The layers of a run's cache that have no sliding window; all of them are ragged."""
    made = [layer for layer in out.past_key_values.layers if layer.window is None]
    assert all(isinstance(layer, RaggedLayer) and layer.ragged for layer in made)
    return made


# --- against masks ------------------------------------------------------------------------------------------------


@quiet
@pytest.mark.parametrize("attn", KINDS)
@pytest.mark.parametrize(("name", "more"), cases("vlm", "lm"))
def test_evicting_head_by_head_is_masking(name: str, more: dict[str, Any], attn: str) -> None:
    z = make(name, attn, **more)
    check_maskout(z, Uneven())  # type: ignore[arg-type]
    if name in VLM:
        plan = [*foveate.spec.Plan.of("divprune(keep=0.5) + fastv(layer=1, keep=0.5)"), Uneven()]
        check_maskout(z, plan)  # type: ignore[arg-type]


@quiet
@pytest.mark.parametrize(("name", "more"), cases("lm"))
def test_keeping_all_is_the_bare_model(name: str, more: dict[str, Any]) -> None:
    check_same(make(name, **more), Uneven(1.0))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_as_near_as_plain_attention(dtype: torch.dtype) -> None:
    z, exact = make("qwen2", dtype=dtype), make("qwen2")
    exact.model.load_state_dict({k: v.float() for k, v in z.model.state_dict().items()})
    got, _ = generate(z, Uneven(), max_new_tokens=1)  # type: ignore[arg-type]
    layer = layers_of(got)[1]
    assert layer.keys.dtype == dtype
    q, k = (torch.randn(1, h, 1, 8, generator=torch.Generator().manual_seed(h)).to(dtype) for h in (4, 2))
    reading, _ = layer.update(k, k)
    out = reading.attend(q, 0.3)
    keys, values, where = layer.dense()
    for h in range(4):
        real = where[0, h // 2] >= 0
        a = (q[0, h].float() @ keys[0, h // 2, real].float().T * 0.3).softmax(-1)
        torch.testing.assert_close(out[0, :, h].float(), a @ values[0, h // 2, real].float(), atol=0.02, rtol=0.02)


# --- memory -------------------------------------------------------------------------------------------------------


@quiet
@pytest.mark.parametrize("name", ["llama", "qwen3", "llava", "qwen2_5_vl", "gemma3"])
def test_what_is_dropped_is_freed(name: str) -> None:
    z = make(name)
    out, report = generate(z, Uneven(), max_new_tokens=1)  # type: ignore[arg-type]
    for layer in layers_of(out):
        assert len(set(layer.pack.lengths)) > 1
        size = 2 * layer.keys.shape[1] * layer.keys.element_size()
        assert layer.nbytes == sum(t.untyped_storage().nbytes() for t in (layer.keys, layer.values))
        assert layer.nbytes == sum(layer.pack.lengths) * size
        assert int((layer.where >= 0).sum()) == layer.entries
    held = sum(layer.nbytes for layer in out.past_key_values.layers)
    assert report.kv_bytes == held < report.kv_bytes_full


def test_room_grows_in_blocks() -> None:
    layer = RaggedLayer.of(*filled(1, 2, 3000, 8))
    full, sizes = layer.nbytes, set()
    assert full == layer.entries * 2 * 8 * 4
    for _ in range(200):
        one = torch.randn(1, 2, 1, 8)
        layer.update(one, one)
        sizes.add(layer.nbytes)
    assert len(sizes) < 8
    assert layer.nbytes < 1.05 * layer.entries * 2 * 8 * 4


def filled(b: int, g: int, n: int, d: int) -> tuple[HeldLayer, Reduction]:
    """A layer after a prompt, and what each head keeps of it."""
    torch.manual_seed(0)
    layer = HeldLayer()
    layer.update(torch.randn(b, g, n, d), torch.randn(b, g, n, d))
    keep = torch.rand(b * g, n) < torch.linspace(0.2, 0.8, b * g)[:, None]
    keep[:, -1] = True
    return layer, Reduction.from_mask(keep)


# --- the interface of transformers' caches ------------------------------------------------------------------------


def test_rows_and_steps_back() -> None:
    layer = RaggedLayer.of(*filled(2, 3, 40, 4))
    keys, values, where = layer.dense()
    one = torch.randn(2, 3, 5, 4)
    layer.update(one, one)
    layer.crop(-5)
    assert all(torch.equal(a, b) for a, b in zip(layer.dense(), (keys, values, where)))
    layer.update(one, one)
    layer.batch_repeat_interleave(2)
    layer.batch_select_indices(torch.tensor([3, 0]))
    layer.reorder_cache(torch.tensor([1, 0]))
    layer.crop(-5)
    assert all(torch.equal(a, b) for a, b in zip(layer.dense(), (keys, values, where)))
    assert layer.get_seq_length() == 40
    assert layer.get_mask_sizes(2) == (layer.held + 2, 40 - layer.held)
    layer.crop(-10)  # into the prompt: heads lose different numbers
    assert int(layer.where.max()) == 29
    assert layer.entries == int(((where >= 0) & (where < 30)).sum())
    layer.reset()
    assert not layer.ragged
    assert (layer.get_seq_length(), layer.nbytes, layer.held) == (0, 0, 0)
    k, _ = layer.update(one, one)
    assert torch.equal(k, one)


def test_heads_of_equal_length_are_read_together() -> None:
    layer, _ = filled(1, 6, 50, 4)
    keep = torch.zeros(6, 50, dtype=torch.bool)
    for h, n in enumerate((50, 10, 50, 10, 10, 50)):
        keep[h, -n:] = True
    store = RaggedLayer.of(layer, Reduction.from_mask(keep))
    assert [(g.heads, g.length) for g in store.pack.groups] == [(3, 10), (3, 50)]
    one = torch.randn(1, 6, 1, 4)
    store.update(one, one)
    assert [(g.heads, g.length) for g in store.pack.groups] == [(3, 11), (3, 51)]
    keys, _, where = store.dense()
    assert torch.equal(keys[0, 1, -1], one[0, 1, 0])
    assert where[0, :, -1].tolist() == [50] * 6


@pytest.mark.parametrize("q", [1, 3, 40])
@pytest.mark.parametrize("padded", [False, True])
def test_attention_is_each_heads_own(q: int, padded: bool) -> None:
    layer = RaggedLayer.of(*filled(2, 3, 30, 8))
    queries, new = torch.randn(2, 6, q, 8), torch.randn(2, 3, q, 8)
    at = torch.arange(30, 30 + q).expand(2, q).clone()
    if padded:
        at[1, : q // 2] = -1
    layer.expect(at, q, padded)
    reading, _ = layer.update(new, 2 * new)
    out = reading.attend(queries, 0.4)
    keys, values, where = reading.dense(2)
    assert keys.shape[2] == where.shape[2]
    for b in range(2):
        for h in range(6):
            for i in range(q):
                if at[b, i] < 0:
                    continue
                seen = (where[b, h // 2] >= 0) & (where[b, h // 2] <= at[b, i])
                a = (keys[b, h // 2, seen] @ queries[b, h, i] * 0.4).softmax(-1)
                torch.testing.assert_close(out[b, i, h], a @ values[b, h // 2, seen], atol=2e-6, rtol=1e-5)
    assert out.isfinite().all()


# --- ways to generate ---------------------------------------------------------------------------------------------


@quiet
@pytest.mark.parametrize("name", ["llama", "qwen3", "llava", "qwen2_vl", "qwen3_vl", "gemma3"])
@torch.no_grad()
def test_drafts_change_nothing(name: str) -> None:
    z = make(name)
    a, _ = generate(z, Uneven(), max_new_tokens=16)  # type: ignore[arg-type]
    b, _ = generate(z, Uneven(), max_new_tokens=16, prompt_lookup_num_tokens=3)  # type: ignore[arg-type]
    c, _ = generate(z, [Uneven(), *foveate.spec.Plan.of("prompt_lookup")], max_new_tokens=16)  # type: ignore[arg-type]
    assert torch.equal(a.sequences, b.sequences)
    assert torch.equal(a.sequences, c.sequences)
    assert all(layer.ragged for layer in layers_of(b))


@quiet
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", ["llama", "llava", "qwen2_5_vl", "gemma3"])
@torch.no_grad()
def test_a_second_turn(name: str, ragged: bool) -> None:
    z = make(name, batch=2, ragged=True) if ragged else make(name)
    words = torch.tensor([[5, 6, 7, 8, 9]])
    asked: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True}
    asked |= {"output_logits": True}
    with foveate.apply(z.model, Uneven()) as report:
        one = z.model.generate(**z.inputs, **asked)
        two = z.model.generate(**next_turn(z, one, words), **asked, past_key_values=one.past_key_values)
    layers_of(two)
    n = z.inputs["input_ids"].shape[1]
    run, mask = MaskOut(z.model), next_turn(z, one, words)["attention_mask"]
    run.feed(visible(z.model, report, two.past_key_values, z.inputs["input_ids"].shape), **z.inputs)
    torch.testing.assert_close(logits_of(two), two_turns(run, one, two, words, mask, n), atol=2e-5, rtol=0)


@quiet
@pytest.mark.parametrize("name", ["llama", "llava", "qwen2_vl", "gemma3"])
@torch.no_grad()
def test_beams_follow_their_rows(name: str) -> None:
    z = make(name, batch=2, ragged=True)
    out, _ = generate(z, Uneven(), num_beams=3, max_new_tokens=6, num_return_sequences=1)  # type: ignore[arg-type]
    for layer in layers_of(out):
        assert layer.b == 6
        assert int(layer.where.max()) == layer.seen - 1


@torch.no_grad()
def test_beam_search_is_that_of_a_padded_store(monkeypatch: pytest.MonkeyPatch) -> None:
    z = make("llama", batch=2)
    plan = "snapkv(keep=0.5, window=4)"  # equal numbers: the plain store
    a, _ = generate(z, plan, num_beams=3, max_new_tokens=8)
    moved = lambda self, layer, held, r, call: call.cache.layers.__setitem__(layer, RaggedLayer.of(held, r))  # noqa: E731

    def ragged(self: Any, layer: int, held: HeldLayer, r: Reduction, call: Any) -> HeldLayer:
        moved(self, layer, held, r, call)
        made: HeldLayer = call.cache.layers[layer]
        return made

    monkeypatch.setattr("foveate.sites.cache.CacheSite._keep", ragged)
    b, _ = generate(z, plan, num_beams=3, max_new_tokens=8)
    layers_of(b)
    assert torch.equal(a.sequences, b.sequences)


@torch.no_grad()
def test_inference_mode_and_gradients() -> None:
    z = make("llama")
    cache = DynamicCache(config=z.model.config)
    ids = z.inputs["input_ids"]
    with foveate.apply(z.model, Uneven()):
        with torch.inference_mode():
            z.model(ids, past_key_values=cache)
        z.model(ids[:, :1], past_key_values=cache)  # the store is not an inference tensor's prisoner
        with torch.enable_grad():
            z.model(ids[:, :3], past_key_values=cache).logits.sum().backward()
        out: Tensor = z.model(ids[:, :1], past_key_values=cache).logits
    assert out.isfinite().all()
    assert cache.get_seq_length() == ids.shape[1] + 5


@pytest.mark.parametrize("name", ["llama", "llava"])
@torch.no_grad()
def test_merging_head_by_head(name: str) -> None:
    z = make(name)
    out, _ = generate(z, Folded(), max_new_tokens=1)  # type: ignore[arg-type]
    bare, _ = generate(z, max_new_tokens=1)
    for layer, full in zip(layers_of(out), bare.past_key_values.layers):
        keys, values, where = layer.dense()
        for h, n in enumerate(layer.pack.lengths):
            assert torch.equal(values[0, h, -n + 1 :], full.values[0, h, where[0, h, -n + 1 :].long()])
            gone = torch.ones(full.keys.shape[2], dtype=torch.bool)
            gone[where[0, h, -n + 1 :].long()] = False
            torch.testing.assert_close(keys[0, h, -n], full.keys[0, h, gone].mean(0))
    assert torch.equal(new_tokens(z, out), new_tokens(z, bare))


# --- budgets that hold while tokens are generated -----------------------------------------------------------------


class Lasting:
    """A method that is asked again while tokens are generated; it writes down what it was shown."""

    decoding: ClassVar[bool] = True
    every: ClassVar[int] = 1


@method(needs=("queries", "received"))
class Watchful(Lasting):
    """Keeps what received most attention, the latest entry always."""

    stage: ClassVar[str] = "cache"
    name: ClassVar[str] = "watchful"
    window: ClassVar[int] = 2
    keep: float | int = option(8, None, "entries of each head")
    uneven: bool = option(False, None, "whether the first head of each row keeps three more")

    def reduce(self, entries: Entries) -> Reduction:
        assert entries.received is not None
        b, g, n = entries.keys.shape[:3]
        SHOWN.append(entries)
        score = entries.received.view(b, g, -1, n).sum(2)
        score[..., -1] = torch.inf
        if entries.valid is not None:
            score = score.masked_fill(~entries.valid[:, None], -1)
        assert isinstance(self.keep, int) or n <= 40
        m = self.keep if isinstance(self.keep, int) else int(self.keep * n)
        rank = score.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        counts = torch.full((b, g, 1), m)
        counts[:, 0] += 3 * self.uneven
        return Reduction.from_mask((rank < counts).view(b * g, n))


SHOWN: list[Entries] = []


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("name", ["llama", "llava", "qwen2_5_vl"])
def test_a_budget_holds_while_tokens_are_generated(name: str, uneven: bool) -> None:
    z = make(name)
    SHOWN.clear()
    out, _ = generate(z, Watchful(8, uneven), max_new_tokens=12)  # type: ignore[arg-type]
    for layer in out.past_key_values.layers:
        assert layer.ragged == uneven
        assert layer.held == 8 + 3 * uneven
        assert layer.entries == 2 * 8 + 3 * uneven
        assert int(layer.where.max()) == layer.seen - 1
    assert all(e.n == 9 + 3 * uneven for e in SHOWN[len(out.past_key_values.layers) :])
    assert all(e.queries.shape[2] == 2 for e in SHOWN)  # the latest two, though tokens come one at a time


def test_sums_of_attention_follow_the_entries() -> None:
    """With a budget that never bites, what every entry received is what the whole attention map says."""
    z = make("llama", "eager")
    SHOWN.clear()
    out, _ = generate(z, Watchful(1000), max_new_tokens=5)  # type: ignore[arg-type]
    with torch.no_grad():
        maps = z.model(out.sequences[:, :-1], output_attentions=True).attentions
    depth = len(maps)
    for i, shown in enumerate(SHOWN[-depth:]):
        torch.testing.assert_close(shown.received, maps[i].sum(2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("uneven", [False, True])
def test_drafts_are_not_asked_about(uneven: bool) -> None:
    z = make("llama")
    out, _ = generate(z, Watchful(10, uneven), max_new_tokens=20, prompt_lookup_num_tokens=3)  # type: ignore[arg-type]
    for layer in out.past_key_values.layers:
        assert layer.seen == z.inputs["input_ids"].shape[1] + 19
        assert layer.held <= 10 + 3 * uneven + 2 * 4


@pytest.mark.parametrize("uneven", [False, True])
def test_lasting_budgets_of_beams_and_padded_rows(uneven: bool) -> None:
    z = make("llama", batch=2, ragged=True)
    out, _ = generate(z, Watchful(8, uneven), max_new_tokens=6, num_beams=2)  # type: ignore[arg-type]
    assert all(layer.held == 8 + 3 * uneven for layer in out.past_key_values.layers)


def test_a_share_is_of_all_that_was_seen() -> None:
    z = make("llama")
    out, _ = generate(z, Watchful(0.5), max_new_tokens=9)  # type: ignore[arg-type]
    assert [layer.held for layer in out.past_key_values.layers] == [(32 + 8) // 2] * 4


@pytest.mark.parametrize("plan", ["adakv(keep=0.4, window=4)", "duoattention"])
def test_published_methods_with_budgets_by_head(plan: str) -> None:
    for name in ("llama", "llava"):
        check_maskout(make(name), plan)
        check_maskout(make(name, batch=2, ragged=True), plan)


# --- what methods may look at -------------------------------------------------------------------------------------


@method(needs=("queries", "raw_queries", "rotary", "output", "received"))
class Looking:
    """Keeps everything and writes down what it was shown."""

    stage: ClassVar[str] = "cache"
    name: ClassVar[str] = "looking"

    def reduce(self, entries: Entries) -> Reduction:
        SHOWN.append(entries)
        b, g, n = entries.keys.shape[:3]
        return Reduction.identity(b * g, n)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3_text", "qwen2_5_vl", "llava"])
def test_signals_are_what_they_say(name: str, ragged: bool) -> None:
    z = make(name, "eager", batch=2, ragged=True) if ragged else make(name, "eager")
    SHOWN.clear()
    check_same(z, Looking())  # type: ignore[arg-type]
    maps: Any = z.model(**z.inputs, output_attentions=True).attentions
    real, every = z.inputs["attention_mask"].bool(), list[Any](SHOWN)
    for e in every:
        at = real.cumsum(1) - 1
        if name == "qwen2_5_vl":  # three axes: only text rows turn by one number
            at = at[:, -3:] - at[:, -1:] + e.following[:, None] - 1
        else:
            assert torch.equal(e.following, real.sum(1))
        w, width = at.shape[1], e.rotary.shape[1]
        angle = at[:, None, :, None] * e.rotary[:, None, None]
        a, b = e.raw_queries[:, :, -w:].split(width, -1)
        turned = torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)
        mine = real[:, None, -w:, None].expand_as(turned)
        torch.testing.assert_close(turned[mine], e.queries[:, :, -w:][mine], atol=1e-5, rtol=1e-4)
        rows = maps[e.layer] * real[:, None, :, None]
        torch.testing.assert_close(e.received, rows.sum(2), atol=2e-5, rtol=1e-4)
        out = foveate.sites.entries.output_of(foveate.sites.model.anatomy(z.model), e.layer)
        x = torch.randn(2, e.output.shape[1], e.output.shape[2])
        torch.testing.assert_close(torch.einsum("bhd,hdm->bm", x, e.output[0]), x.flatten(1) @ out.weight.T)
