"""A prompt that is read in pieces: the same answer, and a cache that stays near its budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate
from foveate.errors import OptionError, PlanError, UnsupportedCallError
from foveate.sites.pieces import when
from foveate.stores.held import HeldLayer
from foveate.stores.ragged import RaggedLayer
from site_kit import cases, generate, logits_of, make

CLOSE = {"atol": 2e-5, "rtol": 0.0}


def read(z: Any, plan: str, chunk: int | None, **more: Any) -> tuple[Any, Any]:
    """Greedy generation with logits, in pieces."""
    asked = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with torch.no_grad(), foveate.apply(z.model, plan, chunk=chunk) as report:
        return z.model.generate(**asked | z.inputs | more), report


@contextmanager
def spied(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int, int]]]:
    """(new tokens, entries of all heads, of the longest head) of a layer at its fullest, for each update."""
    seen: list[tuple[int, int, int]] = []
    with monkeypatch.context() as m:
        for cls in (HeldLayer, RaggedLayer):
            plain = cls.__dict__["update"]

            def update(self: Any, k: Tensor, v: Tensor, *args: Any, plain: Any = plain, **kwargs: Any) -> Any:
                out = plain(self, k, v, *args, **kwargs)
                seen.append((k.shape[2], self.entries, self.held))
                return out

            m.setattr(cls, "update", update)
        yield seen


# --- the same answer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "more"), cases("vlm", "lm"))
def test_pieces_without_eviction_say_the_same(name: str, more: dict[str, Any]) -> None:
    z = make(name, **more)
    bare, _ = generate(z)
    out, _ = read(z, "", 7)
    torch.testing.assert_close(logits_of(out), logits_of(bare), **CLOSE)


@pytest.mark.parametrize("chunk", [1, 40, 1000])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_pieces_of_any_length_say_the_same(name: str, attn: str, chunk: int) -> None:
    z = make(name, attn=attn)
    bare, _ = generate(z)
    out, _ = read(z, "", chunk)
    torch.testing.assert_close(logits_of(out), logits_of(bare), **CLOSE)
    assert torch.equal(out.sequences, bare.sequences)


@pytest.mark.parametrize("plan", ["divprune(keep=0.5)", "tome(r=2) + divprune(keep=0.5)"])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl"])
def test_what_happens_before_the_decoder_sees_the_whole_prompt(name: str, plan: str) -> None:
    z = make(name, batch=2, ragged=True)
    whole, _ = read(z, plan, None)
    out, report = read(z, plan, 5)
    torch.testing.assert_close(logits_of(out), logits_of(whole), **CLOSE)
    assert report.prefills == 1


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "llama"])
def test_a_plain_forward_gives_all_logits(name: str) -> None:
    z = make(name)
    with torch.no_grad():
        bare = z.model(**z.inputs)
        with foveate.apply(z.model, "", chunk=6):
            out = z.model(**z.inputs)
            as_tuple = z.model(**z.inputs, return_dict=False)
    torch.testing.assert_close(out.logits, bare.logits, **CLOSE)
    torch.testing.assert_close(as_tuple[0], bare.logits, **CLOSE)


def test_a_second_turn_is_read_in_pieces_too() -> None:
    z = make("llama")
    more = torch.cat([z.inputs["input_ids"], z.inputs["input_ids"]], 1)
    with torch.no_grad():
        bare = z.model(input_ids=more).logits
        with foveate.apply(z.model, "", chunk=6):
            first = z.model(**z.inputs)
            out = z.model(input_ids=z.inputs["input_ids"], past_key_values=first.past_key_values)
    torch.testing.assert_close(out.logits, bare[:, -out.logits.shape[1] :], **CLOSE)


# --- eviction between pieces ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "qwen2_5_vl", "qwen3_vl"])
def test_a_token_sees_what_was_left_when_its_piece_began(name: str) -> None:
    z, chunk, keep, sinks = make(name), 6, 9, 2
    n = z.inputs["input_ids"].shape[1]
    visible = torch.zeros(n, n, dtype=torch.bool)
    held: list[int] = []
    for at in range(0, n, chunk):
        piece = list(range(at, min(n, at + chunk)))
        for i in piece:
            visible[i, held + list(range(at, i + 1))] = True
        held += piece
        if len(held) > keep:
            held = held[:sinks] + held[sinks - keep :]

    def hide(module: Any, args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "attention_mask": visible[None, None]}

    with torch.no_grad():
        hook = z.model.get_decoder().register_forward_pre_hook(hide, with_kwargs=True)
        bare = z.model(**z.inputs).logits
        hook.remove()
        with foveate.apply(z.model, f"streaming_llm(keep={keep}, sinks={sinks})", chunk=chunk):
            out = z.model(**z.inputs)
    torch.testing.assert_close(out.logits, bare, **CLOSE)
    assert all(layer.where[0, 0].tolist() == held for layer in out.past_key_values.layers)


def policies() -> list[str]:
    """Every cache method that is asked after each piece, with small windows."""
    found = []
    for name, cls in foveate.methods().items():
        fields = {f.name for f in dataclasses.fields(cls)}
        if cls.stage == "cache" and "keep" in fields and "recalled" not in cls.card.needs and when(cls()) == "held":
            options = {"keep": 0.25, "window": 4, "sinks": 1}
            found.append(f"{name}({', '.join(f'{k}={v}' for k, v in options.items() if k in fields)})")
    return found


@pytest.mark.parametrize("plan", policies())
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_the_cache_never_holds_more_than_budget_and_piece(
    name: str, plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    z, chunk = make(name, batch=2, ragged=True), 8
    n, config = z.inputs["input_ids"].shape[1], z.model.get_decoder().config
    heads, layers = 2 * config.num_key_value_heads, config.num_hidden_layers
    budget = n // 4 + 1
    with spied(monkeypatch) as seen:
        out, report = read(z, plan, chunk, max_new_tokens=1)
    assert len(seen) == layers * -(-n // chunk)
    # layers may share their budgets out unevenly (a pyramid), heads too; all together they meet the mean
    for i in range(0, len(seen), layers):
        assert sum(entries for _, entries, _ in seen[i : i + layers]) <= layers * heads * (budget + chunk)
    held = sum(layer.entries for layer in out.past_key_values.layers)
    assert held <= layers * heads * budget
    assert report.kv_bytes == sum(layer.nbytes for layer in out.past_key_values.layers)


@pytest.mark.parametrize("keep", [11, 0.3])
def test_as_much_is_left_as_of_a_whole_prompt(keep: float) -> None:
    z = make("qwen2_5_vl", batch=2, ragged=True)
    whole, before = read(z, f"snapkv(keep={keep}, window=4)", None)
    out, after = read(z, f"snapkv(keep={keep}, window=4)", 8)
    assert [x.held for x in out.past_key_values.layers] == [x.held for x in whole.past_key_values.layers]
    (a,), (b,) = before.rows, after.rows
    assert (a.tokens_in, a.tokens_out, a.kv_bytes) == (b.tokens_in, b.tokens_out, b.kv_bytes)


def test_a_piece_that_covers_the_prompt_changes_nothing() -> None:
    z = make("qwen2_5_vl", batch=2, ragged=True)
    whole, _ = read(z, "snapkv(keep=0.3, window=4)", None)
    out, _ = read(z, "snapkv(keep=0.3, window=4)", 1000)
    assert torch.equal(logits_of(out), logits_of(whole))


def test_rows_do_not_see_each_other() -> None:
    both, one = make("qwen2_5_vl", batch=2), make("qwen2_5_vl")
    plan = "snapkv(keep=12, window=4)"
    a, _ = read(both, plan, 8)
    b, _ = read(one, plan, 8)
    torch.testing.assert_close(logits_of(a)[:1], logits_of(b), **CLOSE)


def test_groups_are_cut_once(monkeypatch: pytest.MonkeyPatch) -> None:
    z = make("qwen2_5_vl", video=True)
    n = z.inputs["input_ids"].shape[1]
    visual = int(torch.isin(z.inputs["input_ids"], torch.tensor([z.model.config.video_token_id])).sum())
    with spied(monkeypatch) as seen:
        out, _ = read(z, "quickvideo(keep=0.25)", 8, max_new_tokens=1)
    held = out.past_key_values.layers[0].held
    assert n - visual < held <= n - visual + visual // 4 + 2
    assert max(longest for _, _, longest in seen) <= held + 8


def test_methods_that_compress_or_need_it_all_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    z = make("qwen2_5_vl", video=True)
    plan = "snapkv(keep=0.3, window=4) + kivi(bits=2)"
    out, report = read(z, plan, 8)
    whole, before = read(z, plan, None)
    assert [x.held for x in out.past_key_values.layers] == [x.held for x in whole.past_key_values.layers]
    assert [r.kv_bytes for r in report.rows] == [r.kv_bytes for r in before.rows]
    with spied(monkeypatch) as seen:
        read(z, "lookm(keep=0.3)", 8, max_new_tokens=1)
    assert max(longest for _, _, longest in seen) == z.inputs["input_ids"].shape[1]


def test_a_budget_that_lasts_holds_after_the_pieces() -> None:
    z = make("llama", batch=2)
    with torch.inference_mode(), foveate.apply(z.model, "h2o(keep=9, every=1)", chunk=5):
        out = z.model.generate(**z.inputs, max_new_tokens=12, do_sample=False, return_dict_in_generate=True)
    assert all(layer.held == 9 for layer in out.past_key_values.layers)


def test_drafting_goes_on_from_it() -> None:
    z = make("llama")
    out, _ = read(z, "prompt_lookup", 5, max_new_tokens=8)
    bare, _ = generate(z, max_new_tokens=8)
    assert torch.equal(out.sequences, bare.sequences)


# --- what it leaves, and what it refuses ------------------------------------------------------------------------------


def test_nothing_stays_on_the_model() -> None:
    z = make("qwen2_5_vl")
    with foveate.apply(z.model, "", chunk=4):
        assert "forward" in vars(z.model.get_decoder())
    assert "forward" not in vars(z.model.get_decoder())


def test_methods_inside_the_layers_are_refused() -> None:
    z = make("llava")
    with (
        pytest.raises(PlanError, match="fastv chooses among all visual tokens"),
        foveate.apply(z.model, "fastv", chunk=8),
    ):
        pass


def test_methods_that_read_the_prompt_twice_are_refused() -> None:
    z = make("llama")
    with pytest.raises(PlanError, match="kvzip has the model read"), foveate.apply(z.model, "kvzip", chunk=8):
        pass


def test_budgets_of_layers_wait_for_the_last_piece() -> None:
    z = make("llama")
    out, _ = read(z, "vlcache(keep=0.25)", 8)
    whole, _ = read(z, "vlcache(keep=0.25)", None)
    assert [x.held for x in out.past_key_values.layers] == [x.held for x in whole.past_key_values.layers]


@pytest.mark.parametrize("chunk", [0, -3, 2.5, True, "8"])
def test_a_length_that_is_none_is_refused(chunk: Any) -> None:
    with (
        pytest.raises(OptionError, match="'chunk' must be a whole number of at least 1"),
        foveate.apply(make("llama").model, "", chunk=chunk),
    ):
        pass


def test_an_encoder_has_no_prompt() -> None:
    with pytest.raises(PlanError, match="has no language model"), foveate.apply(make("vit").model, "tome", chunk=8):
        pass


@pytest.mark.parametrize(
    ("more", "says"), [({"use_cache": False}, "use_cache=False"), ({"output_hidden_states": True}, "layer by layer")]
)
def test_calls_that_need_the_prompt_in_one_are_refused(more: dict[str, Any], says: str) -> None:
    z = make("llama")
    with foveate.apply(z.model, "", chunk=8), pytest.raises(UnsupportedCallError, match=says):
        z.model(**z.inputs, **more)


def test_ask_takes_it() -> None:
    bare = foveate.ask([], "What is there to see, and what is it like?", max_new_tokens=3)
    said = foveate.ask([], "What is there to see, and what is it like?", max_new_tokens=3, chunk=4)
    assert said.text == bare.text
