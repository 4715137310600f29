"""Published rules of methods whose authors' code could not be run, on examples worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import foveate
from foveate import Tokens
from foveate.errors import InputError
from foveate.parts.coverage import cover
from foveate.parts.kmeans import even, seeded
from foveate.parts.quota import share_out
from foveate.parts.sinks import calibrate, sink_columns


def make(name: str, **options: object) -> object:
    return foveate.methods()[name](**options)


def angles(*degrees: float) -> Tensor:
    """Unit vectors in the plane, (1, n, 2)."""
    at = torch.tensor(degrees) * math.pi / 180
    return torch.stack([at.cos(), at.sin()], -1)[None]


def kept(name: str, tokens: Tokens, **options: object) -> list[int]:
    return make(name, **options).reduce(tokens).keep[0].tolist()  # type: ignore[attr-defined]


def heads(rows: list[list[float]], n: int, lead: int = 0) -> dict[str, Tensor]:
    """Attention logits of text rows over a sequence of ``lead`` tokens, n visual ones and the text itself."""
    t = len(rows)
    length = lead + n + t
    q = torch.full((1, 1, length, length), -1e9)
    q[0, 0, lead + n :] = torch.tensor(rows)
    k = torch.eye(length)[None, None]
    where, asks = torch.arange(lead, lead + n)[None], torch.arange(lead + n, length)[None]
    return {"q": q, "k": k, "where": where, "asks": asks}


# --- ToDRE ------------------------------------------------------------------------------------------------------------


def test_todre_starts_with_the_oddest_and_goes_farthest_each_time() -> None:
    tokens = Tokens(angles(0, 5, 10, 40, 90))  # 90 is least like the mean; then 0, then 40
    assert make("todre", keep=3).pick(tokens).tolist() == [[4, 0, 3]]  # type: ignore[attr-defined]


def test_todre_sums_distances_in_the_revision() -> None:
    tokens = Tokens(angles(0, 5, 10, 40, 90))  # from 90 and 0: cosines to 5 sum to 1.083, to 40 to 1.409
    assert make("todre", keep=3, rule="max-sum").pick(tokens).tolist() == [[4, 0, 1]]  # type: ignore[attr-defined]


def test_todre_leaves_every_token_near_a_kept_one() -> None:
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(8, 16, generator=g)
    x = (centres.repeat_interleave(10, 0) + 0.02 * torch.randn(80, 16, generator=g))[None]
    assert {i // 10 for i in kept("todre", Tokens(x), keep=8)} == set(range(8))


# --- DART -------------------------------------------------------------------------------------------------------------


def test_dart_takes_what_its_pivots_resemble_least() -> None:
    x = angles(0, 10, 95, 170, 60)
    k = torch.zeros(1, 1, 7, 1)
    k[0, 0, :, 0] = torch.tensor(
        [-9.0, 1, 2, 3, 4, 1, 5]
    )  # 5 visual tokens, then 2 words: pivots 0 and the second word
    tokens = Tokens(x, k=k, q=k, where=torch.arange(5)[None], asks=torch.tensor([[5, 6]]), text=angles(0, 170))
    got = kept("dart", tokens, keep=3, visual=1, textual=1)
    assert got == [0, 1, 3]  # 0 stays, takes 3 (170 degrees off); the word at 170 takes 1 (160 off)


def test_dart_without_words_shares_among_visual_pivots() -> None:
    x = angles(0, 90, 80, 181, 271)
    k = torch.tensor([5.0, 4, 1, 1, 1, 1]).view(1, 1, 6, 1)
    tokens = Tokens(x, k=k, q=k, where=torch.arange(5)[None], asks=torch.tensor([[5]]), text=angles(0))
    assert kept("dart", tokens, keep=4, visual=2, textual=0) == [0, 1, 3, 4]


# --- SCOPE ------------------------------------------------------------------------------------------------------------


def greedy(x: Tensor, weight: Tensor, m: int) -> list[int]:
    """SCOPE's rule, every gain computed anew at every step."""
    sim = torch.nn.functional.normalize(x, dim=-1) @ torch.nn.functional.normalize(x, dim=-1).T
    covered, out = torch.zeros(len(x)), []
    for _ in range(m):
        gain = (sim - covered[:, None]).clamp(min=0).sum(0) * weight
        gain[out] = -1
        out.append(int(gain.argmax()))
        covered = torch.maximum(covered, sim[out[-1]])
    return out


@pytest.mark.parametrize("seed", range(5))
def test_scope_evaluated_lazily_picks_what_the_plain_rule_picks(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(12, 8, generator=g)[torch.randint(12, (100,), generator=g)] + 0.4 * torch.randn(100, 8, generator=g)
    weight = torch.randn(100, generator=g).softmax(-1)
    assert cover(x[None], weight[None], 30)[0].tolist() == greedy(x, weight, 30)


def test_scope_prefers_the_uncovered_to_the_salient_twin() -> None:
    x = angles(0, 0, 90)
    seen = torch.tensor([[0.5, 0.4, 0.1]])
    assert kept("scope", Tokens(x, received_attention=seen), keep=2) == [0, 2]
    assert make("scope", keep=3).pick(Tokens(x, received_attention=seen)).tolist() == [[0, 2, 1]]  # type: ignore[attr-defined]


# --- HiPrune ----------------------------------------------------------------------------------------------------------


def test_hiprune_keeps_the_anchor_its_four_neighbours_and_registers() -> None:
    cell = torch.arange(25)
    grid = torch.stack([cell * 0, cell // 5, cell % 5], -1)[None]
    layers = torch.zeros(1, 9, 25)
    layers[0, 3, 12] = 1.0  # the centre, in layer round(0.375 * 8)
    layers[0, -1, [0, 4]] = torch.tensor([0.5, 0.4])
    tokens = Tokens(torch.zeros(1, 25, 2), received_layers=layers, grid=grid)
    assert kept("hiprune", tokens, keep=7, alpha=0.7) == [0, 4, 7, 11, 12, 13, 17]
    assert kept("hiprune", tokens, keep=2, alpha=0.0) == [0, 4]


def test_hiprune_has_no_neighbours_across_views_and_line_ends() -> None:
    grid = torch.tensor([[[0, 0, 0], [0, 0, -1], [1, 0, 0], [1, 0, 1]]])
    layers = torch.tensor([[[9.0, 8, 7, 0], [0, 3, 2, 4]]])
    tokens = Tokens(torch.zeros(1, 4, 2), received_layers=layers, grid=grid)
    assert kept("hiprune", tokens, keep=2, alpha=1.0, layer=0.0) == [0, 3]  # 0 has no neighbour: best of the deep layer


# --- token-level correlation -----------------------------------------------------------------------------------------


def test_correlation_gives_a_crop_that_repeats_itself_one_token() -> None:
    x = torch.cat([torch.ones(1, 6, 6), torch.eye(6)[None]], 1)  # a blank crop, and one where nothing repeats
    crop = torch.tensor([[1] * 6 + [2] * 6])
    seen = torch.linspace(1, 2, 12).expand(1, 4, 12)
    got = kept("token_correlation", Tokens(x, crop=crop, cls_layers=seen))
    assert got == [6, 7, 8, 9, 10, 11]  # six are not redundant, and all are in the second crop
    assert kept("token_correlation", Tokens(x, crop=crop, cls_layers=seen), keep=8) == [4, 5, *range(6, 12)]


def test_correlation_never_drops_all() -> None:
    tokens = Tokens(torch.ones(1, 9, 4), cls_layers=torch.eye(9)[None, 3:4])
    assert kept("token_correlation", tokens) == [3]


def test_a_budget_is_shared_by_claims() -> None:
    score = torch.tensor([[0.1, 0.9, 0.8, 0.2, 0.5, 0.4]])
    group = torch.tensor([[0, 0, 0, 1, 1, 1]])
    claim = torch.tensor([[2.0, 1.0]])
    assert share_out(score, group, claim, 3)[0].nonzero()[:, 0].tolist() == [1, 2, 4]
    assert share_out(score, group, claim, 5)[0].tolist() == [True, True, True, False, True, True]


# --- EfficientVLA and sinks -------------------------------------------------------------------------------------------


def test_efficientvla_takes_key_attended_and_different_tokens() -> None:
    x = angles(0, 10, 20, 30, 100, 180)
    text = heads([[5.0, 4, 3, 2, 1, 0, 0]], 6)
    tokens = Tokens(x, layer=2, layers=4, **text)
    assert kept("efficientvla", tokens, keep=5, key=1, alpha=0.5) == [0, 1, 2, 4, 5]
    assert kept("efficientvla", tokens, keep=3, key=1, alpha=0.0) == [0, 4, 5]
    assert kept("efficientvla", tokens, keep=3, key=1, alpha=1.0) == [0, 1, 2]


def test_sinks_are_found_after_the_first_key_and_toned_down() -> None:
    attention = torch.tensor([[[[0.4, 0.05, 0.5, 0.05, 0.0], [0.4, 0.05, 0.45, 0.05, 0.05]]]])
    rows = torch.tensor([[3, 4]])
    sinks = sink_columns(attention, rows, times=2.0)
    assert sinks[0, 0].tolist() == [False, False, True, False, False]
    out = calibrate(attention, sinks, beta=0.4)
    assert torch.allclose(out.sum(-1), torch.ones(1, 1, 2))
    assert torch.allclose(out[0, 0, 0], torch.tensor([0.64, 0.08, 0.2, 0.08, 0.0]))  # 0.3 freed, shared 8 : 1 : 1
    assert torch.equal(calibrate(attention, sinks, beta=1.0), attention)


def test_a_row_of_nothing_but_sinks_stays() -> None:
    attention = torch.tensor([[[[0.0, 1.0]]]])
    assert torch.equal(calibrate(attention, torch.tensor([[[False, True]]])), attention)


def test_efficientvla_looks_past_a_sink_when_asked() -> None:
    text = heads([[4.0, 0, 0, 0.5, 0.4, 0.0, -1e9], [4.0, 0, 0, 0.5, 0.4, 0.0, 0.0]], 5, lead=0)
    tokens = Tokens(torch.zeros(1, 5, 2), layer=2, layers=4, **text)
    score = make("efficientvla").score(tokens)[0]  # type: ignore[attr-defined]
    assert score.argmax() == 0
    assert torch.allclose(make("efficientvla", sinks=1.0).score(tokens)[0], score)  # type: ignore[attr-defined]


# --- VMTC -------------------------------------------------------------------------------------------------------------


def test_vmtc_keeps_the_primary_and_averages_clusters() -> None:
    x = angles(0, 90, 2, 92, 45)
    tokens = Tokens(x, received_attention=torch.tensor([[0.1, 0.1, 0.1, 0.1, 0.6]]))
    out = make("vmtc", keep=3, primary=1 / 3).reduce(tokens)  # type: ignore[attr-defined]
    assert out.keep.tolist() == [[0, 2, 4]]  # seeds are the first and third of the rest, 0 and 2
    assert torch.equal(out(x)[0, 2], x[0, 4])
    assert sorted(out.size()[0].tolist()) == [1, 1, 3]


def test_clusters_move_to_their_averages_and_are_never_empty() -> None:
    x = angles(0, 1, 2, 40, 90, 91)
    assert seeded(x, torch.tensor([[0, 4]]), 3)[0].tolist() == [0, 0, 0, 0, 4, 4]
    assert seeded(torch.ones(1, 4, 2), torch.tensor([[0, 2]]), 3)[0].tolist() == [0, 0, 2, 0]
    assert even(7, 3).tolist() == [0, 2, 4]


# --- scores from elsewhere --------------------------------------------------------------------------------------------


def test_given_keeps_the_highest_scores_in_every_row() -> None:
    tokens = Tokens(torch.zeros(2, 4, 3))
    out = make("given", keep=2, scores=(0.1, 3, -1, 0.2)).reduce(tokens)  # type: ignore[attr-defined]
    assert out.keep.tolist() == [[1, 3], [1, 3]]
    assert foveate.parse("given(keep=2, scores=(0.1, 3, -1, 0.2))")[0] == make(
        "given", keep=2, scores=[0.1, 3, -1, 0.2]
    )


def test_given_says_when_scores_do_not_fit() -> None:
    with pytest.raises(InputError, match="3 numbers, and there are 4"):
        make("given", scores=(1.0, 2.0, 3.0)).reduce(Tokens(torch.zeros(1, 4, 3)))  # type: ignore[attr-defined]


# --- pooling on a grid ------------------------------------------------------------------------------------------------


def frames(t: int, h: int, w: int, ends: bool = False) -> Tensor:
    """Cells of t frames, (1, n, 3), with an end of each line if asked for."""
    return torch.tensor([[[f, r, c] for f in range(t) for r in range(h) for c in [*range(w), *([-1] * ends)]]])


def test_gridpool_averages_squares_ragged_edges_and_no_two_frames() -> None:
    x = torch.arange(12.0).view(1, 12, 1)
    out = make("gridpool").reduce(Tokens(x, grid=frames(2, 2, 3)))  # type: ignore[attr-defined]
    assert out.keep.tolist() == [[0, 2, 6, 8]]
    assert out(x)[0, :, 0].tolist() == [2.0, 3.5, 8.0, 9.5]


def test_gridpool_averages_line_ends_among_themselves() -> None:
    x = torch.arange(9.0).view(1, 9, 1)
    out = make("gridpool").reduce(Tokens(x, grid=frames(1, 3, 2, ends=True)))  # type: ignore[attr-defined]
    assert out.keep.tolist() == [[0, 2, 6, 8]]
    assert out(x)[0, :, 0].tolist() == [2.0, 3.5, 6.5, 8.0]


def test_gridpool_agrees_with_pooling_an_image_and_takes_rows_of_other_shapes() -> None:
    x = torch.randn(2, 24, 5, generator=torch.Generator().manual_seed(0))
    grid = torch.cat([frames(1, 4, 6), frames(1, 3, 8)])
    out = make("gridpool").reduce(Tokens(x, grid=grid))  # type: ignore[attr-defined]
    assert out.lengths.tolist() == [6, 8]
    for row, (h, w) in enumerate([(4, 6), (3, 8)]):
        image = x[row].T.view(1, 5, h, w)
        want = torch.nn.functional.avg_pool2d(image, 2, ceil_mode=True, count_include_pad=False)
        assert torch.allclose(out(x)[row, : want[0, 0].numel()], want[0].flatten(1).T, atol=1e-6)
    assert make("gridpool", stride=1).reduce(Tokens(x, grid=grid)).m == 24  # type: ignore[attr-defined]
