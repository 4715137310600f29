"""Runs that go on together say what each says alone, whatever their caches hold."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate
from foveate.sites.joint import Joint, Run, begin
from foveate.sites.rows import nbytes, snapshot
from foveate.stores.held import HeldLayer
from foveate.testing import FAMILIES
from site_kit import make

NEW = 5
PLANS = ["", "random(keep=0.5)", "random(keep=0.6) + fastv(layer=1, keep=0.5) + snapkv(keep=0.5, window=4)"]
quiet = pytest.mark.filterwarnings("ignore:sliding-window layers keep their window")


def start(model: Any, inputs: dict[str, Tensor], plan: str, **more: Any) -> tuple[Run, Tensor]:
    with foveate.apply(model, plan):
        run = begin(model, inputs, max_new_tokens=NEW, do_sample=False, **more)
        return run, run.scores(run.prefill())


def alone(model: Any, inputs: dict[str, Tensor], plan: str) -> Tensor:
    """(NEW, V) logits of each token that generate writes."""
    with foveate.apply(model, plan):
        out = model.generate(
            **inputs, max_new_tokens=NEW, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    return torch.stack(out.logits)[:, 0].float()


@quiet
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", [*FAMILIES["vlm"], "llama", "gemma3_text"])
@torch.no_grad()
def test_rows_that_join_and_leave(name: str, plan: str) -> None:
    if name in FAMILIES["lm"]:
        plan = plan and "snapkv(keep=0.5, window=4)"
    z = make(name)
    model = z.model
    model.generation_config.eos_token_id = None
    words = {"input_ids": torch.tensor([[5, 6, 7, 8, 9, 10, 11]])}
    for kind in {"mm_token_type_ids", "token_type_ids"} & {*z.inputs}:
        words[kind] = torch.zeros_like(words["input_ids"])
    prompts = [z.inputs, make(name, seed=1).inputs, words]
    want = [alone(model, p, plan) for p in prompts]
    joints: list[Joint] = []
    logits: dict[Run, list[Tensor]] = {}
    order: list[Run] = []
    while len(order) < len(prompts) or any(j.runs for j in joints):
        if len(order) < len(prompts):
            run, first = start(model, prompts[len(order)], plan)
            order.append(run)
            logits[run] = [first]
            home = next((j for j in joints if j.runs and j.takes(run)), None)
            if home is None:
                joints.append(Joint(model, run))
            else:
                home.add(run)
        with foveate.apply(model, plan):
            for j in joints:
                if not j.runs:
                    continue
                for run, row in zip(list(j.runs), j.step([int(logits[r][-1].argmax()) for r in j.runs])):
                    logits[run].append(row)
                for run in [r for r in j.runs if len(logits[r]) == NEW]:
                    j.remove(run)
    for run, told in zip(order, want):
        got = torch.stack(logits[run])
        torch.testing.assert_close(got, told, atol=3e-5, rtol=0)
    kinds = {type(x).__name__ for x in order[0].cache.layers}
    if kinds <= {"HeldLayer", "DynamicLayer"}:
        assert len(joints) == 1


@torch.no_grad()
def test_dropped_rows_are_freed() -> None:
    z = make("llava")
    runs = [start(z.model, make("llava", seed=s).inputs, "")[0] for s in range(3)]
    joint = Joint(z.model, runs[0])
    for run in runs[1:]:
        joint.add(run)
    full = nbytes(joint.cache)
    joint.drop(runs[:2])
    assert nbytes(joint.cache) * 3 == full
    assert runs[0].cache is None
    for layer in joint.cache.layers:
        assert layer.keys.untyped_storage().nbytes() == layer.keys.numel() * layer.keys.element_size()
    joint.drop(runs[2:])
    assert joint.cache is None


@torch.no_grad()
def test_caches_that_act_while_writing_stay_alone() -> None:
    z = make("llava")
    a, b = (start(z.model, make("llava", seed=s).inputs, "h2o(keep=8, every=1)")[0] for s in range(2))
    assert all(isinstance(x, HeldLayer) for x in a.cache.layers)
    assert not Joint(z.model, a).takes(b)
    plain = start(z.model, z.inputs, "")[0]
    assert not Joint(z.model, plain).takes(start(z.model, z.inputs, "snapkv(keep=0.5)")[0])


@torch.no_grad()
def test_a_snapshot_grows_on_its_own() -> None:
    z = make("qwen2_5_vl")
    run, first = start(z.model, z.inputs, "random(keep=0.5)")
    held = nbytes(run.cache)
    n = run.seen
    other = snapshot(run.cache)
    with foveate.apply(z.model, "random(keep=0.5)"):
        Joint(z.model, run).step([int(first.argmax())])
    assert (nbytes(other), other.get_seq_length()) == (held, n)
    shorter = snapshot(run.cache, n - 2)
    assert shorter.get_seq_length() == n - 2
    assert run.cache.get_seq_length() == n + 1


@quiet
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "llava", "gemma3", "llama"])
@torch.no_grad()
def test_a_run_goes_on_from_a_prefix(name: str) -> None:
    z = make(name)
    plan, ids = "random(keep=0.5)" if name != "llama" else "", z.inputs["input_ids"]
    first, logits = start(z.model, z.inputs, plan)
    longer = torch.cat([ids, torch.tensor([[int(logits.argmax()), 7, 8]])], 1)
    inputs = {"input_ids": longer, "attention_mask": torch.ones_like(longer)}
    for kind in {"mm_token_type_ids", "token_type_ids"} & {*z.inputs}:
        inputs[kind] = torch.cat([z.inputs[kind], z.inputs[kind].new_zeros(1, 3)], 1)
    start(z.model, make(name, seed=2).inputs, plan)  # another prompt in between
    run, got = start(z.model, inputs, plan, cache=snapshot(first.cache), delta=first.delta)
    whole = {**z.inputs, **inputs}
    _, want = start(z.model, whole, plan)
    torch.testing.assert_close(got, want, atol=3e-5, rtol=0)
    assert run.seen == longer.shape[1]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
@torch.no_grad()
def test_a_run_from_a_prefix_joins_one_that_was_read(name: str) -> None:
    z = make(name)
    plan, ids = "random(keep=0.5)", z.inputs["input_ids"]
    first, _ = start(z.model, z.inputs, plan)
    longer = {"input_ids": torch.cat([ids, torch.tensor([[7, 8, 9]])], 1)}
    longer["attention_mask"] = torch.ones_like(longer["input_ids"])
    longer["mm_token_type_ids"] = torch.cat([z.inputs["mm_token_type_ids"], torch.zeros(1, 3, dtype=torch.int32)], 1)
    other = make(name, seed=1).inputs
    want = [alone(z.model, {**z.inputs, **longer}, plan), alone(z.model, other, plan)]
    a, la = start(z.model, longer, plan, cache=snapshot(first.cache), delta=first.delta)
    b, lb = start(z.model, other, plan)
    for runs, logits, told in (((a, b), [la, lb], want), ((b, a), [lb, la], want[::-1])):
        copies = [copy.copy(r) for r in runs]
        for c in copies:
            c._kwargs = {**c._kwargs, "past_key_values": snapshot(c.cache)}
        joint = Joint(z.model, copies[0])
        assert joint.takes(copies[1])
        joint.add(copies[1])
        with foveate.apply(z.model, plan):
            got = joint.step([int(x.argmax()) for x in logits])
        torch.testing.assert_close(got, torch.stack([w[1] for w in told]), atol=3e-5, rtol=0)
