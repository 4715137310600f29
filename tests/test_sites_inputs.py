"""Stage inputs on every family: keep-all changes nothing, and dropping is masking."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate
from foveate.errors import InputError
from foveate.testing import FAMILIES
from foveate.testing.maskout import MaskOut, mask_out, visible
from site_kit import KINDS, cases, check_maskout, check_same, generate, logits_of, make

VLM = FAMILIES["vlm"]


@pytest.mark.parametrize("attn", KINDS)
@pytest.mark.parametrize(("name", "more"), cases("vlm"))
def test_keep_all_is_the_bare_model(name: str, more: dict[str, Any], attn: str) -> None:
    z = make(name, attn, **more)
    for plan in ("divprune(keep=1.0)", "random(keep=1.0)"):
        check_same(z, plan)


@pytest.mark.parametrize("attn", KINDS)
@pytest.mark.parametrize(("name", "more"), cases("vlm"))
def test_dropping_is_masking(name: str, more: dict[str, Any], attn: str) -> None:
    z = make(name, attn, **more)
    total = sum(map(sum, z.runs))
    for plan, share in (("divprune(keep=0.5)", 0.5), ("random(keep=0.25)", 0.25), ("fastervlm(keep=0.5)", 0.5)):
        report = check_maskout(z, plan)
        row = next(r for r in report.rows if r.stage == "inputs")
        lines = total - row.tokens_in  # tokens that only end a line are never dropped
        assert 0 < lines <= 0.2 * total if name in ("llava_next", "llava_onevision") else lines == 0
        assert abs(row.tokens_out - share * row.tokens_in) <= sum(map(len, z.runs))


@pytest.mark.parametrize("name", VLM)
def test_two_methods_one_after_the_other(name: str) -> None:
    z = make(name)
    report = check_maskout(z, "divprune(keep=0.5) + random(keep=0.5)")
    first, second = report.rows
    assert first.tokens_out == second.tokens_in > second.tokens_out > 0


@pytest.mark.parametrize("attn", KINDS)
@pytest.mark.parametrize("name", VLM)
def test_merged_tokens(name: str, attn: str) -> None:
    z = make(name, attn, images=2)
    report = check_maskout(z, "avgpool(keep=0.3)")
    assert not any(k.reduction.selects for k in report.kept)


@pytest.mark.parametrize("name", VLM)
def test_merged_features_are_the_map_of_the_features(name: str) -> None:
    z = make(name)
    decoder, given = z.model.get_decoder(), []
    hook = decoder.register_forward_pre_hook(lambda m, a, k: given.append(k["inputs_embeds"].clone()), with_kwargs=True)
    with torch.no_grad():
        z.model(**z.inputs)
        hook.remove()
        with foveate.apply(z.model, "avgpool(keep=0.3)") as report:
            # behind our own hook, so it sees what the layers see
            hook = decoder.register_forward_pre_hook(
                lambda m, a, k: given.append(k["inputs_embeds"].clone()), with_kwargs=True
            )
            z.model(**z.inputs)
            hook.remove()
    full, short = given
    keep = torch.ones(full.shape[1], dtype=torch.bool)
    wanted = full.clone()
    for k in report.kept:
        assert k.where is not None
        mean = k.reduction.to_dense()[0] @ full[0, k.where]
        wanted[0, k.where[k.reduction.keep[0]]] = mean
        keep[k.where[~k.reduction.kept[0]]] = False
    torch.testing.assert_close(short, wanted[:, keep], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", VLM)
def test_ragged_batch_is_its_rows(name: str) -> None:
    one, two = make(name), make(name, batch=2, ragged=True)
    for plan in ("divprune(keep=0.5)", "fastervlm(keep=0.5)"):
        a, _ = generate(one, plan)
        b, _ = generate(two, plan)
        torch.testing.assert_close(logits_of(a)[0], logits_of(b)[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", VLM)
def test_a_plain_forward(name: str) -> None:
    z = make(name, batch=2, ragged=True)
    for cache in (True, False):
        with torch.no_grad(), foveate.apply(z.model, "divprune(keep=0.5)") as report:
            out = z.model(**z.inputs, use_cache=cache)
        assert (out.past_key_values is not None) == cache
        seen = visible(z.model, report, out.past_key_values, z.inputs["input_ids"].shape)
        ref = mask_out(z.model, z.inputs, z.inputs["input_ids"][:, :1], seen)
        torch.testing.assert_close(out.logits[:, -1:], ref, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", VLM)
def test_without_a_cache_every_step_is_a_prefill(name: str) -> None:
    z = make(name)
    plan = "random(keep=0.5)"
    a, _ = generate(z, plan)
    b, _ = generate(z, plan, use_cache=False)
    torch.testing.assert_close(logits_of(a), logits_of(b), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", VLM)
@torch.no_grad()
def test_right_padding(name: str) -> None:
    z = make(name)
    padded = dict(z.inputs)
    for key in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"):
        if key in padded:
            padded[key] = torch.nn.functional.pad(padded[key], (0, 3))
    with foveate.apply(z.model, "random(keep=0.5)"):
        a = z.model(**z.inputs).logits[:, -1]
        b = z.model(**padded).logits[:, -1]  # real tokens end each row once the prompt is shortened
    torch.testing.assert_close(a, b, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", VLM)
def test_bfloat16_runs_and_keeps_what_float32_keeps(name: str) -> None:
    z = make(name, dtype=torch.bfloat16)
    out, report = generate(z, "random(keep=0.5)")
    assert logits_of(out).isfinite().all()
    seen = visible(z.model, report, out.past_key_values, z.inputs["input_ids"].shape)
    ref = mask_out(z.model, z.inputs, out.sequences[:, z.inputs["input_ids"].shape[1] :], seen)
    assert (logits_of(out).float() - ref.float()).abs().mean() < 0.05


@pytest.mark.parametrize("plan", ["divprune(keep=0.5)", "avgpool(keep=0.5)", "fastervlm(keep=0.5)"])
@pytest.mark.parametrize("name", VLM)
def test_gradients_flow(name: str, plan: str) -> None:
    z = make(name)
    with foveate.apply(z.model, plan) as report:
        z.model(**z.inputs).logits[:, -1].square().sum().backward()
    grads = [p.grad for p in z.model.get_encoder(modality="image").parameters() if p.grad is not None]
    assert grads
    assert any(bool((g != 0).any()) for g in grads)
    assert all(bool(g.isfinite().all()) for g in grads)
    ours = z.model.get_input_embeddings().weight.grad.clone()
    z.model.zero_grad()
    run = MaskOut(z.model)
    seen = visible(z.model, report, None, z.inputs["input_ids"].shape)
    run.feed(seen, **z.inputs)[:, -1].square().sum().backward()
    torch.testing.assert_close(ours, z.model.get_input_embeddings().weight.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("plan", ["divprune(keep=0.5)", "fastv(layer=1, keep=0.5)"])
def test_embeddings_alone_are_refused(plan: str) -> None:
    z = make("llava")
    x = z.model.get_input_embeddings()(z.inputs["input_ids"])
    with foveate.apply(z.model, plan), pytest.raises(InputError, match="with input_ids"):
        z.model(inputs_embeds=x, attention_mask=z.inputs["attention_mask"])


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "llava_onevision"])
def test_a_prompt_of_text_alone_is_left_alone(name: str) -> None:
    z = make(name)
    z.inputs = {k: v[:, :3] for k, v in z.inputs.items() if k in ("input_ids", "attention_mask")}
    report = check_same(z, "divprune(keep=0.1)")
    assert not report.kept
