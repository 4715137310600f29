"""Evict-then-merge, merging of runs, and the mixed score of attention, entropy and gradient, by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate import Entries
from foveate.cache.critic import CRITIC
from foveate.cache.curdkv import CurDKV
from foveate.cache.ems import EMS
from foveate.cache.kvmerger import KVMerger
from foveate.parts.gaussian_sets import gaussian_shares, pivots, runs_of
from foveate.parts.leverage import leverage
from foveate.parts.window_rows import column_entropy, output_gradient, sparsity, window_rows


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_gradient_is_that_of_autograd() -> None:
    q, k, v = random(1, 2, 3, 4), random(1, 1, 6, 4, seed=1), random(1, 1, 6, 4, seed=2)
    rows = window_rows(Entries(k, v, q, 0.5), q)
    logits = rows.log().requires_grad_()
    out = logits.softmax(-1) @ v
    want = torch.zeros(1, 2, 3, 6)
    for h in range(2):
        for i in range(3):
            for d in range(4):
                (grad,) = torch.autograd.grad(out[0, h, i, d], logits, retain_graph=True)
                want[0, h, i] += grad[0, h, i].square()
    torch.testing.assert_close(output_gradient(rows, v), want.sqrt().mean(2).nan_to_num(0.0))


def test_critic_keeps_what_all_queries_read() -> None:
    rows = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]])
    assert column_entropy(rows)[0] > column_entropy(rows)[1] == column_entropy(rows)[2] == 0
    k = random(1, 1, 20, 8)
    q = 6 * k[:, :, 5:6].expand(1, 1, 4, 8)
    kept = CRITIC(keep=4, window=4, recent=2).reduce(Entries(k, k, q, 1.0)).keep[0].tolist()
    assert 5 in kept
    assert kept[-2:] == [18, 19]


def test_leverage_counts_within_windows() -> None:
    x = torch.tensor([[3.0], [1.0], [10.0], [10.0], [2.0]])
    torch.testing.assert_close(leverage(x, 2), torch.tensor([0.9, 0.1, 0.5, 0.5, 1.0]))
    assert leverage(x * 0, 2).tolist() == [0] * 5
    assert torch.equal(leverage(random(9, 5), None, 3), leverage(random(9, 5), None, 3))
    kept = CurDKV(keep=2, sinks=1, leverage="values", local=False).reduce(Entries(x[None, None] * 0, x[None, None]))
    assert kept.keep.tolist() == [[0, 2]]


def test_runs_are_neighbours_and_the_most_alike_come_first() -> None:
    angle = torch.tensor([0.0, 0.1, 1.5, 1.6, 1.62])
    keys = torch.stack([angle.cos(), angle.sin()], -1)
    free = torch.zeros(5, dtype=torch.bool)
    assert runs_of(keys, 4, 0.9, free).tolist() == [0, 1, 2, 3, 3]
    assert runs_of(keys, 1, 0.9, free).tolist() == [0, 0, 1, 1, 1]
    assert runs_of(keys, 1, 0.9, torch.arange(5) == 3).tolist() == [0, 0, 1, 2, 3]
    run, mass = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([1.0, 1.0, 0.0, 3.0, 2.0])
    assert pivots(run, mass).tolist() == [0, 3]
    share = gaussian_shares(keys, run, pivots(run, mass))
    torch.testing.assert_close(torch.stack([share[:2].sum(), share[2:].sum()]), torch.ones(2))
    assert share.argmax() == 0 or share[3] > share[2]


def test_kvmerger_merges_first_and_drops_what_is_left_over() -> None:
    keys = random(1, 1, 12, 8)
    keys[:, :, 4:8] = keys[:, :, 4:5]
    e = Entries(keys, keys, received=torch.arange(12.0)[None, None])
    out = KVMerger(keep=9, heavy=0.0, recent=0.0).reduce(e)
    assert out.keep.tolist() == [[0, 1, 2, 3, 7, 8, 9, 10, 11]]
    torch.testing.assert_close(out(keys[0])[0, 4], keys[0, 0, 4])
    assert KVMerger(keep=5, heavy=0.0, recent=0.0).reduce(e).keep.tolist() == [[7, 8, 9, 10, 11]]


def test_ems_evicts_what_resembles_nothing_and_merges_the_rest() -> None:
    keys = random(1, 1, 10, 8)
    keys[:, :, 3] = keys[:, :, 1] * 2
    received = torch.tensor([0.0, 9, 0, 4, 0, 0, 0, 0, 0, 0])
    e = Entries(keys, keys, torch.zeros(1, 1, 1, 8), 1.0, received=received[None, None])
    out = EMS(keep=2, window=1, similar=0.99).reduce(e)
    assert out.keep.tolist() == [[1, 9]]
    assert (out.assign >= 0).nonzero()[:, 1].tolist() == [1, 3, 9]
    assert 1 < float(out(keys[0])[0, 0].norm() / keys[0, 0, 1].norm()) < 2


def test_sparsity_counts_what_is_read() -> None:
    rows = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.999, 0.001, 0.0, 0.0]])[None, None]
    assert sparsity(rows, 0.01).tolist() == [0.75]
