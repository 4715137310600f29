"""What the gate of GRT lets through, whose embedding the rest reuses, and which key frames fold."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.inputs.grt import GRT
from foveate.parts.film import Film
from foveate.parts.gating import gate, unlikeness
from foveate.tokens import Tokens


def clip(grey: list[list[float]]) -> Tokens:
    """Frames of flat grey patches, one row each."""
    frames, places = len(grey), len(grey[0])
    at = torch.arange(frames * places)
    pixels = torch.tensor(grey).reshape(1, -1, 1, 1, 1).expand(-1, -1, 3, 2, 2)
    x = torch.arange(1.0, frames * places + 1).view(1, -1, 1).expand(-1, -1, 4)
    return Tokens(x, grid=torch.stack([at // places, at * 0, at % places], -1)[None], pixels=pixels)


def patches(tokens: Tokens) -> Tensor:
    return tokens.need("pixels").float().flatten(2)


def test_an_unchanged_patch_reuses_the_last_one_that_was_embedded() -> None:
    tokens = clip([[0, 0], [0, 9], [0, 9], [5, 9]])
    gated = gate(Film(tokens), patches(tokens), 1.0)
    assert gated.open.tolist() == [[True, True, False, True, False, False, True, False]]
    assert gated.source.tolist() == [[0, 1, 0, 3, 0, 3, 6, 3]]
    assert gated.motion.tolist() == [[1, 1, 0, 1, 0, 0, 1, 0]]


def test_slow_drift_is_never_refreshed() -> None:
    tokens = clip([[0.0], [0.2], [0.4], [0.6], [0.8]])  # each step of 0.2 is a distance of 0.69, below the threshold
    assert gate(Film(tokens), patches(tokens), 1.0).source.tolist() == [[0, 0, 0, 0, 0]]


def test_structure_is_lost_when_a_pattern_turns_around_and_not_when_it_stays() -> None:
    a = torch.tensor([0.0, 255.0, 0.0, 255.0])
    assert unlikeness(a, a) == 0
    assert unlikeness(a, 255 - a) > 0.9


def test_key_frames_compare_with_the_key_frame_before() -> None:
    key = torch.tensor([[True, False, True, True, False]])
    assert GRT.earlier(key).tolist() == [[-1, 0, 0, 2, 3]]
    apart = torch.tensor([[0.0, 0.0, 0.5, 0.01, 0.0]])
    assert GRT(fold=0.09).folded(key, apart).tolist() == [[False, False, False, True, False]]


def test_a_still_video_leaves_its_first_frame() -> None:
    tokens = clip([[10, 20, 30, 40]] * 3)
    assert GRT(keep=4).reduce(tokens).keep.tolist() == [[0, 1, 2, 3]]


def test_the_mean_of_unchanged_tokens_can_stand_for_them() -> None:
    tokens = clip([[10], [10], [10]])
    assert GRT(keep=1, reuse="mean").reduce(tokens)(tokens.x)[0, 0, 0] == 2
    assert GRT(keep=1).reduce(tokens)(tokens.x)[0, 0, 0] == 1
