"""foveal: what each of its parts does, on tokens made by hand."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from foveate.inputs.foveal import Foveal
from foveate.parts.facility import fitting, power, stand_for
from foveate.tokens import Tokens


def scene(things: list[tuple[int, int]], n: int = 36, d: int = 32, seed: int = 0) -> Tensor:
    """n tokens of one background with a little noise, and things: (where it starts, how many tokens)."""
    g = torch.Generator().manual_seed(seed)
    kinds = torch.eye(d)
    x = 3 * kinds[0].repeat(n, 1) + 0.05 * torch.randn(n, d, generator=g)
    for k, (start, size) in enumerate(things):
        x[start : start + size] += 2 * kinds[k + 1]
    return x[None]


def tokens(x: Tensor, text: Tensor | None = None) -> Tokens:
    at = torch.arange(x.shape[1])
    grid = torch.stack([at * 0, at // 6, at % 6], -1).expand(len(x), -1, 3)
    return Tokens(x, grid=grid, text=torch.zeros(len(x), 1, x.shape[-1]) if text is None else text)


def naive(like: Tensor, need: Tensor, m: int) -> list[int]:
    covered, out = torch.zeros_like(need), list[int]()
    for _ in range(m):
        gain = (like - covered).clamp(min=0) @ need
        gain[out] = -1
        out.append(int(gain.argmax()))
        covered = torch.maximum(covered, like[out[-1]])
    return out


def test_lazy_picks_are_the_greedy_ones() -> None:
    g = torch.Generator().manual_seed(1)
    for n, m in ((5, 5), (40, 10), (120, 60)):
        unit = normalize(torch.randn(n, 6, generator=g, dtype=torch.float64), dim=-1)
        like, need = (unit @ unit.T).clamp(min=0), torch.rand(n, generator=g, dtype=torch.float64)
        picked, left = stand_for(like, need, m)
        assert picked.tolist() == naive(like, need, m)
        assert bool((left[1:] <= left[:-1]).all())


def test_every_thing_is_stood_for_before_any_twice() -> None:
    things = [(3, 4), (14, 1), (20, 6), (30, 2)]
    r = Foveal(keep=4).reduce(tokens(scene(things)))
    owner = [next(k for k, (s, c) in enumerate(things) if s <= i < s + c) for i in r.keep[0].tolist()]
    assert sorted(owner) == [0, 1, 2, 3]


def test_what_a_pick_stands_for_is_folded_into_it() -> None:
    x = scene([(10, 3)])
    r = Foveal(keep=1, fold=0.6).reduce(tokens(x))
    (pick,) = r.keep[0].tolist()
    rest = [i for i in (10, 11, 12) if i != pick]
    assert abs(float(r.weight[0, pick]) - 0.4) < 1e-6
    assert float(r.weight[0, rest].sum()) > 0.55  # the background weighs next to nothing
    pure = Foveal(keep=1, fold=0.0).reduce(tokens(x))
    assert pure.selects
    assert pure.keep[0].tolist() == [pick]


def test_the_question_moves_what_is_kept() -> None:
    x = scene([(3, 2), (20, 2)])
    asked = [torch.eye(32)[k][None, None] for k in (1, 2)]
    picked = [int(Foveal(keep=1, query=2.0).reduce(tokens(x, text)).keep[0, 0]) for text in asked]
    assert picked[0] in (3, 4)
    assert picked[1] in (20, 21)
    without = [Foveal(keep=1, query=0.0).reduce(tokens(x, text)).keep[0, 0] for text in asked]
    assert without[0] == without[1]


def test_plain_pictures_take_less_than_the_cap() -> None:
    few, many = (scene([(4 * k, 1) for k in range(count)]) for count in (2, 8))
    m = [Foveal(keep=12, enough=0.9).reduce(tokens(x)).m for x in (few, many)]
    assert m[0] <= 3
    assert 6 <= m[1] <= 12
    both = Foveal(keep=12, enough=0.9).reduce(tokens(torch.cat([few, many])))
    assert [(row >= 0).sum().item() for row in both.keep] == m  # rows of one batch end apart


def test_a_still_place_of_a_clip_is_kept_once() -> None:
    x = scene([(3, 1), (8, 1)], n=12).repeat(1, 4, 1)  # four frames alike
    at = torch.arange(48)
    grid = torch.stack([at // 12, at % 12 // 4, at % 4], -1)[None]
    r = Foveal(keep=2).reduce(Tokens(x, grid=grid, text=torch.zeros(1, 1, 32)))
    assert sorted(i % 12 for i in r.keep[0].tolist()) == [3, 8]


def test_long_rows_are_compared_in_fewer_dimensions() -> None:
    g = torch.Generator().manual_seed(0)
    unit = normalize(torch.randn(1, 1500, 512, generator=g), dim=-1)
    short = fitting(unit)
    assert short.shape == (1, 1500, 64)
    torch.testing.assert_close(short, fitting(unit))
    off = (short[0, :50] @ short[0, :50].T) - (unit[0, :50] @ unit[0, :50].T)
    assert float(off.abs().mean()) < 0.2
    assert fitting(unit[:, :1000]).shape[-1] == 512


def test_powers() -> None:
    x = torch.rand(50)
    for p in (1.0, 1.5, 2.0, 2.5, 0.5, 1.3):
        torch.testing.assert_close(power(x.clone(), p), x**p)
