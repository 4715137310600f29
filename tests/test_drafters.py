"""Every drafter leaves the words as they are: alone, in batches, and over caches that hold less than they saw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from decode_kit import GREEDY, nearly, placed
from foveate.apply import apply
from foveate.decode.aded import ADED
from foveate.decode.del_exit import Del
from foveate.decode.flash_sd import FlashSD
from foveate.decode.fspad import FSPAD
from foveate.decode.pearl import Pearl
from foveate.decode.ppd import PPD
from foveate.decode.rapid import Rapid
from foveate.decode.rsd import RSD
from foveate.decode.swift import Swift
from foveate.decode.token_recycling import TokenRecycling
from foveate.decode.unified_layer_skip import UnifiedLayerSkip, reserved
from foveate.decode.vispec import ViSpec
from foveate.errors import PlanError
from foveate.testing import tiny

#: by name: whether it needs a draft model, and how it is made.
DRAFTERS: dict[str, Callable[[Any], Any]] = {
    "aded": lambda _: ADED(iterations=20),
    "del_exit": lambda _: Del(tokens=3),
    "pearl": lambda small: Pearl(draft=small, tokens=3),
    "rapid": lambda _: Rapid(chunk=2, top=2, question=4, tokens=3),
    "rsd": lambda small: RSD(draft=small, branches=(2, 2, 1)),
    "rsd_beam": lambda small: RSD(draft=small, branches=(1, 1), beam=3),
    "swift": lambda _: Swift(tokens=4, top=3, trial=4),
    "token_recycling": lambda _: TokenRecycling(nodes=10),
}


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "qwen2_5_vl"])
@pytest.mark.parametrize("which", DRAFTERS)
def test_greedy_output_is_token_identical(which: str, name: str) -> None:
    for ragged in (False, True):
        zoo = tiny(name, ragged=ragged)
        plain = zoo.model.generate(**zoo.inputs, **GREEDY)
        if which == "rapid" and name == "qwen2_5_vl":
            zoo.inputs = {k: v for k, v in zoo.inputs.items() if k in ("input_ids", "attention_mask")}
            plain = zoo.model.generate(**zoo.inputs, **GREEDY)
        drafting = DRAFTERS[which](nearly(name))
        with placed(zoo.model, drafting) as report:
            for _ in range(2):
                assert torch.equal(zoo.model.generate(**zoo.inputs, **GREEDY), plain), str(drafting)
        assert report.decode["drafted"] > 0 or which == "del_exit"
        assert not any(m.__dict__.get("forward") for m in zoo.model.modules())


@pytest.mark.parametrize("which", DRAFTERS)
def test_greedy_output_on_a_shortened_cache(which: str) -> None:
    zoo = tiny("llama", ragged=True)
    for plan in ("snapkv(keep=0.5)", "adakv(keep=0.5)"):
        with apply(zoo.model, plan):
            plain = zoo.model.generate(**zoo.inputs, **GREEDY)
        with apply(zoo.model, [plan, DRAFTERS[which](nearly("llama"))]):
            assert torch.equal(zoo.model.generate(**zoo.inputs, **GREEDY), plain), (plan, which)


@pytest.mark.parametrize("method", [ViSpec, FlashSD])
def test_a_draft_model_sees_fewer_visual_tokens(method: Any) -> None:
    zoo = tiny("qwen2_5_vl")
    plain = zoo.model.generate(**zoo.inputs, **GREEDY)
    small = nearly("qwen2_5_vl")
    with placed(zoo.model, method(draft=small)) as report:
        assert torch.equal(zoo.model.generate(**zoo.inputs, **GREEDY), plain)
    assert report.decode["drafted"] > 0
    assert not small._forward_pre_hooks


def test_unified_layer_skip_runs_fewer_layers() -> None:
    zoo = tiny("llama")
    layers = zoo.model.model.layers
    runs = [0] * len(layers)
    hooks = [
        layer.self_attn.register_forward_hook(lambda *_, i=i: runs.__setitem__(i, runs[i] + 1))
        for i, layer in enumerate(layers)
    ]
    method = UnifiedLayerSkip(speedup=2.0)
    with placed(zoo.model, method):
        out = zoo.model.generate(**zoo.inputs, **GREEDY)
    for hook in hooks:
        hook.remove()
    stay = method.reserved(len(layers))
    assert out.shape[1] == zoo.inputs["input_ids"].shape[1] + GREEDY["max_new_tokens"]
    assert runs == [24 if i in stay else 1 for i in range(len(layers))]
    with placed(zoo.model, UnifiedLayerSkip(speedup=1.0)):
        assert torch.equal(zoo.model.generate(**zoo.inputs, **GREEDY), zoo.model.generate(**zoo.inputs, **GREEDY))
    assert reserved(12, 3) == (0, 4, 8, 11)


def head_for(model: Any, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of a draft head as wide as a tiny model, drawn at random."""
    words = model.get_input_embeddings().weight.detach()
    d, generator = words.shape[1], torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    made = {"embed_tokens.weight": words, "fc.fc.weight": draw(d, 2 * d), "fc.fc.bias": draw(d)}
    made |= {f"layers.0.self_attn.{n}_proj.weight": draw(d, d) for n in "qkvo"}
    for at, out in (("fc", d), ("layers.0", 2 * d)):
        made |= {f"{at}.mlp.{n}_proj.weight": draw(48, d) for n in ("gate", "up")}
        made |= {f"{at}.mlp.down_proj.weight": draw(out, 48)}
        made |= {f"{at}.post_attention_layernorm.weight": torch.ones(d)}
    return made


@pytest.mark.parametrize("name", ["llama", "qwen2_5_vl"])
def test_a_trained_head_drafts_from_features(name: str, tmp_path: Any) -> None:
    from safetensors.torch import save_file

    zoo = tiny(name, ragged=True)
    plain = zoo.model.generate(**zoo.inputs, **GREEDY)
    file = tmp_path / "head.safetensors"
    save_file({k: v.contiguous().clone() for k, v in head_for(zoo.model).items()}, file)
    drafting = FSPAD(weights=str(file), heads=4, nodes=8, depth=2, top=3)
    with placed(zoo.model, drafting) as report:
        assert torch.equal(zoo.model.generate(**zoo.inputs, **GREEDY), plain)
    assert report.decode["drafted"] > 0


def test_a_head_that_does_not_fit_is_refused(tmp_path: Any) -> None:
    zoo = tiny("llama")
    wrong = {"fc.fc.weight": torch.zeros(8, 16)}
    for drafting, words in (
        (FSPAD(), "weights"),
        (FSPAD(weights=wrong), "8 wide"),
        (FSPAD(weights=str(tmp_path / "none")), "cannot be read"),
    ):
        with placed(zoo.model, drafting), pytest.raises(PlanError, match=words):
            zoo.model.generate(**zoo.inputs, **GREEDY)


@pytest.mark.parametrize("name", ["llama", "qwen2_5_vl"])
def test_prompt_tokens_guess_and_leave_no_trace(name: str) -> None:
    for ragged in (False, True):
        zoo = tiny(name, ragged=ragged)
        plain = zoo.model.generate(**zoo.inputs, **GREEDY)
        soft = torch.randn(3, zoo.model.get_input_embeddings().weight.shape[1])
        hooks = len(zoo.model.get_input_embeddings()._forward_hooks)
        with placed(zoo.model, PPD(weights={"prompt_tokens": soft}, limit=20)) as report:
            assert torch.equal(zoo.model.generate(**zoo.inputs, **GREEDY), plain)
        assert report.decode["drafted"] > 0
        assert len(zoo.model.get_input_embeddings()._forward_hooks) == hooks


def test_prompt_tokens_need_weights_and_masks() -> None:
    zoo = tiny("llama")
    with placed(zoo.model, PPD()), pytest.raises(PlanError, match="prompt tokens"):
        zoo.model.generate(**zoo.inputs, **GREEDY)
    given = {"prompt_tokens": torch.zeros(3, 32)}
    with apply(zoo.model, ["kivi", PPD(weights=given)]), pytest.raises(PlanError, match="mask"):
        zoo.model.generate(**zoo.inputs, **GREEDY)
