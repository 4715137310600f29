"""Relevance of visual tokens: what each method promises, on toys worked out by hand and on the tiny models."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import foveate
from foveate.attribution import (
    HOW,
    Case,
    RelevanceNet,
    attention_rollout,
    explain,
    first_attention,
    fit,
    grad_input,
    intra,
    opened,
    overlap,
    reagent,
    relevance,
)
from foveate.attribution.case import Item
from foveate.attribution.intra import blurred
from foveate.errors import InputError, UnsupportedModelError
from foveate.testing import FAMILIES, tiny
from foveate.testing.tiny_prompt import Tiny

torch.set_num_threads(1)


def toy(weights: list[float], squash: bool = False, n: int = 6) -> Case:
    """A model of two words whose logits are weighted sums of n visual tokens, at every position."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, n + 2, 4, generator=draw)
    way = torch.randn(2, 4, generator=draw)

    def decoder(inputs_embeds: Tensor) -> tuple[Tensor]:
        mixed = torch.tensor(weights) @ inputs_embeds[0, 1 : n + 1]
        return (mixed.expand(1, n + 2, 4),)

    def head(hidden: Tensor) -> Tensor:
        out = hidden @ way.T
        return out.tanh() * 4 if squash else out

    parts: Any = SimpleNamespace(decoder=decoder, model=SimpleNamespace(get_output_embeddings=lambda: head))
    where = torch.arange(1, n + 1)
    items = (Item(torch.arange(n), None),)
    return Case(parts, torch.zeros(n + 2, dtype=torch.long), where, x[:, where], items, 0, {"inputs_embeds": x})


def steps(how: str) -> dict[str, Any]:
    return {"steps": 3} if how == "reagent" else {}


# --- gradient times input ---------------------------------------------------------------------------------------------


def test_gradient_times_input_of_a_linear_model_is_complete() -> None:
    case = toy([1.0, -2, 0.5, 0, 3, 1])
    score = grad_input(case)
    without = case.logits(torch.zeros_like(case.features))
    assert torch.allclose(score.sum(), (case.logits() - without)[0], atol=1e-5)


def test_a_token_that_does_not_matter_scores_nothing() -> None:
    assert grad_input(toy([1.0, -2, 0.5, 0, 3, 1], squash=True))[3] == 0


def test_tokens_that_could_be_exchanged_score_alike() -> None:
    case = toy([1.0, 1, 0.5, 0, 3, 1], squash=True)
    case.features[:, 1] = case.features[:, 0]
    score = grad_input(case)
    assert torch.allclose(score[0], score[1])


def test_tokens_against_the_target_score_below_zero() -> None:
    case = toy([1.0, 1, 1, 1, 1, 1])
    case.features[:, 1] = -case.features[:, 0]
    score = grad_input(case)
    assert torch.allclose(score[0], -score[1])


# --- attention --------------------------------------------------------------------------------------------------------


def test_rollout_is_the_product_of_halves() -> None:
    one = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5]])
    two = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0.0, 1.0, 0.0]])
    eye = torch.eye(3)
    want = ((eye + two) / 2 @ ((eye + one) / 2))[-1]
    assert torch.allclose(attention_rollout([one, two]), want)
    assert torch.allclose(attention_rollout([one, two]), torch.tensor([0.175, 0.45, 0.375]))


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
def test_explained_relevance_is_the_last_row_of_the_whole_product(family: str) -> None:
    z = tiny(family)
    with opened(z.model, z.inputs, eager=True) as case:
        score = explain(case)
        maps: list[Tensor] = []
        leaf = case.features.clone().requires_grad_()
        logit = case.attend(lambda _, a: maps.append(a), leaf)[case.target]
        slopes = torch.autograd.grad(logit, maps)
        whole = torch.eye(len(case.ids))
        for a, slope in zip(maps, slopes):
            whole = whole + (a.detach() * slope).clamp(min=0).mean((0, 1)) @ whole
        assert torch.allclose(score, whole[-1, case.where], atol=1e-6)
        assert (score >= 0).all()
        assert score.sum() > 0


def test_rollout_shares_sum_to_less_than_one_and_sinks_change_them() -> None:
    z = tiny("qwen2_vl")
    plain = relevance(z.model, z.inputs, "rollout")
    assert 0 < plain.sum() < 1
    assert torch.allclose(relevance(z.model, z.inputs, "rollout", sinks=1.0), plain, atol=1e-6)


# --- replacement ------------------------------------------------------------------------------------------------------


def test_replacement_finds_the_token_that_matters() -> None:
    case = toy([0, 0, 0, 0, 0.5, 0.0], squash=True)
    case.features[0, :, :] = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))
    way = case.parts.model.get_output_embeddings()(torch.eye(4))[:, 0]
    case.features[0, 4] = 4 * way / way.norm()  # speaks for the target
    score = reagent(case, steps=200, stop=False)
    others = score[[0, 1, 2, 3, 5]]
    assert score[4] - others.max() > 5 * (others.max() - others.min())


def test_replacement_of_equal_tokens_says_nothing() -> None:
    case = toy([1.0] * 6)
    case.features[:] = case.features[:, :1]
    assert reagent(case, steps=5).abs().max() < 1e-5


def test_replacement_is_seeded_and_leaves_the_global_state() -> None:
    case = toy([1.0, 2, 0, 0, 1, 1], squash=True)
    before = torch.get_rng_state()
    first = reagent(case, steps=4, stop=False)
    torch.rand(3)
    assert torch.equal(reagent(case, steps=4, stop=False), first)
    assert not torch.equal(reagent(case, steps=4, stop=False, seed=1), first)
    torch.set_rng_state(before)


def test_replacement_stops_once_the_best_tokens_suffice() -> None:
    case = toy([1.0, 2, 0, 0, 1, 1], squash=True)
    assert torch.equal(reagent(case, top=2), reagent(case, steps=1))  # both words are always among the first two


# --- within a modality ------------------------------------------------------------------------------------------------


def test_overlap_of_rankings() -> None:
    now = torch.tensor([4.0, 3, 2, 1, 0, -1])
    others = torch.tensor([[4.0, 3, 2, 1, 0, -1], [3.0, 4, 2, 1, 0, -1], [-1.0, 0, 1, 2, 3, 4]])
    assert torch.allclose(overlap(others, now, k=2), torch.tensor([1.0, 0.5, 0.0]))


def test_windows_average_within_a_frame() -> None:
    item = Item(torch.arange(12), (2, 2, 3))
    x = torch.arange(12.0).view(1, 12, 1)
    got = blurred(x, [item], 2)[0, :, 0].tolist()
    assert got == [2, 2, 3.5, 2, 2, 3.5, 8, 8, 9.5, 8, 8, 9.5]
    assert torch.equal(blurred(x, [item], 1), x)
    assert blurred(x, [Item(torch.arange(12), None)], 6)[0, :, 0].tolist() == [2.5] * 6 + [8.5] * 6


def test_at_one_scale_without_context_it_is_gradient_times_input() -> None:
    case = toy([1.0, -2, 0.5, 0, 3, 1], squash=True)
    plain = grad_input(case)
    assert torch.allclose(intra(case, scales=(1,), context=0), plain / plain.abs().sum())


def test_context_that_predicts_the_same_is_not_subtracted() -> None:
    case = toy([1.0, -2, 0.5, 0, 3, 1], squash=True)  # its prediction is the same at every position
    assert torch.equal(intra(case, scales=(1,), context=3), intra(case, scales=(1,), context=0))


# --- on models --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES["vlm"])
def test_an_opened_case_says_what_the_model_says(family: str) -> None:
    z = tiny(family)
    with torch.no_grad():
        want = z.model(**z.inputs).logits[0]
    for eager in (False, True):
        with opened(z.model, z.inputs, eager=eager) as case, torch.no_grad():
            assert torch.allclose(case.logits(), want[-1], atol=1e-4)
            assert torch.allclose(case.logits(at=torch.tensor([5, -1])), want[[5, -1]], atol=1e-4)
            assert case.target == int(want[-1].argmax())


def state(z: Tiny) -> list[Any]:
    """Everything about a model that a look at it must not change."""
    out: list[Any] = []
    for m in z.model.modules():
        hooks = [len(getattr(m, name)) for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")]
        out += [m.training, hooks, sorted(k for k in m.__dict__ if not k.startswith("_forward"))]
        out.append(getattr(getattr(m, "config", None), "_attn_implementation_internal", None))
    out += [(p.requires_grad, p.grad, p.data_ptr()) for p in z.model.parameters()]
    return out


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("family", FAMILIES["vlm"])
def test_every_method_scores_every_token_and_leaves_the_model_alone(family: str, how: str) -> None:
    z = tiny(family)
    z.model.train()
    z.model.get_output_embeddings().eval()
    next(z.model.parameters()).requires_grad_(False)
    before = state(z)
    rng = torch.get_rng_state()
    score = relevance(z.model, z.inputs, how, **steps(how))  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), rng)
    assert state(z) == before
    assert score.shape == (sum(z.runs[0]),)
    assert score.dtype == torch.float32
    assert score.isfinite().all()
    assert score.std() > 0
    assert torch.equal(relevance(z.model, z.inputs, how, **steps(how)), score)  # type: ignore[arg-type]


def test_the_model_is_restored_when_something_fails() -> None:
    z = tiny("qwen2_vl")
    before = state(z)
    with pytest.raises(TypeError):
        relevance(z.model, z.inputs, "explain", nonsense=1)
    with pytest.raises(IndexError):
        relevance(z.model, z.inputs, target=10**6)
    assert state(z) == before


def test_relevance_drives_a_plan() -> None:
    loaded = foveate.load("tiny")
    picture = Image.effect_noise((56, 56), 80).convert("RGB")
    message = {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "what?"}]}
    prompt = loaded.prompt([message])
    score = relevance(loaded, prompt, "intra")
    plan = foveate.methods()["given"](keep=3, scores=score.tolist())
    with torch.no_grad(), foveate.apply(loaded.model, str(plan)) as report:
        loaded.model(**prompt.inputs)
    best = score.argsort(stable=True, descending=True)[:3].sort().values
    assert report.kept[0].reduction.keep.tolist() == [best.tolist()]


def test_what_cannot_be_explained_is_refused() -> None:
    z = tiny("llava", batch=2)
    with pytest.raises(InputError, match="one prompt"):
        relevance(z.model, z.inputs)
    z = tiny("llava")
    with pytest.raises(InputError, match="one of grad_input"):
        relevance(z.model, z.inputs, "guess")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no visual"):
        relevance(z.model, {"input_ids": torch.tensor([[1, 5, 6]])})
    with pytest.raises(InputError, match="does not hold 64"):
        relevance(z.model, z.inputs, "intra", grid=(1, 7, 9))
    lm = tiny("llama")
    with pytest.raises(UnsupportedModelError, match="no visual tokens"):
        relevance(lm.model, lm.inputs)


# --- the predictor ----------------------------------------------------------------------------------------------------


def pairs(count: int, h: int, w: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Attention of three heads, and a relevance that is the second head's, blurred over 3 x 3 cells."""
    draw = torch.Generator().manual_seed(seed)
    maps = [torch.randn(3, h * w, generator=draw).mul(2).softmax(-1).view(3, 1, h, w) for _ in range(count)]
    blur = [nn.functional.avg_pool2d(a[None, 1], 3, 1, 1).flatten() for a in maps]
    return maps, blur


def test_the_predictor_learns_and_reads_larger_grids() -> None:
    net = fit(*pairs(16, 6, 6, seed=0), steps=150)
    maps, wanted = pairs(4, 12, 12, seed=1)
    for a, relevant in zip(maps, wanted):
        said, share = net(a[None])[0], relevant / relevant.sum()
        assert torch.allclose(said.exp().sum(), torch.tensor(1.0))
        even = torch.full_like(said, 1 / 144).log()
        miss, blind = (nn.functional.kl_div(p, share, reduction="sum") for p in (said, even))
        assert miss < 0.35 * blind
        assert torch.corrcoef(torch.stack([said.exp(), share]))[0, 1] > 0.8


def test_the_predictor_is_seeded_and_leaves_the_global_state() -> None:
    before = torch.get_rng_state()
    one, two = (fit(*pairs(2, 4, 4, seed=0), steps=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))
    other = fit(*pairs(2, 4, 4, seed=0), steps=3, seed=1)
    assert not torch.equal(next(other.parameters()), next(one.parameters()))
    assert not any(p.requires_grad for p in one.parameters())


def test_pairs_of_several_sizes_train_one_predictor() -> None:
    small, large = pairs(2, 3, 3, seed=0), pairs(2, 4, 5, seed=1)
    net = fit([*small[0], *large[0]], [*small[1], *large[1]], steps=2)
    assert net(torch.rand(1, 3, 2, 4, 5)).shape == (1, 40)
    assert fit(small[0], [torch.zeros(9)] * 2, steps=2)(small[0][0][None]).isfinite().all()


def test_first_attention_is_the_first_layers_map() -> None:
    z = tiny("llava")
    before = state(z)
    got = first_attention(z.model, z.inputs)
    assert state(z) == before
    maps: dict[int, Tensor] = {}
    with opened(z.model, z.inputs, eager=True) as case, torch.no_grad():
        case.attend(maps.__setitem__)
        asks = torch.arange(int(case.where[-1]) + 1, len(case.ids))
        want = maps[0][0][:, asks][:, :, case.where].mean(1)
    assert torch.allclose(got, want)
    assert RelevanceNet(4)(got.view(1, 4, 1, 8, 8)).shape == (1, 64)
