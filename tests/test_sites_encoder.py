"""Stage encoder, against a slow re-run of the whole tower that shares no code with the library."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

import foveate
from foveate.families import families
from foveate.testing import FAMILIES, tiny_vlm
from foveate.testing.maskout import MaskOut, visible
from foveate.testing.tiny_prompt import Ask, Tiny
from site_kit import KINDS, cases, check_maskout, check_same, generate, logits_of, make, new_tokens
from slow_tower import Token, blocks_of, pitome, recorded, run_blocks, run_packed, tome

VIT, VLM = FAMILIES["vit"], FAMILIES["vlm"]
PACKED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SHORTER = [n for n in VLM if families()[n].drop]


PLANS = [
    ("tome(r=4)", lambda t, m, p: tome(t, m, p, 4), True),
    ("tome(r=3, proportional=False)", lambda t, m, p: tome(t, m, p, 3), False),
    ("pitome(ratio=0.8)", lambda t, m, p: pitome(t, m, p, 0.8), True),
    ("pitome(ratio=0.8, proportional=False)", lambda t, m, p: pitome(t, m, p, 0.8), False),
]


@pytest.mark.parametrize(("plan", "pick", "bias"), PLANS, ids=[p[0] for p in PLANS])
@pytest.mark.parametrize("attn", KINDS)
@pytest.mark.parametrize("name", VIT)
@torch.no_grad()
def test_plain_towers(name: str, attn: str, plan: str, pick: Any, bias: bool) -> None:
    z = make(name, attn, batch=2)
    prefix = {"siglip": 0, "deit": 2}.get(name, 1)
    blocks = blocks_of(z.model)
    entered, _, _ = recorded(z.model, blocks, lambda: z.model(**z.inputs))
    start = entered[0]
    with foveate.apply(z.model, plan):
        entered, _, left = recorded(z.model, blocks, lambda: z.model(**z.inputs))
    for row in range(2):
        _, after, _ = run_blocks(blocks, start[row], prefix, pick, bias)
        for i, tokens in enumerate(after):
            assert left[i].shape[1] == len(tokens) < start.shape[1]
            torch.testing.assert_close(left[i][row], torch.cat([t.x for t in tokens]), atol=1e-5, rtol=1e-5)
        assert [e.shape[1] for e in entered[1:]] == [len(t) for t in after[:-1]]  # physically shorter


@pytest.mark.parametrize("attn", KINDS)
@pytest.mark.parametrize("name", VIT)
@torch.no_grad()
def test_merging_nothing_is_the_bare_tower(name: str, attn: str) -> None:
    z = make(name, attn, batch=2)
    bare = z.model(**z.inputs)
    for plan in ("tome(r=0)", "pitome(ratio=1.0)"):
        with foveate.apply(z.model, plan):
            out = z.model(**z.inputs)
        assert torch.equal(out.last_hidden_state, bare.last_hidden_state)
        assert torch.equal(z.model(**z.inputs).last_hidden_state, bare.last_hidden_state)


@pytest.mark.parametrize("attn", KINDS)
@pytest.mark.parametrize(("name", "more"), cases("vlm"))
def test_merging_nothing_is_the_bare_model(name: str, more: dict[str, Any], attn: str) -> None:
    z = make(name, attn, **more)
    for plan in ("tome(r=0)", "pitome(ratio=1.0)"):
        check_same(z, plan)


@torch.no_grad()
def test_the_vision_half_of_a_pair_of_towers() -> None:
    import transformers as hf

    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "vocab_size": 99,
    }
    config = hf.CLIPConfig(text_config=text, vision_config=tiny_vlm.TOWER | {"image_size": 32})
    model = hf.CLIPModel(config).eval()
    pixels = torch.randn(1, 3, 32, 32)
    with foveate.apply(model, "tome(r=4)") as report:
        model.get_image_features(pixel_values=pixels)
    assert (report.rows[0].tokens_in, report.rows[0].tokens_out) == (65, 65 - 12)


# --- packed towers: frames and windows ------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"images": 2}, {"video": True}], ids=["one", "two", "video"])
@pytest.mark.parametrize("attn", KINDS)
@pytest.mark.parametrize("name", PACKED)
@torch.no_grad()
def test_packed_towers(name: str, attn: str, more: dict[str, Any]) -> None:
    z = make(name, attn, **more)
    tower = z.model.get_encoder(modality="image")
    entered, named, _ = recorded(z.model, tower.blocks, lambda: z.model(**z.inputs))
    grid = z.inputs.get("image_grid_thw", z.inputs.get("video_grid_thw"))
    frames = [int(h * w) // 4 for t, h, w in grid.tolist() for _ in range(t)]
    wanted = run_packed(tower, entered[0], named, frames, 3)
    for plan in ("tome(r=3)", "tome(r=3, variant='code')"):
        with foveate.apply(z.model, plan):
            _, _, left = recorded(z.model, tower.blocks, lambda: z.model(**z.inputs))
        for got, want in zip(left, wanted):
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
        assert [len(t) for t in left] == [4 * (sum(frames) - 3 * len(frames) * (i + 1)) for i in range(3)]


# --- what the LLM gets ----------------------------------------------------------------------------------------------


def encode(z: Tiny) -> dict[str, Any]:
    """The tower's outputs, as generate would hand them to the model."""
    out = {}
    for kind, name in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        if name in z.inputs:
            call = getattr(z.model.base_model, f"get_{kind}_features")
            given = {k: z.inputs[k] for k in inspect.signature(call).parameters if k in z.inputs}
            given = {k: v for k, v in given.items() if not k.startswith("pixel_values")}
            out[kind] = call(z.inputs[name], **given, return_dict=True)
    return out


MERGING = ("tome(r=4)", "pitome(ratio=0.8)", "tome(r=2) + divprune(keep=0.5) + snapkv(keep=0.5)")


@pytest.mark.parametrize(("plan", "warm"), [*((p, False) for p in MERGING), (MERGING[0], True)])
@pytest.mark.parametrize(("name", "more"), cases("vlm"))
@torch.no_grad()
def test_what_the_llm_sees(
    name: str, more: dict[str, Any], warm: bool, plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens merged away in the tower are dropped from the prompt where an LLM token is a tower token, and only there;
    the others read the merged features."""
    z = make(name, **more)
    if warm:
        z.model(**z.inputs, output_hidden_states=True)
    out, report = generate(z, plan)
    with foveate.apply(z.model, plan.split(" + ")[0]) as encoding:
        features = encode(z)
    tower = next(r for r in encoding.rows if r.stage == "encoder")
    assert tower.tokens_out < tower.tokens_in
    seen = visible(z.model, report, out.past_key_values, z.inputs["input_ids"].shape)
    if "divprune" not in plan:
        dropped = sum(int((~k.reduction.kept).sum()) for k in report.kept)
        assert (dropped > 0) == (name in SHORTER)
    run = MaskOut(z.model)
    mask = z.inputs["attention_mask"]
    for kind, given in features.items():  # the bare model's tower is not asked
        monkeypatch.setattr(z.model.base_model, f"get_{kind}_features", lambda *a, given=given, **k: given)
    logits = [run.feed(seen, **z.inputs)[:, -1]]
    said = new_tokens(z, out)
    for i in range(said.shape[1] - 1):
        mask = torch.cat([mask, mask[:, -1:]], 1)
        logits.append(run.feed(input_ids=said[:, i : i + 1], attention_mask=mask)[:, -1])
    torch.testing.assert_close(logits_of(out), torch.stack(logits, 1), atol=2e-5, rtol=0)


@pytest.mark.parametrize("layers", [-2, -1, [-3, -2], [-1, -3]])
@pytest.mark.parametrize("select", ["default", "full"])
@pytest.mark.parametrize("attn", KINDS)
@torch.no_grad()
def test_llava_reads_the_right_hidden_state(attn: str, select: str, layers: Any) -> None:
    """The slow re-run of LLaVA's tower gives the features, the dropped tokens, and the class token's attention."""
    z = llava(layers, select, attn)
    tower = z.model.get_encoder(modality="image")
    blocks = blocks_of(tower)
    entered, _, _ = recorded(z.model, blocks, lambda: z.model(**z.inputs))
    _, after, maps = run_blocks(blocks, entered[0][0], 1, lambda t, m, p: tome(t, m, p, 4), True)
    read = layers if isinstance(layers, list) else [layers]
    first = 0 if select == "full" else 1
    parts = []
    for i in read:
        here = len(blocks) + i  # hidden state -1 is what the last block leaves
        tokens = after[here] if here >= 0 else [Token(x[None], 1.0, j, [j]) for j, x in enumerate(entered[0][0])]
        full = torch.zeros(65, 32)
        for t in tokens:
            full[t.members] = t.x
        parts.append(full[first:])
    wanted = z.model.base_model.multi_modal_projector(torch.cat(parts, -1))
    with foveate.apply(z.model, "tome(r=4)") as report:
        got = encode(z)["image"].pooler_output
        torch.testing.assert_close(torch.cat(list(got))[: len(wanted)], wanted, atol=1e-5, rtol=1e-5)
        z.model(**z.inputs)
    deepest = max(len(blocks) + i for i in read)
    kept = [t.at - first for t in after[deepest] if t.at >= first]
    (k,) = report.kept
    assert k.reduction.keep[0].tolist() == kept
    with foveate.apply(z.model, "tome(r=4) + fastervlm(keep=10)") as report:
        z.model(**z.inputs)
    row = maps[deepest][:, 0].mean(0)  # what the block that feeds the projector let the class token see
    before = after[deepest - 1] if deepest else [Token(x[None], 1.0, j, [j]) for j, x in enumerate(entered[0][0])]
    score = torch.zeros(65)
    for t, s in zip(before, row):
        score[t.members] = s
    patches = [i + first for i in kept if i + first > 0]  # a class token that the LLM is given always stays
    ranked = sorted(patches, key=lambda i: (-float(score[i]), i))[:10]
    (k,) = report.kept
    assert k.reduction.keep[0].tolist() == sorted(i - 1 for i in ranked)


def llava(layers: Any, select: str, attn: str) -> Tiny:
    import transformers as hf

    torch.manual_seed(0)
    tokens = 64 + (select == "full")
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**tiny_vlm.TOWER, image_size=32, projection_dim=32),
        text_config=hf.LlamaConfig(**tiny_vlm.TEXT),
        image_token_index=100,
        image_seq_length=tokens,
        vision_feature_layer=layers,
        vision_feature_select_strategy=select,
    )
    z = tiny_vlm._squares(Ask("llava"), hf.LlavaForConditionalGeneration(config), 32, tokens)
    for p in z.model.parameters():
        if p.ndim > 1:
            p.data.normal_(std=p[0].numel() ** -0.5)
    z.model.set_attn_implementation(attn)
    z.model.eval()
    return z


@pytest.mark.parametrize(("name", "more"), cases("vlm"))
def test_scores_of_a_merging_tower_drop_as_masks(name: str, more: dict[str, Any]) -> None:
    """Selecting by encoder attention and merging in the encoder go together."""
    z = make(name, **more)
    out, report = generate(z, "tome(r=2) + fastervlm(keep=0.5)")
    rows = {r.stage: r for r in report.rows if r.tokens_in}
    assert rows["inputs"].tokens_out < rows["inputs"].tokens_in
    assert logits_of(out).isfinite().all()
    ragged = make(name, batch=2, ragged=True) if not more else None
    if ragged is not None:
        both, _ = generate(ragged, "tome(r=2) + fastervlm(keep=0.5)")
        torch.testing.assert_close(logits_of(both)[0], logits_of(out)[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["idefics3", "smolvlm"])
@pytest.mark.parametrize("attn", KINDS)
@torch.no_grad()
def test_padded_images_run_unshortened(name: str, attn: str) -> None:
    z = make(name, attn)
    z.inputs["pixel_attention_mask"] = z.inputs["pixel_attention_mask"].clone()
    z.inputs["pixel_attention_mask"][..., 32:] = 0
    report = check_same(z, "tome(r=4)")
    assert any("padded" in why for why in report.declined)
    check_maskout(z, "fastervlm(keep=0.5)")


@pytest.mark.parametrize("name", [*VIT, "llava", "qwen2_5_vl", "internvl"])
def test_gradients_flow(name: str) -> None:
    z = make(name)
    with foveate.apply(z.model, "tome(r=4)"):
        out = z.model(**z.inputs)
        (out.last_hidden_state if name in VIT else out.logits[:, -1]).square().sum().backward()
    grads = [p.grad for p in z.model.parameters() if p.grad is not None]
    assert grads
    assert all(bool(g.isfinite().all()) for g in grads)


@pytest.mark.parametrize("name", VIT)
@torch.no_grad()
def test_half_precision(name: str) -> None:
    z = make(name, dtype=torch.bfloat16)
    with foveate.apply(z.model, "tome(r=4)"):
        out = z.model(**z.inputs).last_hidden_state
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()
