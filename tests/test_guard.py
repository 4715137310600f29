"""The guard declines what would not pay, says so, and then leaves the model as fast and as exact as without a plan."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import foveate
from foveate.sites import guard
from foveate.sites.model import anatomy
from foveate.testing import tiny

#: Plans whose saving on a tiny model is less than the time of a few small operations.
POOR = ["divprune(keep=0.9)", "random(keep=0.9)", "fastv(layer=3, keep=0.9)", "tome(r=1)", "pitome(ratio=0.98)"]


@pytest.fixture(autouse=True)
def _uncalibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FLOPs are counted, whatever was measured on this machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize("plan", POOR)
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
@torch.no_grad()
def test_what_would_not_pay_is_declined_and_changes_nothing(name: str, plan: str) -> None:
    t = tiny(name)
    bare = t.model(**t.inputs).logits
    with foveate.apply(t.model, plan, guard=True) as report:
        out = t.model(**t.inputs).logits
    assert torch.equal(out, bare)
    assert len(report.declined) == 1
    assert report.declined[0].startswith(plan.partition("(")[0])
    assert "would save" in report.declined[0]
    assert report.flops == report.flops_full


@pytest.mark.parametrize("plan", POOR)
@torch.no_grad()
def test_without_the_guard_a_plan_does_what_it_says(plan: str) -> None:
    t = tiny("llava")
    with foveate.apply(t.model, plan) as report:
        t.model(**t.inputs)
    assert not report.declined
    assert any(r.tokens_out < r.tokens_in for r in report.rows)


def test_what_pays_is_not_declined() -> None:
    """At the size of a small real model, the usual plans pay."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        config = LlamaConfig(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14)
        parts = anatomy(LlamaForCausalLM(config))
    from foveate.tokens import Tokens

    tokens = Tokens(torch.empty(1, 2048, 896, device="meta"))
    for plan in ("divprune(keep=0.25)", "random(keep=0.5)"):
        assert guard.inputs(parts, foveate.parse(plan)[0], tokens, 2100) is None
    for plan, layer in (("fastv(layer=2, keep=0.5)", 2), ("pyramiddrop", 18)):
        assert guard.layers(parts, foveate.parse(plan)[0], layer, 1024, 2048, 1076) is None


def test_a_tower_of_usual_size_is_shortened() -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    with torch.device("meta"):
        model = CLIPVisionModel(CLIPVisionConfig(hidden_size=1024, num_attention_heads=16, num_hidden_layers=24))
    parts = anatomy(model)
    assert guard.tower(parts, foveate.parse("tome(r=16)"), 577, 1, 1, 64) is None
    assert guard.tower(parts, foveate.parse("tome(r=0)"), 577, 1, 1, 64) is not None


@pytest.mark.parametrize("plan", ["tome(r=4)", "tome(r=8, inflect=0.5)", "tome(stride=4)", "pitome(ratio=0.8)"])
@pytest.mark.parametrize(("n", "prefix"), [(36, 0), (37, 1), (9, 2)])
def test_encoder_methods_drop_as_many_as_they_announce(plan: str, n: int, prefix: int) -> None:
    (m,) = foveate.parse(plan)
    x = torch.randn(1, n, 8)
    for layer in m.at(4):
        tokens = foveate.Tokens(x, prefix, layer=layer, layers=4, metric=x, size=torch.ones(1, n))
        announced = m.drops(n, prefix, layer, 4)
        assert n - m.reduce(tokens).m == announced
