"""Methods that read attention as a graph or write the map as a soft matrix: what their papers claim, on small cases."""

from __future__ import annotations

import pytest
import torch

from foveate.encoder.gtp_vit import GTPViT
from foveate.encoder.token_transforming import TokenTransforming
from foveate.encoder.zero_tprune import ZeroTPrune
from foveate.parts.flow import flow, heads, row_crowd, slices, walk
from foveate.parts.graph import adjacent, similar, symmetric
from foveate.parts.windows import cells
from foveate.tokens import Tokens


def test_slices_and_heads_agree_with_whole_maps() -> None:
    g = torch.Generator().manual_seed(0)
    q, k, size = torch.randn(2, 4, 7, 8, generator=g), torch.randn(2, 2, 7, 8, generator=g), torch.rand(2, 7) + 1
    whole = (q @ k.repeat_interleave(2, 1).mT + size.log()[:, None, None]).softmax(-1)
    assert torch.allclose(torch.stack(list(heads(q, k, size)), 1), whole, atol=1e-6)
    for chunk in (1, 3, 99):
        seen = flow(slices(q, k, size, chunk))
        assert torch.allclose(seen.own, whole.diagonal(0, 2, 3), atol=1e-6)
        assert torch.allclose(seen.received, whole.sum(2), atol=1e-6)
        assert torch.allclose(seen.first, whole[:, :, 0], atol=1e-6)
        crowd = row_crowd(slices(q, k, size, chunk), skip=1)
        assert torch.allclose(crowd, row_crowd([(0, whole)], skip=1), atol=1e-5)


def test_a_walk_ends_at_the_stationary_distribution() -> None:
    share = torch.tensor([[[0.5, 0.5, 0.0], [0.25, 0.5, 0.25], [0.0, 0.5, 0.5]]])
    assert torch.allclose(walk(share, 60), torch.tensor([[0.25, 0.5, 0.25]]), atol=1e-5)
    assert torch.allclose(walk(share, 1), share.mean(1))


def test_the_graph_of_cells() -> None:
    edge = adjacent(torch.nn.functional.pad(cells(9), (1, 0))[None])[0]
    assert edge.sum(-1).tolist() == [3, 5, 3, 5, 8, 5, 3, 5, 3]
    weight = symmetric(edge[None])[0]
    assert weight[0, 4] == pytest.approx((3 * 8) ** -0.5)
    x = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(0))
    assert similar(x, 2)[0].sum(-1).tolist() == [2] * 9


def propagating(variant: str) -> tuple[GTPViT, Tokens]:
    x = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(3))
    return GTPViT(r=1, alpha=0.5, graph="spatial", variant=variant), Tokens(x, size=torch.ones(1, 9))


def test_a_token_that_leaves_reaches_its_neighbours_only() -> None:
    score = torch.arange(9.0)[None].flip(-1)  # token 8, a corner, leaves; its neighbours are 4, 5 and 7
    method, tokens = propagating("code")
    out = method.propagated(tokens, score)(tokens.x)[0]
    for i in range(8):
        part = 0.5 * (3 * {4: 8, 5: 5, 7: 5}[i]) ** -0.5 if i in (4, 5, 7) else 0.0
        assert torch.allclose(out[i], tokens.x[0, i] + part * tokens.x[0, 8], atol=1e-6)
    method, tokens = propagating("mean")
    mean = method.propagated(tokens, score)
    part = 0.5 * (3 * 8) ** -0.5
    assert torch.allclose(mean(tokens.x)[0, 4], (tokens.x[0, 4] + part * tokens.x[0, 8]) / (1 + part), atol=1e-6)
    assert float(mean.size().sum()) == pytest.approx(9)


def walked(alike: float) -> list[int]:
    """Six tokens that everyone attends to in falling order; token 4 is a copy of token 0."""
    want = torch.tensor([0.3, 0.25, 0.2, 0.12, 0.1, 0.03]).log()
    q, k = torch.ones(1, 1, 6, 1), want.view(1, 1, 6, 1)
    metric = torch.eye(6)[None].clone()
    metric[0, 4] = metric[0, 0]
    method = ZeroTPrune(keeps=(0.8,), blocks=(0,), alike=alike, variance=(0.0, 9.0))
    tokens = Tokens(torch.randn(1, 6, 3), q=q, k=k, metric=metric)
    assert torch.allclose(method.importance(tokens)[0], 6 * want.exp(), atol=1e-5)
    return method.reduce(tokens).keep[0].tolist()


def test_look_alikes_of_what_matters_leave_before_what_matters_less() -> None:
    assert walked(alike=0.0) == [0, 1, 2, 3, 4]
    assert walked(alike=1.0) == [0, 1, 2, 3, 5]


def test_flat_heads_do_not_count() -> None:
    want = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.05, 0.05]).log()
    q, k = torch.ones(1, 2, 6, 1), torch.stack([want, want * 0], 0).view(1, 2, 6, 1)
    tokens = Tokens(torch.randn(1, 6, 3), q=q, k=k)
    one = ZeroTPrune(variance=(0.01, 9.0)).importance(tokens)[0]
    assert torch.allclose(one, 6 * want.exp(), atol=1e-5)
    both = ZeroTPrune(variance=(0.0, 9.0)).importance(tokens)[0]
    assert torch.allclose(both, ((one.square() + 1) / 2).sqrt(), atol=1e-5)


def test_transforming_gives_everything_away_and_turns_into_merging() -> None:
    g = torch.Generator().manual_seed(4)
    x, metric = torch.randn(1, 12, 5, generator=g), torch.randn(1, 12, 6, generator=g)
    seen = torch.rand(1, 12, generator=g)
    tokens = Tokens(x, metric=metric, received_attention=seen, size=torch.ones(1, 12))
    soft = TokenTransforming(keeps=(0.5,), blocks=(0,)).reduce(tokens)
    assert soft.keep[0].tolist() == sorted(seen[0].topk(6).indices.tolist())
    assert (soft.to_dense() > 0).all()  # many to many
    assert float(soft.size().sum()) == pytest.approx(12)
    hard = TokenTransforming(keeps=(0.5,), blocks=(0,), temperature=1e-4).reduce(tokens)
    unit = torch.nn.functional.normalize(metric, dim=-1)
    best = (unit[0, hard.keep[0]] @ unit[0].mT).argmax(0)
    assert torch.equal(hard.assign[0], best)
    assert torch.allclose(hard.to_dense().sum(-1), torch.ones(1, 6))
    assert ((hard.to_dense() > 1e-3).sum(1) == 1).all()  # each token in one group
