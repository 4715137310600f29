"""Methods that drop or fold what repeats an earlier frame: cases small enough to decide by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate import Tokens
from foveate.inputs.dycoke import DyCoke
from foveate.inputs.evs import EVS
from foveate.inputs.timechat_online import TimeChatOnline
from foveate.inputs.vidcom2 import VidCom2
from foveate.layers.framefusion import FrameFusion, surplus
from foveate.parts.attended import AttendedSet
from foveate.parts.film import Film
from foveate.parts.ranks import ranks
from foveate.parts.twins import latest


def cells(frames: int, places: int) -> Tensor:
    at = torch.arange(frames * places)
    return torch.stack([at // places, at * 0, at % places], -1)[None]


def still(frames: int, places: int, changed: dict[tuple[int, int], int]) -> Tokens:
    """A clip in which nothing moves, but for tokens (frame, place) that show something else, by number."""
    x = torch.eye(64)[torch.arange(places).repeat(frames)]
    for (frame, place), what in changed.items():
        x[frame * places + place] = torch.eye(64)[40 + what]
    return Tokens(x[None], grid=cells(frames, places), full=frames * places)


def test_the_first_frame_and_what_changed_stay() -> None:
    tokens = still(3, 4, {(1, 2): 0})  # place 2 changes in frame 1 and changes back in frame 2
    for method in (EVS(keep=6), TimeChatOnline()):
        assert method.reduce(tokens).keep.tolist() == [[0, 1, 2, 3, 6, 10]], method


def test_less_than_a_frame_is_spread_over_it() -> None:
    tokens = still(2, 16, {})
    for method in (EVS(keep=4), TimeChatOnline(keep=4), DyCoke(keep=4)):
        keep = method.reduce(tokens).keep[0]
        assert int(keep.max()) < 16, method
        assert 2 <= int(keep.diff().min()) <= int(keep.diff().max()) <= 7, (method, keep)


def test_colours_that_do_not_differ_leave() -> None:
    pixels = torch.zeros(1, 8, 3, 2, 2)
    pixels[0, 5] = 51.0  # a fifth of the way to white
    tokens = still(2, 4, {(1, place): place for place in range(4)}).with_(pixels=pixels)
    assert TimeChatOnline(metric="pixel").reduce(tokens).keep.tolist() == [[0, 1, 2, 3, 5]]
    assert TimeChatOnline(metric="pixel", still=0.3).reduce(tokens).m == 4
    assert TimeChatOnline().reduce(tokens).m == 8


def test_windows_of_four_frames() -> None:
    tokens = still(6, 4, {(1, 1): 0, (2, 3): 1, (3, 3): 1, (3, 0): 2, (5, 2): 3})
    out = DyCoke(drop=0.75).reduce(tokens)
    frame, place = out.keep[0] // 4, out.keep[0] % 4
    assert frame.bincount().tolist() == [4, 1, 1, 1, 4, 1]
    assert [int(place[frame == f]) for f in (1, 2, 3, 5)] == [1, 3, 0, 2]  # frame 3 is compared with frame 2
    code = DyCoke(drop=0.75, variant="code").reduce(still(5, 4, {}))
    assert (code.keep[0] // 4).bincount().tolist() == [4, 1, 1, 1]  # the fifth frame is lost


def test_a_frame_unlike_the_others_keeps_more() -> None:
    g = torch.Generator().manual_seed(0)
    base = torch.randn(1, 8, 32, generator=g) + 4 * torch.randn(32, generator=g)
    x = (base + 0.1 * torch.randn(4, 8, 32, generator=g)).clone()
    x[2] = torch.randn(8, 32, generator=g)
    out = VidCom2(keep=0.25, channels=1.0).reduce(Tokens(x.view(1, 32, 32), grid=cells(4, 8)))
    counts = (out.keep[0] // 8).bincount(minlength=4).tolist()
    assert sum(counts) == 8
    assert counts[2] == max(counts)
    assert counts.count(max(counts)) == 1


def test_the_set_is_reused_while_attention_stays() -> None:
    state = AttendedSet(start=1, length=4, drop=0.5)
    looks = torch.tensor([[0.0, 0.4, 0.3, 0.2, 0.1, 0.0]])
    assert state.step(looks).reads.tolist() == [True, True, True, False, False, True]
    again = state.step(torch.cat([looks, torch.zeros(1, 1)], 1))
    assert not again.rebuilt
    assert again.reads.tolist() == [True, True, True, False, False, True, True]
    turned = state.step(torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]]))
    assert turned.rebuilt
    assert turned.reads.tolist() == [True, True, False, False, True, True, True, True]


def test_ranks_inside_groups() -> None:
    score, group = torch.tensor([[1.0, 3.0, 2.0, 3.0, 5.0]]), torch.tensor([[0, 1, 0, 1, 0]])
    assert ranks(score, group).tolist() == [[2, 0, 1, 1, 0]]


def test_a_gap_does_not_hide_the_token_before() -> None:
    grid = cells(3, 2)[:, [0, 1, 3, 4]]  # place 0 is missing in frame 1, place 1 in frame 2
    assert latest(Film(Tokens(torch.zeros(1, 4, 2), grid=grid))).tolist() == [[-1, -1, 1, 0]]


def with_attention(tokens: Tokens, favourite: int) -> Tokens:
    """One token gets most of the attention of all later ones."""
    n = tokens.n
    k = torch.zeros(1, 1, n, 2)
    k[0, 0, favourite] = 5.0
    return tokens.with_(q=torch.ones(1, 1, n, 2), k=k, where=torch.arange(n)[None], layers=10)


def test_runs_fold_into_their_head() -> None:
    tokens = with_attention(still(3, 4, {(1, 2): 0}), 0).with_(layer=1)
    out = FrameFusion(cost=0.58).reduce(tokens)  # exactly what repeats has to leave
    assert out.keep.tolist() == [[0, 1, 2, 3, 6, 10]]
    assert out.to_dense()[0, 0].nonzero()[:, 0].tolist() == [0, 4, 8]
    assert torch.allclose(out.to_dense().sum(-1), torch.ones(1, 6))


def test_only_as_many_fold_as_must() -> None:
    out = FrameFusion(keep=10).reduce(with_attention(still(3, 4, {}), 0).with_(layer=1))
    assert out.m == 10
    assert not out.selects


def test_where_little_repeats_attention_decides() -> None:
    changed = {(f, p): 4 * f + p for f in (1, 2) for p in range(4)}
    tokens = with_attention(still(3, 4, changed), 7).with_(layer=1)
    out = FrameFusion(keep=1).reduce(tokens)
    assert out.keep.tolist() == [[7]]
    assert FrameFusion(cost=0.2).reduce(tokens).m == 1  # nothing folds: merging is over, and the rest is pruned


def test_the_cascade_stays_within_its_cost() -> None:
    g = torch.Generator().manual_seed(1)
    method, layers = FrameFusion(cost=0.3, alike=0.9, least=0.05), 20
    x = torch.randn(8, 1, 16, generator=g).cumsum(0) + torch.randn(1, 12, 16, generator=g) * 3
    tokens = with_attention(Tokens(x.view(1, 96, 16), grid=cells(8, 12), full=96), 50).with_(layers=layers)
    held = []
    for layer in range(layers):
        if layer in method.at(layers):
            out = method.reduce(tokens.with_(layer=layer))
            tokens = with_attention(tokens.gathered(out), 0).with_(layers=layers)
        held.append(tokens.n / 96)
    assert sum(held) / layers <= 0.3 + 1e-6
    assert len(set(held[3:])) == 1
    assert surplus([1.0], 0.3, layers) == 1 - (20 * 0.3 - 1) / 19
