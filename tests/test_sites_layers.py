"""Stage layers on every family: keep-all changes nothing, and dropping is masking from that layer on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

import foveate
from foveate.errors import PlanError
from foveate.testing import FAMILIES, tiny_vlm
from foveate.testing.maskout import mask_out, visible
from foveate.testing.tiny_prompt import TEXT, Ask, Tiny
from site_kit import ALL, KINDS, cases, check_maskout, check_same, generate, logits_of, make, new_tokens

VLM = FAMILIES["vlm"]


@pytest.mark.parametrize("attn", KINDS)
@pytest.mark.parametrize(("name", "more"), cases("vlm"))
def test_keep_all_is_the_bare_model(name: str, more: dict[str, Any], attn: str) -> None:
    z = make(name, attn, **more)
    for plan in ("fastv(layer=1, keep=1.0)", "pyramiddrop(layers=[1, 3], keeps=[1.0, 1.0])"):
        check_same(z, plan)


@pytest.mark.parametrize("attn", KINDS)
@pytest.mark.parametrize(("name", "more"), cases("vlm"))
def test_dropping_is_masking(name: str, more: dict[str, Any], attn: str) -> None:
    z = make(name, attn, **more)
    for plan in ("fastv(layer=1, keep=0.5)", "fastv(layer=2, keep=0.25)", "pyramiddrop"):
        report = check_maskout(z, plan)
        cuts = [r for r in report.rows if r.stage == "layers" and r.layer is not None and r.tokens_in]
        assert len(cuts) == (3 if plan == "pyramiddrop" else 1)
        assert all(r.tokens_out < r.tokens_in for r in cuts)


@pytest.mark.parametrize("attn", KINDS)
@pytest.mark.parametrize(("name", "more"), cases("vlm"))
def test_all_stages_together(name: str, more: dict[str, Any], attn: str) -> None:
    z = make(name, attn, **more)
    report = check_maskout(z, ALL)
    assert {r.stage for r in report.rows if r.tokens_in} == {"inputs", "layers", "cache"}


@pytest.mark.parametrize("name", VLM)
def test_two_cuts_of_two_methods(name: str) -> None:
    check_maskout(make(name), "fastv(layer=1, keep=0.5) + pyramiddrop(layers=[1, 3], keeps=[0.4, 0.2])")


@pytest.mark.parametrize("plan", ["fastv(layer=1, keep=0.5)", "pyramiddrop", ALL])
@pytest.mark.parametrize("name", VLM)
def test_ragged_batch_is_its_rows(name: str, plan: str) -> None:
    if "snapkv" in plan:  # a share of the longer row's length is another number of entries
        plan = plan.replace("keep=0.5, window", "keep=12, window")
    a, _ = generate(make(name), plan)
    b, _ = generate(make(name, batch=2, ragged=True), plan)
    torch.testing.assert_close(logits_of(a)[0], logits_of(b)[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", VLM)
@torch.no_grad()
def test_the_picks_are_those_of_the_full_attention(name: str) -> None:
    """fastv's score is the bare model's attention of the last token, mean over heads."""
    z = make(name, "eager")
    bare = z.model(**z.inputs, output_attentions=True).attentions[1]
    with foveate.apply(z.model, "fastv(layer=2, keep=7)") as report:
        z.model(**z.inputs)
    (k,) = report.kept
    assert k.where is not None
    score = bare[0, :, -1, k.where].mean(0)
    assert torch.equal(k.reduction.keep[0], score.topk(7).indices.sort().values)


@pytest.mark.parametrize("name", VLM)
@torch.no_grad()
def test_the_picks_before_a_layer_are_its_own_attention(name: str) -> None:
    """pyramiddrop's score is the attention that the layer about to run would pay."""
    z = make(name, "eager")
    bare = z.model(**z.inputs, output_attentions=True).attentions[2]
    with foveate.apply(z.model, "pyramiddrop(layers=[2], keeps=[0.25])") as report:
        z.model(**z.inputs)
    (k,) = report.kept
    assert k.where is not None
    score = bare[0, :, -1, k.where].mean(0)
    assert torch.equal(k.reduction.keep[0], score.topk(k.reduction.m).indices.sort().values)


def sliding_llava() -> Tiny:
    """LLaVA on a language model with a sliding window shorter than the prompt."""
    torch.manual_seed(0)
    ask = Ask("llava")
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**tiny_vlm.TOWER, image_size=32, projection_dim=32),
        text_config=hf.MistralConfig(**TEXT, sliding_window=24),
        image_token_index=100,
        image_seq_length=64,
    )
    z = tiny_vlm._squares(ask, hf.LlavaForConditionalGeneration(config), 32, 64)
    for p in z.model.parameters():
        if p.ndim > 1:
            p.data.normal_(std=p[0].numel() ** -0.5)
    z.model.generation_config.update(pad_token_id=0, bos_token_id=1, eos_token_id=None)
    z.model.eval()
    return z


@pytest.mark.parametrize("plan", ["random(keep=0.25)", "random(keep=0.5)", "fastv(layer=1, keep=0.2)"])
@pytest.mark.parametrize("attn", KINDS)
def test_a_window_is_measured_at_the_original_positions(attn: str, plan: str) -> None:
    z = sliding_llava()
    z.model.set_attn_implementation(attn)
    check_same(z, "random(keep=1.0)")
    check_maskout(z, plan)


@pytest.mark.parametrize("name", ["llava", "qwen3_vl", "gemma3"])
@pytest.mark.parametrize("plan", ["fastv(layer=1, keep=0.5)", "pyramiddrop"])
@torch.no_grad()
def test_without_a_cache(name: str, plan: str) -> None:
    z = make(name, batch=2, ragged=True)
    with foveate.apply(z.model, plan) as report:
        out = z.model(**z.inputs, use_cache=False)
    assert out.past_key_values is None
    seen = visible(z.model, report, None, z.inputs["input_ids"].shape)
    ref = mask_out(z.model, z.inputs, z.inputs["input_ids"][:, :1], seen)
    torch.testing.assert_close(out.logits[:, -1:], ref, atol=2e-5, rtol=0)
    run, _ = generate(z, plan, use_cache=False)
    assert run.past_key_values is None


@pytest.mark.parametrize("name", VLM)
def test_gradients_flow(name: str) -> None:
    z = make(name)
    with foveate.apply(z.model, "fastv(layer=1, keep=0.5) + pyramiddrop(layers=[2], keeps=[0.25])"):
        z.model(**z.inputs).logits[:, -1].square().sum().backward()
    grads = [p.grad for p in z.model.get_decoder().parameters() if p.grad is not None]
    assert grads
    assert all(bool(g.isfinite().all()) for g in grads)


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        ("fastv(layer=4)", "layers 0 to 3"),
        ("pyramiddrop(layers=[1, 9], keeps=[0.5, 0.2])", "layers 0 to 3"),
        ("fastv(layer=3) + pyramiddrop(layers=[1], keeps=[0.5])", "order of their layers"),
    ],
)
def test_impossible_layers_are_refused_before_anything_runs(plan: str, why: str) -> None:
    z = make("llava")
    with pytest.raises(PlanError, match=why), foveate.apply(z.model, plan):
        raise AssertionError("the block must not be entered")
    assert not any(m._forward_pre_hooks for m in z.model.modules())


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl"])
def test_caches_are_trimmed_to_the_last_set(name: str) -> None:
    z = make(name, batch=2, ragged=True)
    plan = "mustdrop(layers=(1, 2), total=(1.0, 1.0), single=({0}, {1}), key=4, trims={2})"
    sets = [plan.format(0.02, 0.03, trims) for trims in (True, False)]
    lengths = []
    for spec in sets:
        out, report = generate(z, spec)
        seen = visible(z.model, report, out.past_key_values, z.inputs["input_ids"].shape)
        wanted = mask_out(z.model, z.inputs, new_tokens(z, out), seen)
        torch.testing.assert_close(logits_of(out), wanted, atol=2e-5, rtol=0)
        lengths.append([layer.held for layer in out.past_key_values.layers])
    trimmed, whole = lengths
    assert trimmed[0] == whole[0] > whole[1] > whole[2]
    assert trimmed[1:] == [whole[2]] * (len(whole) - 1)
