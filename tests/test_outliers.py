"""Outlier rules and greedy determinants, against plain computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foveate import Tokens
from foveate.inputs.cdpruner import CDPruner
from foveate.parts.determinant import greedy_determinant
from foveate.parts.outliers import local_outlier_factor, upper_outliers


def plain_factor(value: list[float], k: int) -> list[float]:
    """Breunig's definition, neighbour by neighbour."""
    n = len(value)
    near = [sorted((j for j in range(n) if j != i), key=lambda j: abs(value[i] - value[j]))[:k] for i in range(n)]
    far = [abs(value[i] - value[near[i][-1]]) for i in range(n)]
    reach = [[max(far[j], abs(value[i] - value[j])) for j in near[i]] for i in range(n)]
    density = [1 / (sum(r) / len(r) + 1e-10) for r in reach]
    return [sum(density[j] for j in near[i]) / len(near[i]) / density[i] for i in range(n)]


@pytest.mark.parametrize(("n", "k"), [(2, 20), (7, 3), (50, 10), (50, 49), (90, 20)])
def test_local_outlier_factor_is_that_of_its_definition(n: int, k: int) -> None:
    value = torch.randn(3, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64).exp()
    want = [plain_factor(row, min(k, n - 1)) for row in value.tolist()]
    assert torch.allclose(local_outlier_factor(value, k), torch.tensor(want, dtype=torch.float64), rtol=1e-9)


def test_local_outlier_factor_with_many_equal_values() -> None:
    value = torch.tensor([[1.0] * 12 + [1.001, 1.002, 5.0]])
    factor = local_outlier_factor(value, 10)[0]
    assert (factor[:12] == 1).all()
    assert factor.isfinite().all()
    assert (factor[12:] > 1.5).all()
    assert (local_outlier_factor(torch.zeros(1, 1), 20) == 1).all()


def test_quartile_rule() -> None:
    rows = np.random.default_rng(0).standard_normal((4, 200)).astype(np.float32) ** 3
    low, high = np.percentile(rows, 25, axis=-1), np.percentile(rows, 75, axis=-1)
    want = rows > (high + 1.5 * (high - low))[:, None]
    assert (upper_outliers(torch.from_numpy(rows)).numpy() == want).all()
    always = torch.tensor([[0.0, torch.inf, 1.0, 2.0, torch.inf]])
    assert upper_outliers(always).tolist() == [[False, True, False, False, True]]


def test_greedy_determinant_takes_the_best_next_token() -> None:
    x = torch.randn(2, 12, 20, generator=torch.Generator().manual_seed(1)).double()
    kernel = x @ x.mT
    got = greedy_determinant(kernel, 6)
    for b in range(2):
        chosen: list[int] = []
        for _ in range(6):
            rest = [i for i in range(12) if i not in chosen]
            chosen.append(max(rest, key=lambda i: float(torch.det(kernel[b][[*chosen, i]][:, [*chosen, i]]))))
        assert got[b].tolist() == chosen


def test_more_tokens_than_the_rank_of_the_features() -> None:
    g = torch.Generator().manual_seed(2)
    tokens = Tokens(torch.randn(2, 60, 4, generator=g), text=torch.randn(2, 3, 4, generator=g))
    method = CDPruner(keep=30)
    picked = method.pick(tokens)
    assert all(len(set(row)) == 30 for row in picked.tolist())
    quality = method.quality(tokens).gather(1, picked)[:, 4:]  # rank 4: the rest is filled up by relevance
    assert (quality[:, :-1] >= quality[:, 1:]).all()
