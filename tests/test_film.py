"""The table of frames and places that video methods share."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.parts.film import Film, segments
from foveate.tokens import Tokens


def film(cells: list[tuple[int, int, int]], x: Tensor | None = None) -> Film:
    grid = torch.tensor([cells])
    return Film(Tokens(torch.zeros(1, len(cells), 2) if x is None else x, grid=grid))


def test_tokens_find_their_place_and_the_frame_before() -> None:
    f = film([(3, 0, 0), (3, 0, 1), (4, 0, 1), (6, 0, 0), (6, 0, 1)])
    assert f.frames == 4
    assert f.places == 2
    assert f.table.tolist() == [[[0, 1], [-1, 2], [-1, -1], [3, 4]]]
    assert f.sizes.tolist() == [[2, 1, 0, 2]]
    assert f.before().tolist() == [[-1, -1, 1, -1, -1]]


def test_line_ends_are_places_of_their_own() -> None:
    f = film([(0, 0, 0), (0, 0, -1), (0, 1, 0), (0, 1, -1)])
    assert f.places == 4
    assert f.table.sort(-1).values.tolist() == [[[0, 1, 2, 3]]]


def test_values_go_to_the_table_and_back() -> None:
    x = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]]])
    f = film([(0, 0, 0), (0, 0, 1), (1, 0, 1)], x)
    assert f.laid(x).tolist() == [[[[1, 0], [0, 2]], [[0, 0], [0, 1]]]]
    assert f.picked(f.laid(x[..., 1])).tolist() == [[0, 2, 1]]
    assert f.means(x).tolist() == [[[0.5, 1.0], [0.0, 1.0]]]
    assert f.likeness(x).tolist() == [[-1, -1, 1]]


def test_segments_count_cuts() -> None:
    assert segments(torch.tensor([[True, False, True]])).tolist() == [[0, 1, 1, 2]]


def test_nothing_is_a_film_too() -> None:
    f = Film(Tokens(torch.zeros(2, 0, 3), grid=torch.zeros(2, 0, 3, dtype=torch.long)))
    assert f.frames == 0
    assert f.sizes.shape == (2, 0)
