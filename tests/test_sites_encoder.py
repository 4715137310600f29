"""Stage encoder, against a slow re-run of the whole tower that shares no code with the library.

The re-run merges tokens one by one, attends with explicit masks over the full sequence, and takes from the model only
its weights: norms, projections, MLPs.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, elu
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

import foveate
from foveate.families import families
from foveate.testing import FAMILIES, tiny_vlm
from foveate.testing.maskout import MaskOut, visible
from foveate.testing.tiny_prompt import Ask, Tiny
from site_kit import KINDS, cases, check_maskout, check_same, generate, logits_of, make, new_tokens

VIT, VLM = FAMILIES["vit"], FAMILIES["vlm"]
PACKED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SHORTER = [n for n in VLM if families()[n].drop]


# --- the slow re-run ------------------------------------------------------------------------------------------------


@dataclass
class Token:
    """One token of one image: its features (patches, D), how many it stands for, and who is in it."""

    x: Tensor
    size: float
    at: int  # the place it inherits
    members: list[int]


def tome(tokens: list[Token], metric: list[Tensor], prefix: int, r: int) -> list[tuple[int, int]]:
    """(source, destination) pairs: each even token's best odd one, the r best pairs."""
    pairs = []
    for i in range(0, len(tokens), 2):
        if i < prefix:
            continue
        odd = [j for j in range(1, len(tokens), 2) if j >= prefix]
        sims = [float(cosine_similarity(metric[i], metric[j], dim=0)) for j in odd]
        best = max(range(len(odd)), key=lambda k: sims[k])
        pairs.append((sims[best], i, odd[best]))
    pairs.sort(key=lambda p: -p[0])
    return [(i, j) for _, i, j in pairs[:r]]


def pitome(tokens: list[Token], metric: list[Tensor], prefix: int, ratio: float) -> list[tuple[int, int]]:
    """(source, destination) pairs among the tokens of highest energy."""
    body = torch.stack(metric[prefix:])
    n = len(body)
    unit = body / body.norm(dim=-1, keepdim=True)
    energy = elu(unit @ unit.T - 0.9).mean(-1)
    r = int(n - n * ratio + 1e-9)
    rank = energy.argsort(descending=True)[: 2 * r].tolist()
    a, b = rank[::2], rank[1::2]
    return [(i + prefix, max(b, key=lambda j: float(unit[i] @ unit[j])) + prefix) for i in a]


def merged(tokens: list[Token], pairs: list[tuple[int, int]]) -> list[Token]:
    """Tokens after merging, in spatial order."""
    into: dict[int, list[int]] = {}
    for i, j in pairs:
        into.setdefault(j, []).append(i)
    gone = {i for i, _ in pairs}
    out = []
    for j, t in enumerate(tokens):
        if j in gone:
            continue
        group = [t, *[tokens[i] for i in into.get(j, [])]]
        size = sum(g.size for g in group)
        x = sum((g.x * g.size for g in group), torch.zeros_like(t.x)) / size
        out.append(Token(x, size, t.at, [m for g in group for m in g.members]))
    return out


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """q, k, v (H, n, d), mask (n, n) bool, bias (n,) -> output (n, H * d) and the attention (H, n, n)."""
    logits = (q @ k.mT * scale + bias).masked_fill(~mask, -torch.inf)
    a = logits.softmax(-1)
    return (a @ v).transpose(0, 1).flatten(1), a


def child(block: Any, *names: str) -> Any:
    found = next((m for n in names if (m := getattr(block, n, None)) is not None), torch.nn.Identity())
    return getattr(found, "dense", found)


def run_blocks(
    blocks: Any, start: Tensor, prefix: int, pick: Any, bias: bool
) -> tuple[list[Token], list[list[Token]], list[Tensor]]:
    """start (n, D) -> tokens after the last block, after each block, and each block's attention."""
    tokens = [Token(x[None], 1.0, i, [i]) for i, x in enumerate(start)]
    after, maps = [], []
    for block in blocks:
        attn = child(block, "attention", "self_attn")
        inner = getattr(attn, "attention", attn)  # older towers nest it
        x = torch.cat([t.x for t in tokens])
        n, d = x.shape
        h = child(block, "layernorm_before", "layer_norm1", "norm1")(x)
        q, k, v = (
            child(inner, f"{c[0]}_proj", c)(h).view(n, 4, d // 4).transpose(0, 1) for c in ("query", "key", "value")
        )
        sizes = torch.tensor([t.size for t in tokens])
        full = torch.ones(n, n, dtype=torch.bool)
        y, a = attend(q, k, v, (d // 4) ** -0.5, full, sizes.log() if bias else torch.zeros(n))
        maps.append(a)
        x = x + child(block, "layer_scale1")(child(attn, "o_proj", "out_proj", "output")(y))
        tokens = [Token(x[i][None], t.size, t.at, t.members) for i, t in enumerate(tokens)]
        metric = list(k.mean(0))
        tokens = merged(tokens, pick(tokens, metric, prefix))
        x = torch.cat([t.x for t in tokens])
        x = x + child(block, "layer_scale2")(block.mlp(child(block, "layernorm_after", "layer_norm2", "norm2")(x)))
        tokens = [Token(x[i][None], t.size, t.at, t.members) for i, t in enumerate(tokens)]
        after.append(tokens)
    return tokens, after, maps


def blocks_of(model: Any) -> Any:
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    return max(lists, key=len)


def recorded(model: Any, blocks: Any, run: Any) -> tuple[list[Tensor], list[dict[str, Any]], list[Tensor]]:
    """Inputs, keyword arguments and outputs of every block during ``run()``."""
    entered: list[Tensor] = []
    named: list[dict[str, Any]] = []
    left: list[Tensor] = []

    def before(block: Any, args: Any, kwargs: Any) -> None:
        entered.append(args[0])
        named.append(kwargs)

    hooks = []
    for block in blocks:
        hooks.append(block.register_forward_pre_hook(before, with_kwargs=True))
        hooks.append(block.register_forward_hook(lambda m, a, o: left.append(o[0] if isinstance(o, tuple) else o)))
    try:
        run()
    finally:
        for h in hooks:
            h.remove()
    return entered, named, left


PLANS = [
    ("tome(r=4)", lambda t, m, p: tome(t, m, p, 4), True),
    ("tome(r=3, proportional=False)", lambda t, m, p: tome(t, m, p, 3), False),
    ("pitome(ratio=0.8)", lambda t, m, p: pitome(t, m, p, 0.8), False),
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


def run_packed(tower: Any, start: Tensor, named: list[dict[str, Any]], frames: list[int], r: int) -> list[Tensor]:
    """start (patches, D) in the tower's order; merge groups of four patches; frames: groups in each."""
    u = 4
    groups = [Token(g, 1.0, i, [i]) for i, g in enumerate(start.unflatten(0, (-1, u)))]
    frame = [f for f, n in enumerate(frames) for _ in range(n)]
    out = []
    for block, given in zip(tower.blocks, named):
        edges = (given["cu_seqlens"] // u).tolist()
        cos, sin = given["position_embeddings"]
        x = torch.cat([t.x for t in groups])
        n, d = x.shape
        h = block.norm1(x)
        q, k, v = block.attn.qkv(h).view(n, 3, 4, d // 4).unbind(1)
        at = torch.cat([torch.arange(t.at * u, t.at * u + u) for t in groups])
        q, k = apply_rotary_pos_emb_vision(q, k, cos[at], sin[at])
        span = torch.tensor([sum(e <= t.at for e in edges) for t in groups]).repeat_interleave(u)
        sizes = torch.tensor([t.size for t in groups]).repeat_interleave(u)
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
        y, _ = attend(q, k, v, (d // 4) ** -0.5, span[:, None] == span[None], sizes.log())
        x = x + block.attn.proj(y)
        groups = [Token(g, t.size, t.at, t.members) for g, t in zip(x.unflatten(0, (-1, u)), groups)]
        metric = k.mean(0).unflatten(0, (-1, u)).mean(1)
        new: list[Token] = []
        for f in range(len(frames)):
            mine = [i for i, t in enumerate(groups) if frame[t.at] == f]
            rows = [groups[i] for i in mine]
            new += merged(rows, tome(rows, [metric[i] for i in mine], 0, min(r, len(rows) // 2)))
        groups = new
        x = torch.cat([t.x for t in groups])
        x = x + block.mlp(block.norm2(x))
        groups = [Token(g, t.size, t.at, t.members) for g, t in zip(x.unflatten(0, (-1, u)), groups)]
        out.append(x)
    return out


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
    score[0] = torch.inf
    ranked = sorted((i + first for i in kept), key=lambda i: (-float(score[i]), i))[:10]
    (k,) = report.kept
    assert k.reduction.keep[0].tolist() == sorted(i - first for i in ranked)


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
