"""What the frames of one second become."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.inputs.persecond import PerSecond
from foveate.tokens import Tokens


def clip(times: list[float], high: int = 1, wide: int = 2, ends: bool = False) -> Tokens:
    """Frames of high x wide tokens, numbered 0, 1, 2, ... as features."""
    columns = [*range(wide), -1] if ends else range(wide)
    cells = [(f, r, c) for f in range(len(times)) for r in range(high) for c in columns]
    each = len(cells) // len(times)
    x = torch.arange(len(cells)).float().view(1, -1, 1)
    seconds = torch.tensor(times).repeat_interleave(each)[None]
    return Tokens(x, grid=torch.tensor([cells]), times=seconds)


def means(tokens: Tokens, **options: float) -> Tensor:
    return PerSecond(**options).reduce(tokens)(tokens.x)[0, :, 0]


def test_a_place_is_averaged_over_its_second() -> None:
    tokens = clip([0.0, 0.5, 1.0, 1.5, 2.0])  # tokens 0 1 | 2 3 | 4 5 | 6 7 | 8 9
    assert means(tokens).tolist() == [1, 2, 5, 6, 8, 9]
    assert PerSecond().reduce(tokens).keep.tolist() == [[0, 1, 4, 5, 8, 9]]


def test_sixteen_frames_cost_one() -> None:
    tokens = clip([f / 16 for f in range(32)], high=2, wide=3)
    assert PerSecond().reduce(tokens).m == 2 * 6


def test_seconds_start_with_the_clip_and_may_be_longer() -> None:
    assert means(clip([7.3, 7.8, 8.2, 8.4])).tolist() == [2, 3, 6, 7]
    assert means(clip([7.3, 7.8, 8.2, 8.4]), seconds=2.0).tolist() == [3, 4]


def test_a_time_just_short_of_its_second_counts_as_that_second() -> None:
    assert means(clip([0.0, 0.99999999])).tolist() == [0, 1, 2, 3]


def test_squares_are_averaged_with_time() -> None:
    tokens = clip([0.0, 0.5], high=2, wide=2)  # 0 1 / 2 3 and 4 5 / 6 7
    assert means(tokens, pool=2).tolist() == [3.5]


def test_ends_of_lines_are_averaged_among_themselves() -> None:
    tokens = clip([0.0, 0.5], high=1, wide=2, ends=True)  # 0 1 end and 3 4 end
    assert means(tokens).tolist() == [1.5, 2.5, 3.5]
    assert means(tokens, pool=2).tolist() == [2, 3.5]


def test_rows_of_a_batch_may_differ_in_length() -> None:
    fast, slow = clip([0.0, 0.5]), clip([0.0, 1.0])
    both = Tokens(
        torch.cat([fast.x, slow.x]),
        grid=torch.cat([fast.need("grid"), slow.need("grid")]),
        times=torch.cat([fast.need("times"), slow.need("times")]),
    )
    assert PerSecond().reduce(both).lengths.tolist() == [2, 4]
