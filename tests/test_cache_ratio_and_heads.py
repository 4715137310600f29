"""A number of important tokens that attention decides, row by row; and KV heads stored together."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from foveate import Entries
from foveate.cache.kvheads import KVHeads
from foveate.cache.zipvl import ZipVL
from foveate.errors import OptionError
from foveate.stores.classes import two_classes
from foveate.stores.heads import directions, grouped
from foveate.testing.packs import held


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_attention_decides_how_many_are_important() -> None:
    k = random(2, 1, 40, 8)
    q = torch.zeros(2, 2, 40, 8)
    q[0] = 20 * k[0, :, 3:4]  # one row looks at one token, the other at all
    important = ZipVL(mass=0.9, probes=4).important(Entries(k, k, q, 1.0))
    assert important[0, 3]
    assert important[0].sum() < 8 < important[1].sum()
    assert ZipVL(mass=1.0, probes=4).important(Entries(k, k, q, 1.0)).sum(1)[1] == 40


def test_rows_may_hold_different_numbers_of_important_entries() -> None:
    k, v = random(3, 2, 40, 16), random(3, 2, 40, 16, seed=1)
    salient = torch.arange(40).expand(3, 2, 40) < torch.tensor([1, 20, 40])[:, None, None]
    store = two_classes(k, v, salient, 8, 2, 10)
    assert store.nbytes == held(store)
    for b in range(3):
        alone = two_classes(k[b : b + 1], v[b : b + 1], salient[b : b + 1], 8, 2, 10)
        for whole, part in zip(store.read(), alone.read()):
            torch.testing.assert_close(whole[b : b + 1], part)
        keys = store.read()[0][b]
        assert (keys - k[b])[salient[b]].abs().max() < 0.02


def test_heads_of_one_rank_cost_nothing() -> None:
    base = random(2, 1, 90, 8)
    mix = random(2, 4, 8, 8, seed=1)
    x = base @ mix  # four heads that are maps of one
    e = Entries(x, x.flip(2))
    store = KVHeads(group=4, recent=1).pack(e)
    for got, want in zip(store.read(), (e.keys, e.values)):
        torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)
    assert store.nbytes == held(store) == 2 * 2 * 4 * (90 * 8 + 4 * 8 * 8)


def test_the_error_is_that_of_the_singular_values() -> None:
    x = random(1, 3, 50, 8)
    flat = grouped(x, 2)
    assert flat.shape == (1, 2, 50, 16)
    assert not flat[0, 1, :, 8:].any()
    basis = directions(x, 2, 8)
    far = flat - flat @ basis @ basis.mT
    want = torch.linalg.svdvals(flat)[..., 8:].square().sum()
    torch.testing.assert_close(far.square().sum(), want)
    keys = KVHeads(group=2, recent=1).pack(Entries(x, x)).read()[0]
    torch.testing.assert_close((keys - x).square().sum(), want)


def test_more_heads_are_closer() -> None:
    e = dataclasses.replace(Entries(random(1, 4, 60, 8), random(1, 4, 60, 8, seed=1)))
    far = [(KVHeads(group=4, heads=h, recent=1).pack(e).read()[0] - e.keys).norm() for h in (0.5, 1.0, 2.0, 4.0)]
    assert far == sorted(far, reverse=True)
    assert far[-1] < 1e-3
    with pytest.raises(OptionError, match="at most its 'group'"):
        KVHeads(group=2, heads=3.0)
