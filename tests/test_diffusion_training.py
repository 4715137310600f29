"""What is trained for masked-diffusion decoding: the filter of Learn2PD and the certainty of dParallel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from foveate.diffusion import generate
from foveate.diffusion.certainty import certainty_loss, distil
from foveate.diffusion.filter import Filter
from foveate.diffusion.learn import Lesson, collect, fit
from foveate.diffusion.schedules.learn2pd import Learn2PD
from foveate.errors import InputError, OptionError

V, MASK = 24, 23


def small() -> Any:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        mask_token_id=MASK,
    )
    model = LlamaForCausalLM(config).eval()
    for p in model.parameters():
        if p.ndim > 1:
            p.data.normal_(std=2 * p.shape[-1] ** -0.5)
    return model


def prompts(rows: int) -> Tensor:
    return torch.randint(0, MASK, (rows, 5), generator=torch.Generator().manual_seed(0))


def test_a_filter_learns_from_slow_runs_and_saves_forwards(tmp_path: Path) -> None:
    model = small()
    lesson = collect(model, [prompts(12)], length=8, block=8)
    assert lesson.confidence.shape == lesson.final.shape == lesson.masked.shape == (96, 8)
    assert lesson.final[lesson.masked].float().mean() < 1  # some first guesses are wrong
    net = fit(lesson, steps=300, rate=5e-3)
    said = net(lesson.confidence.float()).sigmoid()[lesson.masked]
    true = lesson.final[lesson.masked].float()
    even = torch.nn.functional.binary_cross_entropy(true.mean().expand_as(true), true)
    assert torch.nn.functional.binary_cross_entropy(said, true) < 0.9 * even
    net.save(tmp_path / "filter.safetensors")
    path = str(tmp_path / "filter.safetensors")
    fast = generate(model, prompts(2), schedule=f"learn2pd(filter={path!r}, accept=0.6)", length=8, block=8)
    same = generate(model, prompts(2), schedule=Learn2PD(net, 0.6), length=8, block=8)
    slow = generate(model, prompts(2), schedule="lowconfidence", length=8, block=8)
    assert torch.equal(fast.ids, same.ids)
    assert fast.report.forwards < slow.report.forwards == 8


def test_a_filter_that_lets_nothing_through_is_the_slow_run() -> None:
    net = Filter(8)
    torch.nn.init.constant_(net.down.bias, -50.0)
    model = small()
    shut = generate(model, prompts(2), schedule=Learn2PD(net), length=12, block=8)
    slow = generate(model, prompts(2), schedule="lowconfidence", length=12, block=8)
    assert torch.equal(shut.ids, slow.ids)  # the last block is shorter than the filter


def test_training_a_filter_is_repeatable_and_leaves_the_random_state() -> None:
    lesson = Lesson(torch.rand(20, 4), torch.rand(20, 4) > 0.5, torch.ones(20, 4, dtype=torch.bool))
    state = torch.random.get_rng_state()
    first, second = fit(lesson, steps=5), fit(lesson, steps=5)
    assert torch.equal(first.up.weight, second.up.weight)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_filters_refuse(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="no filter can be read"):
        generate(small(), prompts(1), schedule=Learn2PD(str(tmp_path / "bad.safetensors")), length=4, block=4)
    with pytest.raises(InputError, match="blocks of 4"):
        generate(small(), prompts(1), schedule=Learn2PD(Filter(4)), length=8, block=8)
    with pytest.raises(OptionError, match="safetensors"):
        Learn2PD(3)
    with pytest.raises(InputError, match="divide"):
        collect(small(), [prompts(1)], length=6, block=4)
    with pytest.raises(InputError, match="no prompts"):
        collect(small(), [], length=4, block=4)


def test_certainty_counts_only_what_is_right() -> None:
    logits = torch.zeros(1, 3, 4)
    logits[0, 0, 2], logits[0, 1, 1], logits[0, 2, 3] = 2.0, 2.0, 2.0
    text, masked = torch.tensor([[2, 0, 3]]), torch.tensor([[True, True, False]])
    loss = certainty_loss(logits, text, masked, weight=3.0, temperature=0.5)
    p = (logits[0, 0] / 0.5).softmax(-1)
    assert float(loss.certainty) == pytest.approx(float(-(p * p.log()).sum()), rel=1e-5)
    assert float(loss.total) == pytest.approx(float(loss.consistency + 3 * loss.certainty), rel=1e-6)
    assert loss.right == 0.5
    with pytest.raises(InputError, match="masked"):
        certainty_loss(logits, text, torch.zeros_like(masked))


def test_a_distilled_model_needs_fewer_forwards_for_its_own_texts() -> None:
    model = small()
    ids = prompts(4)
    options: dict[str, Any] = {"length": 8, "block": 8}
    slow = generate(model, ids, schedule="lowconfidence", **options)
    before = generate(model, ids, schedule="dparallel", **options)
    history: list[float] = []
    distil(
        model,
        [(slow.ids, 5)],
        block=8,
        mask_id=MASK,
        steps=60,
        rate=3e-3,
        tell=lambda step, loss: history.append(float(loss.total)),
    )
    after = generate(model, ids, schedule="dparallel", **options)
    assert sum(history[-10:]) < 0.5 * sum(history[:10])
    assert after.report.forwards < before.report.forwards
    assert (after.ids == slow.ids).float().mean() > 0.9
    with pytest.raises(InputError, match="texts"):
        distil(model, [], block=8, mask_id=MASK, steps=1)
