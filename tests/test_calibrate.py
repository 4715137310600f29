"""Attention sinks turned down: exactly as much as asked, and only there."""

from __future__ import annotations

import pytest
import torch

import foveate
from foveate.cache.act import ACT
from foveate.parts.calibrate import damping, sinks_of
from site_kit import check_same, generate, logits_of, make


def rows() -> torch.Tensor:
    """(1, 1, 8, 8) causal attention with sinks at 0 and 3."""
    logits = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    logits[:, 0] += 3
    logits[:, 3] += 4
    hidden = ~torch.ones(8, 8, dtype=torch.bool).tril()
    return logits.masked_fill(hidden, -torch.inf).softmax(-1)[None, None]


def test_the_first_sink_is_none() -> None:
    assert sinks_of(rows(), 2.0).nonzero()[:, 2].tolist() == [3]
    assert not sinks_of(rows(), 8.0).any()


def test_sinks_get_their_part_and_the_rest_grows_alike() -> None:
    before, sinks = rows(), sinks_of(rows(), 2.0)
    after = (before.log() + damping(before, sinks, 0.4)).softmax(-1)
    torch.testing.assert_close(after[..., 3], 0.4 * before[..., 3])
    others = torch.arange(8) != 3
    ratio = (after / before)[0, 0, 7, others]
    torch.testing.assert_close(ratio, ratio[:1].expand(7))
    torch.testing.assert_close(after.sum(-1), torch.ones(1, 1, 8))


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
@pytest.mark.parametrize("more", [{}, {"batch": 2, "ragged": True}])
def test_act_in_a_model(kind: str, more: dict[str, object]) -> None:
    z = make("llama", kind, **more)
    bare, _ = generate(z)
    out, _ = generate(z, "act(factor=1.2, skip=0)")
    assert not torch.allclose(logits_of(out), logits_of(bare))
    assert torch.isfinite(logits_of(out)).all()
    assert out.past_key_values.layers[0].held == bare.past_key_values.layers[0].keys.shape[2]
    check_same(z, "act(factor=1000.0, skip=0)")
    check_same(z, "act(factor=1.2, skip=9)")
    check_same(z, "act(factor=1.2, heads=(9999,))")


def test_both_kinds_of_attention_agree_and_rows_are_apart() -> None:
    outs = [
        logits_of(generate(make("llama", k), "act(factor=1.2, skip=0)", max_new_tokens=1)[0]) for k in ("sdpa", "eager")
    ]
    torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-4)
    z = make("llama", batch=2, ragged=True)
    both = logits_of(generate(z, "act(factor=1.2, skip=0)", max_new_tokens=1)[0])
    b = int(z.inputs["attention_mask"].sum(1).argmin())
    pads = int((z.inputs["attention_mask"][b] == 0).sum())
    z.inputs = {k: v[b : b + 1, pads:] for k, v in z.inputs.items()}
    alone = logits_of(generate(z, "act(factor=1.2, skip=0)", max_new_tokens=1)[0])
    torch.testing.assert_close(alone[0], both[b], atol=1e-5, rtol=1e-4)


def test_the_layers_in_between_act() -> None:
    assert [ACT().acts(i, 6) for i in range(6)] == [False, False, True, True, False, False]
    assert [ACT(heads=(1,)).acts(i, 2) for i in range(2)] == [True, True]
    assert not any(ACT(scale=1.0).acts(i, 6) for i in range(6))
    assert foveate.parse("act(heads=(1, 2))")[0] == ACT(heads=(1, 2))
