"""Policies whose budget holds while tokens are generated."""

from __future__ import annotations

import pytest
import torch

import foveate
from site_kit import make


@pytest.mark.parametrize("policy", ["h2o(keep=9, every=1)", "tova(keep=9, every=1)", "streaming_llm(keep=9, every=1)"])
def test_a_count_holds_at_every_step(policy: str) -> None:
    z = make("llama", batch=2)
    with foveate.apply(z.model, policy), torch.inference_mode():
        out = z.model.generate(**z.inputs, max_new_tokens=12, do_sample=False, return_dict_in_generate=True)
    assert all(layer.held == 9 for layer in out.past_key_values.layers)


@pytest.mark.parametrize("policy", ["h2o(keep=9)", "tova(keep=9)", "streaming_llm(keep=9)"])
def test_without_it_new_entries_are_added(policy: str) -> None:
    z = make("llama", batch=1)
    with foveate.apply(z.model, policy), torch.inference_mode():
        out = z.model.generate(
            **z.inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False, return_dict_in_generate=True
        )
    assert all(layer.held == 9 + 5 for layer in out.past_key_values.layers)


def test_sinks_and_the_latest_stay() -> None:
    z = make("llama", batch=1)
    n = z.inputs["input_ids"].shape[1]
    with foveate.apply(z.model, "streaming_llm(keep=6, sinks=2, every=1)"), torch.inference_mode():
        out = z.model.generate(
            **z.inputs, max_new_tokens=8, min_new_tokens=8, do_sample=False, return_dict_in_generate=True
        )
    for layer in out.past_key_values.layers:
        assert layer.where[0, 0].tolist() == [0, 1, *range(n + 3, n + 7)]
