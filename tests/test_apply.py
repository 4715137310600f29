"""foveate.apply: what it leaves behind (nothing), and what it refuses before anything runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

import foveate
from foveate.errors import PlanError, SignalError, UnknownMethodError, UnsupportedCallError, UnsupportedModelError
from foveate.testing import FAMILIES
from site_kit import ALL, generate, make

VIT, VLM, LM = FAMILIES["vit"], FAMILIES["vlm"], FAMILIES["lm"]
WHOLE = "tome(r=2) + fastervlm(keep=0.5) + fastv(layer=1) + pyramiddrop(layers=[2], keeps=[0.2]) + snapkv(keep=0.5)"
quiet = pytest.mark.filterwarnings("ignore:sliding-window layers keep their window")

#: What transformers itself writes on a model while it runs.
THEIRS = {"rope_deltas"}


def plan_of(name: str) -> str:
    return "tome(r=2)" if name in VIT else "snapkv(keep=0.5)" if name in LM else WHOLE


def value(v: Any) -> Any:
    """Something that differs when the attribute does: contents of plain data and of hook tables, else identity."""
    if isinstance(v, dict):
        return [(k, value(x)) for k, x in v.items()]
    if isinstance(v, int | float | str | bool | tuple | type(None)):
        return v
    return id(v)


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """All that a model is, besides the numbers in its weights."""
    out: dict[str, Any] = {}
    for name, module in model.named_modules():
        out[name] = {k: value(v) for k, v in vars(module).items() if k not in THEIRS}
        config = getattr(module, "config", None)
        if config is not None:
            out[f"{name} config"] = (config.to_dict(), config._attn_implementation, value(vars(config)))
    out["generation"] = model.generation_config.to_dict() if hasattr(model, "generation_config") else None
    return out


def run(z: Any) -> Any:
    with torch.no_grad():
        out = z.model(**z.inputs)
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


@quiet
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("name", [*VIT, *VLM, *LM])
def test_nothing_is_left(name: str, warm: bool) -> None:
    z = make(name)
    weights = {k: v.clone() for k, v in z.model.state_dict().items()}
    if warm:
        bare = run(z)
        if name not in VIT:
            z.model(**z.inputs, output_hidden_states=True, output_attentions=False)
    before = fingerprint(z.model)
    with foveate.apply(z.model, plan_of(name)):
        short = run(z)
        if name not in VIT:
            generate(z)
    assert fingerprint(z.model) == before
    after = run(z)
    assert torch.equal(after, bare if warm else run(make(name)))
    if name not in LM:  # eviction shows in later tokens only
        assert after.shape != short.shape
    assert all(torch.equal(v, weights[k]) for k, v in z.model.state_dict().items())


@quiet
@pytest.mark.parametrize("name", ["vit", "llava", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "gemma3", "llama"])
def test_nothing_is_left_by_an_error_in_the_block(name: str) -> None:
    z = make(name)
    before = fingerprint(z.model)

    def block() -> None:
        with foveate.apply(z.model, plan_of(name)):
            run(z)
            fail()

    with pytest.raises(ZeroDivisionError):
        block()
    assert fingerprint(z.model) == before
    assert torch.equal(run(z), run(make(name)))


def fail(*args: Any) -> None:
    raise ZeroDivisionError


@quiet
@pytest.mark.parametrize("where", ["block", "projector", "layer", "attention", "head"])
@pytest.mark.parametrize("name", ["llava", "llava_onevision", "qwen3_vl", "gemma3"])
def test_nothing_is_left_by_an_error_in_the_model(name: str, where: str) -> None:
    """And inside the block the next call works as if the failed one had not been."""
    z = make(name)
    encoder, decoder = z.model.get_encoder(modality="image"), z.model.get_decoder()
    blocks = max((m for m in encoder.modules() if isinstance(m, nn.ModuleList)), key=len)
    places: dict[str, Callable[[], nn.Module]] = {
        "block": lambda: blocks[1],
        "projector": lambda: getattr(encoder, "merger", None) or z.model.base_model.multi_modal_projector,
        "layer": lambda: decoder.layers[2],
        "attention": lambda: decoder.layers[1].self_attn,
        "head": lambda: z.model.lm_head,
    }
    wanted, _ = generate(z, WHOLE)
    before = fingerprint(z.model)
    with foveate.apply(z.model, WHOLE):
        broken = places[where]().register_forward_hook(fail)
        with pytest.raises(ZeroDivisionError):
            run(z)
        broken.remove()
        got, _ = generate(z)
    assert torch.equal(got.sequences, wanted.sequences)
    assert fingerprint(z.model) == before


@quiet
def test_two_plans_one_after_the_other() -> None:
    z = make("llava")
    bare, _ = generate(z)
    one, _ = generate(z, WHOLE)
    two, _ = generate(z, ALL)
    again, _ = generate(z, WHOLE)
    assert torch.equal(one.sequences, again.sequences)
    assert torch.equal(generate(z)[0].sequences, bare.sequences)
    assert two.sequences.shape == bare.sequences.shape


@pytest.mark.parametrize("first", ["snapkv(keep=0.5)", "divprune", "fastv", "tome"])
@pytest.mark.parametrize("second", ["snapkv(keep=0.5)", "divprune", "fastv", "tome"])
def test_a_second_plan_inside_is_refused(first: str, second: str) -> None:
    z = make("llava")
    before = fingerprint(z.model)
    with foveate.apply(z.model, first):
        inside = fingerprint(z.model)
        with pytest.raises(PlanError, match="already runs"), foveate.apply(z.model, second):
            raise AssertionError("the block must not be entered")
        assert fingerprint(z.model) == inside
    assert fingerprint(z.model) == before


def test_two_models_at_once() -> None:
    a, b = make("llava"), make("qwen3_vl")
    wanted = [generate(z, ALL)[0].sequences for z in (a, b)]
    with foveate.apply(a.model, ALL), foveate.apply(b.model, ALL):
        got = [generate(z)[0].sequences for z in (a, b)]
    assert all(torch.equal(x, y) for x, y in zip(wanted, got))


@quiet
def test_two_threads_on_one_model() -> None:
    """Calls of the language model do not mix: each thread has its own prompt and its own cache."""
    z = make("llava")
    prompts = [make("llava", seed=s).inputs for s in (1, 2)]
    wanted = []
    for inputs in prompts:
        with torch.no_grad(), foveate.apply(z.model, ALL):
            wanted.append(z.model.generate(**inputs, max_new_tokens=12, do_sample=False))
    got: dict[int, Any] = {}

    def work(i: int) -> None:
        with torch.no_grad():
            got[i] = z.model.generate(**prompts[i], max_new_tokens=12, do_sample=False)

    with foveate.apply(z.model, ALL):
        threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert all(torch.equal(got[i], wanted[i]) for i in range(2))


def test_an_attention_kind_chosen_later_stays() -> None:
    z = make("llava")
    with foveate.apply(z.model, ALL):
        generate(z)
    z.model.set_attn_implementation("eager")
    with foveate.apply(z.model, ALL):
        generate(z)
    assert z.model.config._attn_implementation == "eager"
    assert z.model.get_decoder().config._attn_implementation == "eager"


# --- refused before anything runs -----------------------------------------------------------------------------------


class Unknown(nn.Module):
    """A model of no known family."""

    config = hf.BertConfig()


@pytest.mark.parametrize(
    ("name", "plan", "error", "why"),
    [
        ("llama", "divprune", PlanError, "methods of stages cache and decode would work"),
        ("qwen3", "fastv", PlanError, "takes none"),
        ("llama", "tome", PlanError, "has none"),
        ("vit", "divprune", PlanError, "takes none"),
        ("vit", "snapkv", PlanError, "is a vision encoder"),
        ("llava", "fastv(layer=4)", PlanError, "layers 0 to 3"),
        ("llava", "fastv(layer=3) + pyramiddrop(layers=[1], keeps=[0.5])", PlanError, "order of their layers"),
        ("llava", "divprun", UnknownMethodError, "did you mean 'divprune'"),
    ],
)
def test_refused(name: str, plan: str, error: type[Exception], why: str) -> None:
    z = make(name)
    before = fingerprint(z.model)
    with pytest.raises(error, match=why), foveate.apply(z.model, plan):
        raise AssertionError("the block must not be entered")
    assert fingerprint(z.model) == before


def test_unknown_models_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="'bert'"), foveate.apply(Unknown(), "divprune"):
        raise AssertionError("the block must not be entered")
    with pytest.raises(UnsupportedModelError, match="not supported"), foveate.apply(nn.Linear(2, 2), "divprune"):
        raise AssertionError("the block must not be entered")


def test_signals_that_a_model_cannot_give_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from foveate.inputs.fastervlm import FasterVLM

    monkeypatch.setattr(FasterVLM, "card", replace(FasterVLM.card, needs=("cls_attention",)))
    z = make("gemma3")  # its tower has no class token
    with pytest.raises(SignalError, match="cannot give at stage inputs; try"), foveate.apply(z.model, "fastervlm"):
        raise AssertionError("the block must not be entered")
    with foveate.apply(make("llava").model, "fastervlm"):
        pass


def test_chunked_prefill_is_refused() -> None:
    z = make("qwen2_5_vl")
    for plan in ("divprune(keep=0.5)", "snapkv(keep=0.5)"):
        with foveate.apply(z.model, plan), pytest.raises(UnsupportedCallError, match=r"prefill_chunk_size. Got 16"):
            z.model.generate(**z.inputs, max_new_tokens=2, prefill_chunk_size=16)
    assert "_prefill" not in vars(z.model)


def test_labels_are_refused_where_tokens_go() -> None:
    z = make("llava")
    labels = z.inputs["input_ids"].clone()
    with (
        foveate.apply(z.model, "divprune(keep=0.5)"),
        pytest.raises(UnsupportedCallError, match="labels have one entry"),
    ):
        z.model(**z.inputs, labels=labels)
    with foveate.apply(z.model, "snapkv(keep=0.5)"):
        assert z.model(**z.inputs, labels=labels).loss.isfinite()
