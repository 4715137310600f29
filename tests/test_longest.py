"""Directions along which entries are longest, also where entries span few of them."""

from __future__ import annotations

import pytest
import torch

import foveate
from foveate.bench.kv import reader
from foveate.parts.longest import longest


def test_they_are_the_right_singular_vectors() -> None:
    x = torch.randn(2, 3, 40, 8, generator=torch.Generator().manual_seed(0))
    found = longest(x, 3)
    torch.testing.assert_close(found.mT @ found, torch.eye(3).expand(2, 3, 3, 3), atol=1e-5, rtol=0)
    held = (x @ found).square().sum((-2, -1))
    torch.testing.assert_close(held, torch.linalg.svdvals(x)[..., :3].square().sum(-1))


@pytest.mark.parametrize("plan", ["cskv", "kvheads"])
def test_entries_of_a_written_model(plan: str) -> None:
    model = reader.reader(torch.bfloat16)
    ids, _ = reader.text(0, 256, 0.5)
    ids = ids if ids.ndim == 2 else ids[None]
    with foveate.apply(model, plan) as report:
        out = model.generate(ids, max_new_tokens=2, do_sample=False)
    assert out.shape[1] == ids.shape[1] + 2
    assert report.as_dict()["kv_bytes"] > 0
