"""Decoders of image generators: what they draw from, what they reuse, what they hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import talkers
from foveate.errors import InputError
from foveate.generation import HeadAware, NextScale, Shape, classify, collaborate, jacobi, masked
from foveate.generation.jacobi import _Run, check
from foveate.generation.next_scale import Whole

V = 20


@pytest.fixture(scope="module")
def model() -> Any:
    return talkers.llama(V, mask_token_id=V - 1, eos_token_id=None)


def prompts(rows: int = 2, n: int = 4) -> Tensor:
    return talkers.prompts(0, V - 1, rows, n)


# --- speculative Jacobi -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["random", "left", "above"])
@pytest.mark.parametrize("n", [1, 4])
def test_at_temperature_0_it_is_greedy_decoding(model: Any, start: str, n: int) -> None:
    ids = prompts(n=n)
    seen = torch.ones_like(ids)
    want = model.generate(ids, attention_mask=seen, max_new_tokens=12, do_sample=False, pad_token_id=0)
    out = jacobi(model, ids, length=12, window=5, temperature=0.0, start=start, width=4)
    assert torch.equal(out.ids, want)


def test_it_takes_fewer_forwards_where_tokens_repeat(model: Any) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=V, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    same = LlamaForCausalLM(config).eval()
    torch.nn.init.zeros_(same.lm_head.weight)  # says token 0 whatever came before
    out = jacobi(same, prompts(1), length=16, window=8, temperature=0.0, start="left")
    assert (out.ids[0, 4:] == 0).all()
    assert int(out.forwards) <= 5


CHAIN = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.35, 0.3, 0.35]])


def test_what_is_sampled_has_the_distribution_of_the_model() -> None:
    """Three tokens of a Markov chain, 27 outcomes: chi-square against their probabilities, many windows at once."""
    dice, n, size = torch.Generator().manual_seed(1), 200_000, 3
    text, known = torch.zeros(n, 1 + 2 * size, dtype=torch.int64), torch.ones(n, dtype=torch.int64)
    window = torch.randint(0, 3, (n, size), generator=dice)
    window[:, 0] = 0
    q = torch.nn.functional.one_hot(window, 3).float()
    at = torch.arange(size)
    rounds = 0
    while bool((known < 4).any()):
        p = CHAIN[window]
        drawn = torch.multinomial(p.flatten(0, 1), 1, generator=dice).view(n, size)
        step = check(window, q, p, drawn, torch.rand(n, size, generator=dice), torch.rand(n, generator=dice))
        new = at < step.matched[:, None]
        text = text.scatter(
            1, torch.where(new, known[:, None] + at, text.shape[1] - 1).clamp(max=2 * size), step.tokens
        )
        known = (known + step.matched).clamp(max=4)
        # the last final token comes first, then the guesses that are left, then fresh ones that are certain
        index = (step.matched[:, None] - 1 + at).clamp(max=size - 1)
        fresh = step.matched[:, None] - 1 + at >= size
        window = torch.where(fresh, torch.randint(0, 3, (n, size), generator=dice), step.tokens.gather(1, index))
        carried = step.scores.gather(1, index[..., None].expand(-1, -1, 3))
        q = torch.where(fresh[..., None], torch.nn.functional.one_hot(window, 3).float(), carried)
        rounds += 1
    assert rounds <= 4
    counts = torch.bincount((text[:, 1:4] * torch.tensor([9, 3, 1])).sum(-1), minlength=27).float()
    expected = n * (CHAIN[0][:, None, None] * CHAIN[:, :, None] * CHAIN[None]).flatten()
    assert float(((counts - expected) ** 2 / expected).sum()) < 54.1  # 26 degrees, p = 0.001


def test_the_loop_draws_like_the_chain() -> None:
    """The same through the whole loop, fewer samples: where three steps of the chain lead to."""

    def read(tokens: Tensor, forget: int) -> Tensor:
        return CHAIN[tokens[0]].log()

    dice, n, counts = torch.Generator().manual_seed(1), 250, torch.zeros(3)
    for _ in range(n):
        counts[_Run(read, [0], 3, 1.0, None, "random", None, None, dice).go(3)[-1]] += 1
    expected = n * torch.linalg.matrix_power(CHAIN, 3)[0]
    assert float(((counts - expected) ** 2 / expected).sum()) < 13.8  # 2 degrees, p = 0.001


def test_rows_have_draws_of_their_own(model: Any) -> None:
    both = jacobi(model, prompts(2), length=8, window=4, seed=3, top_k=5)
    alone = jacobi(model, prompts(2)[:1], length=8, window=4, seed=3, top_k=5)
    assert torch.equal(both.ids[:1], alone.ids)
    part = jacobi(model, prompts(1), length=8, window=4, tokens=(3, 9))
    assert bool(((part.ids[:, 4:] >= 3) & (part.ids[:, 4:] < 9)).all())
    for bad in ({"length": 0}, {"length": 4, "window": 0}, {"length": 4, "start": "above"}):
        with pytest.raises(InputError):
            jacobi(model, prompts(), **bad)


# --- masked -----------------------------------------------------------------------------------------------------------


def test_masked_generation_fills_everything_and_is_repeatable(model: Any) -> None:
    options: dict[str, Any] = {"cells": 16, "mask_id": V - 1, "steps": 6, "seed": 1}
    first, second = (masked(model, prompts(), **options) for _ in range(2))
    assert torch.equal(first.ids, second.ids)
    assert not (first.ids == V - 1).any()
    assert (first.full, first.light, first.positions) == (6, 0, 6 * 20)
    alone = masked(model, prompts()[:1], **options)
    assert torch.equal(alone.ids, first.ids[:1])


def test_reused_features_make_steps_cheap(model: Any) -> None:
    out = masked(model, prompts(), cells=16, mask_id=V - 1, steps=6, reuse=2)
    assert (out.full, out.light) == (2, 4)
    assert out.positions < 6 * 20
    assert not (out.ids == V - 1).any()


def test_reuse_is_exact_where_nothing_goes_stale() -> None:
    """One layer: what is remembered of a position depends on its own token alone."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=V, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    one = LlamaForCausalLM(config).eval()
    one.lm_head.weight.data.mul_(40)
    options: dict[str, Any] = {"cells": 12, "mask_id": V - 1, "steps": 6}
    assert torch.equal(masked(one, prompts(), **options).ids, masked(one, prompts(), reuse=3, **options).ids)
    for bad in ({"steps": 13}, {"reuse": -1}, {"temperature": -1.0}):
        with pytest.raises(InputError):
            masked(one, prompts(), **{**options, **bad})


# --- next scale -------------------------------------------------------------------------------------------------------

SHAPE = Shape(classes=4, codes=16, channels=4, scales=(1, 2, 3, 4))


def generator(width: int = 32, seed: int = 0) -> NextScale:
    torch.manual_seed(seed)
    return NextScale(SHAPE, width, 2, 4).eval()


def test_all_scales_at_once_are_the_scales_one_by_one() -> None:
    model, classes = generator(), torch.tensor([0, 3])
    tokens = model.generate(classes, temperature=1.0, seed=2)
    assert [t.shape for t in tokens] == [(2, 1), (2, 4), (2, 9), (2, 16)]
    cache = Whole(2)
    with torch.no_grad():
        each = torch.cat([model.scale(classes, tokens[:k], cache) for k in range(4)], 1)
        assert torch.allclose(model.several(classes, tokens), each, atol=1e-5)
    alone = model.generate(classes[:1], temperature=1.0, seed=2)
    assert all(torch.equal(a, b[:1]) for a, b in zip(alone, tokens))


def test_it_learns() -> None:
    model, classes = generator(), torch.tensor([0, 1])
    tokens = [torch.arange(2 * s * s).view(2, -1) % 16 for s in SHAPE.scales]
    optimiser = torch.optim.AdamW(model.parameters(), 2e-2)
    losses = []
    for _ in range(12):
        loss = model.loss(classes, tokens)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_a_model_that_collaborates_with_itself_changes_nothing() -> None:
    model, classes = generator(), torch.tensor([1, 2])
    want = model.generate(classes, temperature=0.0)
    for drafted in range(5):
        out = collaborate(model, model, classes, drafted=drafted, temperature=0.0)
        assert all(torch.equal(a, b) for a, b in zip(out.tokens, want))


def test_the_small_model_saves_cache() -> None:
    large, small, classes = generator(64), generator(16, 1), torch.tensor([1])
    alone = Whole(2)
    coarse = large.generate(classes, cache=alone, temperature=0.0)
    out = collaborate(large, small, classes, drafted=2, temperature=0.0)
    assert all(torch.equal(a, b) for a, b in zip(out.tokens[:2], coarse))
    assert out.peak < alone.nbytes / 2
    assert (out.large, out.small) == (2, 3)
    with pytest.raises(InputError, match="codebook"):
        collaborate(large, NextScale(SHAPE, 16, 2, 4, seed=9), classes, drafted=1)
    with pytest.raises(InputError, match="'drafted'"):
        collaborate(large, small, classes, drafted=9)


# --- head-aware cache -------------------------------------------------------------------------------------------------


def test_a_cache_with_room_for_everything_changes_nothing() -> None:
    model, classes = generator(), torch.tensor([0, 2])
    heads = torch.tensor([[True, False, True, False], [False] * 4])
    plain, cache = Whole(2), HeadAware(heads, 30, lean=0.0)
    want = model.generate(classes, cache=plain, temperature=0.0)
    got = model.generate(classes, cache=cache, temperature=0.0)
    assert all(torch.equal(a, b) for a, b in zip(want, got))
    assert cache.nbytes == plain.nbytes


def test_the_budget_holds_on_average_and_contextual_heads_get_less() -> None:
    model, classes = generator(), torch.tensor([0, 2])
    heads = classify(model, classes)
    assert heads.shape == (2, 4)
    assert int(heads.sum()) == 4
    cache, plain = HeadAware(heads, 10, lean=0.4), Whole(2)
    model.generate(classes, cache=cache)
    model.generate(classes, cache=plain)
    assert cache.entries <= 10 * 8
    assert cache.nbytes == 2 * 4 * 2 * 8 * cache.entries  # rows, bytes, keys and values, numbers of a head
    assert cache.nbytes < 0.4 * plain.nbytes
    for few, many in cache.budgets:
        assert few <= 10 <= many


def test_heads_are_told_by_how_unequal_their_attention_is() -> None:
    """A head that looks at one key from everywhere, and one that spreads its attention evenly."""

    class OneKey(NextScale):
        def _through(self, x: Tensor, cache: Any) -> Tensor:
            b, n = x.shape[:2]
            for layer in range(self.layers):
                k = torch.zeros(b, 2, n, 4)
                k[:, 0, 0, 0] = 9.0
                q = torch.zeros(b, 2, n, 4)
                q[..., 0] = 3.0
                cache.attend(layer, q, k, torch.zeros(b, 2, n, 4))
            return torch.zeros(b, n, self.shape.codes)

    model = OneKey(Shape(2, 8, 2, (2, 3)), 8, 2, 2)
    assert classify(model, torch.tensor([0])).tolist() == [[True, False], [True, False]]


def test_what_each_kind_of_head_keeps() -> None:
    q, k = torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 6, 2)
    q[..., 0], k[0, 0, 3, 0], k[0, 0, 5, 0] = 1.0, 5.0, 4.0
    assert HeadAware._contextual(q, k, 3)[0, 0].tolist() == [0, 3, 5]
    assert HeadAware._structural(k, 2, 4)[0, 0].tolist() == [0, 3, 4, 5]
    assert HeadAware._structural(k, 5, 4)[0, 0].tolist() == [0, 1, 3, 5]
    for bad in ((torch.ones(2, 2), 3, 0.5), (torch.ones(2, 2) > 0, 0, 0.5), (torch.ones(2, 2) > 0, 3, 1.0)):
        with pytest.raises(InputError):
            HeadAware(*bad)
    with pytest.raises(InputError):
        classify(generator(), torch.tensor([0]), contextual=2.0)
