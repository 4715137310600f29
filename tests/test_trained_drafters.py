"""Drafters that need trained weights: they leave the words as they are, and right weights make right guesses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from decode_kit import GREEDY, placed
from foveate.apply import apply
from foveate.decode._drafter import Outcome
from foveate.decode.chimera import Chimera
from foveate.decode.lud import LUD, _Units
from foveate.decode.m2r2 import M2R2
from foveate.errors import PlanError
from foveate.parts.fast_residual import accelerate
from foveate.parts.trigram_head import TrigramHead
from foveate.testing import tiny

NAMES = ["llama", "qwen2_5_vl"]


def trigram_weights(model: Any, levels: int = 3) -> dict[str, Tensor]:
    words = model.get_input_embeddings().weight.detach()
    (v, d), generator = words.shape, torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    made = {"embed_tokens.weight": words, "trigram.block.weight": draw(3 * d, 3 * d), "trigram.block.bias": draw(3 * d)}
    made |= {"trigram.out.weight": draw(d, 3 * d), "trigram.out.bias": draw(d)}
    made |= {f"self_attn.{n}_proj.weight": draw(d if n in "qo" else d // 2, d) for n in "qkvo"}
    made |= {
        "mlp.gate_proj.weight": draw(48, d),
        "mlp.up_proj.weight": draw(48, d),
        "mlp.down_proj.weight": draw(d, 48),
    }
    made |= {"input_layernorm.weight": torch.ones(d), "post_attention_layernorm.weight": torch.ones(d)}
    return made | {f"heads.{i}.weight": draw(v, 2 * d) for i in range(levels)}


def fast_weights(model: Any, layers: int, scale: float = 0.1) -> dict[str, Tensor]:
    d, generator = model.get_input_embeddings().weight.shape[1], torch.Generator().manual_seed(0)
    made = {f"layers.{i}.down": torch.randn(4, d, generator=generator) for i in range(layers)}
    return made | {f"layers.{i}.up": scale * torch.randn(d, 4, generator=generator) for i in range(layers)}


def drafting(which: str, model: Any) -> Any:
    if which == "chimera":
        return Chimera(weights=trigram_weights(model), heads=4, widths=(3, 2, 1))
    if which == "m2r2":
        return M2R2(weights=fast_weights(model, 1), tokens=3, stop=0.0)
    return LUD(token=3, ahead=3, alpha=0.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", ["chimera", "m2r2", "lud"])
def test_greedy_output_is_token_identical(which: str, name: str) -> None:
    for ragged in (False, True):
        zoo = tiny(name, ragged=ragged)
        plain = zoo.model.generate(**zoo.inputs, **GREEDY)
        with placed(zoo.model, drafting(which, zoo.model)) as report:
            for _ in range(2):
                assert torch.equal(zoo.model.generate(**zoo.inputs, **GREEDY), plain)
        assert report.decode["drafted"] > 0
        assert not any(m.__dict__.get("forward") or m._forward_hooks for m in zoo.model.modules())


@pytest.mark.parametrize("which", ["chimera", "m2r2", "lud"])
def test_greedy_output_on_a_shortened_cache(which: str) -> None:
    zoo = tiny("qwen2_5_vl")
    for plan in ("divprune(keep=0.5) + snapkv(keep=0.5)", "adakv(keep=0.5)"):
        with apply(zoo.model, plan):
            plain = zoo.model.generate(**zoo.inputs, **GREEDY)
        with apply(zoo.model, [plan, drafting(which, zoo.model)]):
            assert torch.equal(zoo.model.generate(**zoo.inputs, **GREEDY), plain), plan


# --- chimera ----------------------------------------------------------------------------------------------------------


def test_a_trigram_head_reads_on_as_it_reads_at_once() -> None:
    zoo = tiny("llama")
    weights = {k.replace(".", "_"): v for k, v in trigram_weights(zoo.model).items()}
    d, ids = weights["trigram_out_weight"].shape[0], torch.randint(5, 100, (2, 12))
    states = torch.randn(2, 10, d)
    whole = TrigramHead(weights, 4).read(ids, states, 0)
    head = TrigramHead(weights, 4)
    parts = [head.read(ids[:, :6], states[:, :4], 0), head.read(ids[:, 4:7], states[:, 4:5], 4)]
    held = head.length
    head.read(ids[:, 5:9], None, 5)  # guesses, which are forgotten
    head.crop(held)
    parts.append(head.read(ids[:, 5:], states[:, 5:], 5))
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-4)
    other = states.clone()
    other[:, 7:] += 1  # states of later places change nothing before them
    again = TrigramHead(weights, 4).read(ids, other, 0)
    torch.testing.assert_close(again[:, :7], whole[:, :7], atol=1e-6, rtol=0)
    assert not torch.allclose(again[:, 7:], whole[:, 7:], atol=1e-3)


def test_heads_that_were_fitted_to_a_text_draft_it() -> None:
    zoo = tiny("llama")
    weights = trigram_weights(zoo.model, levels=1)
    text = zoo.model.generate(**zoo.inputs, **GREEDY)
    with torch.no_grad():
        states = zoo.model(text, output_hidden_states=True).hidden_states[-1].float()
    head = TrigramHead({k.replace(".", "_"): v for k, v in weights.items()}, 4)
    out = head.read(torch.nn.functional.pad(text, (2, 0))[:, 1:], states[:, :-1], 1)  # places 1, 2, ...
    seen = torch.cat([states[:, :-1], out], -1)[0, :-1]
    want = torch.nn.functional.one_hot(text[0, 2:], weights["heads.0.weight"].shape[0]).float()
    weights["heads.0.weight"] = torch.linalg.lstsq(seen.double(), want.double()).solution.T.float()
    with placed(zoo.model, Chimera(weights=weights, heads=4, widths=(1,))) as report:
        assert torch.equal(zoo.model.generate(**zoo.inputs, **GREEDY), text)
    assert report.decode["accepted"] > 0.8 * report.decode["drafted"] > 0


# --- m2r2 -------------------------------------------------------------------------------------------------------------


def test_no_matrices_leave_the_slow_stream() -> None:
    states = [torch.randn(2, 3, 8) for _ in range(4)]
    still = [(torch.randn(4, 8), torch.zeros(8, 4))] * 3
    torch.testing.assert_close(accelerate(states, still), states[-1])
    moved = accelerate(states, [*still[:2], (torch.randn(4, 8), torch.randn(8, 4))])
    assert not torch.allclose(moved, states[-1], atol=1e-2)


def test_matrices_that_were_fitted_to_a_text_draft_it() -> None:
    zoo = tiny("llama")
    text = zoo.model.generate(**zoo.inputs, **GREEDY)
    with torch.no_grad():
        every = zoo.model.model(text, output_hidden_states=True).hidden_states
        slow, last = every[1][0].float(), every[-2 if len(every) > 3 else -1][0].float()
    weights = fast_weights(zoo.model, 1, scale=0.0)
    seen: list[Tensor] = []
    hook = zoo.model.model.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        zoo.model(text)
    hook.remove()
    last = seen[0][0].float()
    down = torch.randn(512, slow.shape[1], generator=torch.Generator().manual_seed(0))
    start = every[0][0].float()
    normed = start * (start.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()
    lifted = torch.nn.functional.silu(normed @ down.T)
    up = torch.linalg.lstsq(lifted.double(), (last - slow).double(), driver="gelsd").solution.T.float()
    weights |= {"layers.0.down": down, "layers.0.up": up}
    rates = []
    for given in (fast_weights(zoo.model, 1, scale=0.0), weights):
        with placed(zoo.model, M2R2(weights=given, tokens=2, stop=0.0)) as report:
            assert torch.equal(zoo.model.generate(**zoo.inputs, **GREEDY), text)
        rates.append(report.decode["accepted"] / report.decode["drafted"])
    assert rates[1] > 0.5
    assert rates[1] >= rates[0]


# --- lexical units ----------------------------------------------------------------------------------------------------


def said(*words: int, sure: float = 5.0) -> Tensor:
    """(1, words, 10) logits that say these words."""
    return sure * torch.nn.functional.one_hot(torch.tensor([words]), 10).float()


def test_what_placeholders_say_is_the_next_unit() -> None:
    units = _Units(LUD(token=9, ahead=3, alpha=0.5))
    ids = torch.tensor([[1, 2]])
    assert units.draft(ids, 5).tokens.tolist() == [[9, 9, 9]]
    logits = torch.cat([said(3), said(4, 5), said(6, sure=0.1)], 1)  # the last one is not sure
    path = torch.tensor([[0]])
    units.learn(Outcome(torch.tensor([[1, 2, 3]]), torch.tensor([[2, 9, 9, 9]]), logits, 0, path))
    assert units.draft(torch.tensor([[1, 2, 3]]), 4).tokens.tolist() == [[4, 5, 9, 9]]
    # a unit of which a word is wrong: what stands behind it means nothing
    read = torch.tensor([[3, 4, 5, 9, 9]])
    units.learn(Outcome(torch.tensor([[1, 2, 3, 4, 7]]), read, said(4, 7, 8, 8, 8), 1, torch.tensor([[0, 1]])))
    assert units.draft(torch.tensor([[1, 2, 3, 4, 7]]), 2).tokens.tolist() == [[9, 9]]


def test_units_that_are_not_checked_need_fewer_forwards() -> None:
    zoo = tiny("llama")
    with placed(zoo.model, LUD(token=3, ahead=3, alpha=0.0, check=False)) as report:
        out = zoo.model.generate(**zoo.inputs, **GREEDY)
    new = out.shape[1] - zoo.inputs["input_ids"].shape[1]
    assert new == GREEDY["max_new_tokens"]
    assert report.decode["target_forwards"] <= new // 4 + 2
    with placed(zoo.model, LUD(check=False)), pytest.raises(PlanError, match="check=True"):
        zoo.model.generate(**zoo.inputs, max_new_tokens=4, do_sample=True)


# --- weights that do not fit ------------------------------------------------------------------------------------------


def test_weights_that_do_not_fit_are_refused() -> None:
    zoo = tiny("llama")
    layers = len(zoo.model.model.layers)
    narrow = {k: v[..., : v.shape[-1] // 2] for k, v in trigram_weights(zoo.model).items()}
    for method, words in (
        (Chimera(), "weights"),
        (Chimera(weights={"embed_tokens.weight": torch.zeros(4, 8)}), "lack"),
        (Chimera(weights=narrow, heads=4), "wide"),
        (M2R2(), "weights"),
        (M2R2(weights=fast_weights(zoo.model, layers)), "at most layer"),
        (M2R2(weights={"layers.0.down": torch.zeros(2, 8)}), "needs down"),
        (M2R2(weights={"layers.0.down": torch.zeros(2, 8), "layers.0.up": torch.zeros(8, 2)}), "8 wide"),
        (LUD(token=10**6), "placeholder"),
    ):
        with placed(zoo.model, method), pytest.raises(PlanError, match=words):
            zoo.model.generate(**zoo.inputs, **GREEDY)
