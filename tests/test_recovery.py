"""Recoverable compression: tokens the question asks for come back; what always stays, stays as it is."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import one_hot

from foveate import Tokens
from foveate.inputs.prumerge import PruMerge
from foveate.inputs.recoverable_compression import RecoverableCompression
from foveate.inputs.trim import TRIM

N = 60


def scene() -> Tokens:
    """Tokens 5 and 6 stand out to the encoder; tokens 40 and 41 are what the question is about."""
    g = torch.Generator().manual_seed(0)
    attention = 0.01 + 0.001 * torch.rand(1, N, generator=g)
    attention[0, 5:7] = torch.tensor([0.3, 0.2])
    x = torch.randn(1, N, 8, generator=g)
    x[..., 0] = 0.02 * torch.rand(1, N, generator=g)
    x[0, 40:42] = 3 * one_hot(torch.tensor([0, 0]), 8).float()
    text = one_hot(torch.zeros(1, 2, dtype=torch.long), 8).float()
    return Tokens(x, wide_attention=attention, keys=torch.randn(1, N, 8, generator=g), text=text)


def test_recovers_what_the_question_asks_for() -> None:
    tokens = scene()
    out = RecoverableCompression().reduce(tokens)
    assert out.kept[0, [5, 6, 40, 41]].all()
    alone = (out.to_dense()[0] != 0).sum(-1) == 1
    assert {5, 6, 40, 41} <= set(out.keep[0, alone].tolist())


@pytest.mark.parametrize("method", [RecoverableCompression(), RecoverableCompression(keep=20), PruMerge(keep=20)])
def test_a_token_that_always_stays_is_left_alone(method: RecoverableCompression | PruMerge) -> None:
    tokens = scene()
    assert tokens.wide_attention is not None
    tokens.wide_attention[0, [9, 19, 59]] = torch.inf
    out = method.reduce(tokens)
    got = out(tokens.x)[0]
    slots = [out.keep[0].tolist().index(at) for at in (9, 19, 59)]
    assert torch.equal(got[slots], tokens.x[0, [9, 19, 59]])
    assert got.isfinite().all()


def test_prumerge_adapts_to_the_image() -> None:
    tokens = scene()
    assert PruMerge().reduce(tokens).keep.tolist() == [[5, 6]]
    assert PruMerge(plus=True).reduce(tokens).m == 8


def test_trim_sums_up_what_it_drops() -> None:
    tokens = scene()
    assert TRIM().reduce(tokens).kept[0, [40, 41]].all()
    out = TRIM(keep=3).reduce(tokens)
    assert out.keep.tolist() == [[40, 41, 59]]
    dropped = [i for i in range(N) if i not in (40, 41)]
    assert torch.allclose(out(tokens.x)[0, 2], tokens.x[0, dropped].mean(0), atol=1e-6)
