"""The algebra of maps, on random ones of every kind: selections (ragged too), merges, drops with merges, mixes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from foveate import Reduction
from foveate.errors import InputError

quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
KINDS = ("take", "mask", "merge", "drop", "dense", "ragged dense", "ragged merge", "none")


def make(kind: str, b: int, n: int, g: torch.Generator) -> Reduction:
    """A random map of (b, n) tokens."""
    m = int(torch.randint(1, n + 1, (), generator=g))
    order = torch.rand(b, n, generator=g).argsort(-1)
    keep = order[:, :m].sort(-1).values
    if kind == "take":
        return Reduction.take(order[:, :m], n)
    if kind == "none":
        return Reduction.from_mask(torch.zeros(b, n, dtype=torch.bool))
    if kind == "mask":
        return Reduction.from_mask(torch.rand(b, n, generator=g) < 0.5)
    if kind == "dense":
        matrix = torch.rand(b, m, n, generator=g) * (torch.rand(b, m, n, generator=g) < 0.5)
        return Reduction.dense(matrix, keep)
    if kind.startswith("ragged"):
        return Reduction.stack([make(kind.split()[1], 1, n, g) for _ in range(b)])
    stays = torch.zeros(b, n, dtype=torch.bool).scatter(1, keep, True)
    choice = keep.gather(1, torch.randint(m, (b, n), generator=g))
    into = torch.where(stays, torch.arange(n), choice)
    if kind == "drop":
        into = torch.where(~stays & (torch.rand(b, n, generator=g) < 0.3), -1, into)
    return Reduction.merge(into, torch.randint(1, 5, (b, n), generator=g).float())


@st.composite
def maps(draw: Any, kinds: tuple[str, ...] = KINDS, max_n: int = 9) -> tuple[Reduction, torch.Generator]:
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    return make(draw(st.sampled_from(kinds)), draw(st.integers(1, 3)), draw(st.integers(1, max_n)), g), g


def oracle(a: Reduction) -> Tensor:
    """The matrix, entry by entry from the definition."""
    if a.matrix is not None:
        return a.matrix
    out = torch.zeros(a.b, a.m, a.n)
    for b in range(a.b):
        for i in range(a.n):
            if a.assign[b, i] >= 0:
                out[b, a.assign[b, i], i] = a.weight[b, i]
    return out


def well_formed(a: Reduction) -> None:
    assert a.keep.dtype == a.assign.dtype == torch.int64
    assert a.keep.shape == (a.b, a.m)
    assert a.assign.shape == a.weight.shape == (a.b, a.n)
    for b in range(a.b):
        kept = a.keep[b][a.keep[b] >= 0].tolist()
        assert kept == sorted(set(kept))
        assert a.keep[b].tolist() == kept + [-1] * (a.m - len(kept))
        assert bool((a.assign[b] < len(kept)).all())
        assert bool((a.assign[b] >= -1).all())
        assert not oracle(a)[b, len(kept) :].any()


@quick
@given(maps())
def test_every_maker_gives_a_well_formed_map(case: tuple[Reduction, torch.Generator]) -> None:
    a, _ = case
    well_formed(a)
    assert torch.equal(a.to_dense(), oracle(a))
    assert a.lengths.tolist() == [len([k for k in row if k >= 0]) for row in a.keep.tolist()]
    assert a.kept.nonzero().tolist() == [[b, k] for b in range(a.b) for k in a.keep[b].tolist() if k >= 0]


@quick
@given(maps())
def test_apply_is_the_matrix(case: tuple[Reduction, torch.Generator]) -> None:
    a, g = case
    x = torch.randn(a.b, a.n, 2, 3, generator=g)
    want = torch.einsum("bmn,bnij->bmij", oracle(a), x)
    assert torch.allclose(a(x), want, atol=1e-5)
    assert torch.allclose(a(x[..., 0, 0]), want[..., 0, 0], atol=1e-5)
    assert torch.allclose(a(x.double()), want.double(), atol=1e-5)
    assert a(x.double()).dtype == torch.float64
    assert a(x.bfloat16()).dtype == torch.bfloat16


@quick
@given(maps(("merge", "drop", "ragged merge")))
def test_rows_of_a_merge_sum_to_one_and_mass_is_conserved(case: tuple[Reduction, torch.Generator]) -> None:
    a, g = case
    sums = a.to_dense().sum(-1)
    assert torch.allclose(sums[a.valid], torch.ones(()), atol=1e-5)
    size = torch.randint(1, 5, (a.b, a.n), generator=g).float()
    assert torch.equal(a.size().sum(-1), (a.assign >= 0).sum(-1).float())
    assert torch.equal(a.size(size).sum(-1), (size * (a.assign >= 0)).sum(-1))


@quick
@given(maps(("dense", "ragged dense")))
def test_mass_of_a_mix_is_that_of_the_tokens_it_uses(case: tuple[Reduction, torch.Generator]) -> None:
    a, _ = case
    used = (a.to_dense() != 0).any(1)
    assert torch.allclose(a.size().sum(-1), used.sum(-1).float())
    assert torch.equal(a.assign >= 0, used)


def test_merging_weighs_by_size() -> None:
    a = Reduction.merge(torch.tensor([[0, 0, 2, -1]]), torch.tensor([[3.0, 1.0, 2.0, 9.0]]))
    assert a(torch.tensor([[[1.0], [5.0], [7.0], [100.0]]])).tolist() == [[[2.0], [7.0]]]
    assert a.size(torch.tensor([[3.0, 1.0, 2.0, 9.0]])).tolist() == [[4.0, 2.0]]


@quick
@given(maps(), st.sampled_from(KINDS))
def test_composition_is_applying_twice(case: tuple[Reduction, torch.Generator], kind: str) -> None:
    a, g = case
    b = make(kind, a.b, a.m, g) if a.m else Reduction.from_mask(torch.zeros(a.b, 0, dtype=torch.bool))
    x = torch.randn(a.b, a.n, 3, generator=g)
    both = a.then(b)
    assert torch.allclose(both(x), b(a(x)), atol=1e-4)
    assert torch.allclose(both.to_dense(), b.to_dense() @ a.to_dense(), atol=1e-5)
    if a.selects and b.selects:
        assert torch.equal(both(x), b(a(x)))
    for r in range(a.b):
        assert both.keep[r].tolist() == [int(a.keep[r, k]) if k >= 0 else -1 for k in b.keep[r].tolist()]


@quick
@given(maps(("take", "merge", "drop", "dense")))
def test_identity_is_neutral(case: tuple[Reduction, torch.Generator]) -> None:
    a, g = case
    assert Reduction.identity(a.b, a.n).then(a) == a
    assert a.then(Reduction.identity(a.b, a.m)) == a
    x = torch.randn(a.b, a.n, 3, generator=g)
    for everything in (
        Reduction.identity(a.b, a.n),
        Reduction.take(torch.rand(a.b, a.n, generator=g).argsort(-1), a.n),
        Reduction.from_mask(torch.ones(a.b, a.n, dtype=torch.bool)),
        Reduction.merge(torch.arange(a.n).expand(a.b, -1), torch.rand(a.b, a.n, generator=g)),
    ):
        assert everything == Reduction.identity(a.b, a.n)
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool):
            assert torch.equal(everything(x.to(dtype)), x.to(dtype))


@quick
@given(maps(("take", "mask", "none")))
def test_a_selection_keeps_order_and_bits(case: tuple[Reduction, torch.Generator]) -> None:
    a, _ = case
    at = torch.arange(a.n).expand(a.b, -1)
    assert torch.equal(a(at), a.keep.clamp(min=0))
    x = torch.tensor([torch.inf, 1.0, torch.nan, -0.0]).repeat(a.n)[: a.n].expand(a.b, -1)
    for b in range(a.b):
        row = a.row(b)
        assert torch.equal(row(x[b : b + 1]).view(torch.int32), x[b, row.keep].view(torch.int32))
    assert not a(x)[~a.valid].any()


@quick
@given(maps(("merge", "drop")))
def test_dropped_tokens_leave_no_trace(case: tuple[Reduction, torch.Generator]) -> None:
    a, g = case
    x = torch.randn(a.b, a.n, 2, generator=g)
    broken = x.masked_fill((a.assign < 0)[..., None], torch.nan)
    assert torch.equal(a(broken), a(x))


@quick
@given(maps(("take", "mask", "merge", "drop", "none", "ragged merge")))
def test_expand_gives_each_token_its_slot(case: tuple[Reduction, torch.Generator]) -> None:
    a, g = case
    y = torch.randn(a.b, a.m, 2, generator=g) * a.valid[..., None]
    lifted = a.expand(y)
    for b in range(a.b):
        for i in range(a.n):
            slot = int(a.assign[b, i])
            assert torch.equal(lifted[b, i], y[b, slot] if slot >= 0 else torch.zeros(2))
    assert torch.allclose(a(lifted), y, atol=1e-5)  # reducing what was lifted gives it back
    assert torch.allclose(a.expand(a(lifted)), lifted, atol=1e-5)


@quick
@given(maps(), st.data())
def test_gather_reads_what_each_slot_inherits(case: tuple[Reduction, torch.Generator], data: st.DataObject) -> None:
    a, g = case
    x = torch.randn(a.b, 2, a.n, 3, generator=g)
    got = a.gather(x, dim=2)
    for b in range(a.b):
        keep = a.row(b).keep[0]
        assert torch.equal(got[b, :, : len(keep)], x[b][:, keep])
    shared = torch.arange(a.n)[None]
    assert torch.equal(a.gather(shared)[a.valid], a.keep[a.valid])


@quick
@given(maps(), st.data())
def test_restrict_is_a_block_of_the_matrix(case: tuple[Reduction, torch.Generator], data: st.DataObject) -> None:
    a, _ = case
    start = data.draw(st.integers(0, a.n))
    stop = data.draw(st.integers(start, a.n))
    part = a.restrict(start, stop)
    well_formed(part)
    if a.matrix is not None:
        assert torch.equal(part.assign >= 0, (part.to_dense() != 0).any(1))
    for b in range(a.b):
        slots = ((a.keep[b] >= start) & (a.keep[b] < stop)).nonzero()[:, 0]
        assert part.row(b).keep.tolist() == [(a.keep[b, slots] - start).tolist()]
        assert torch.equal(part.row(b).to_dense()[0], a.to_dense()[b, slots, start:stop])


@quick
@given(maps(), st.integers(0, 4), st.data())
def test_place_leaves_the_rest_alone(case: tuple[Reduction, torch.Generator], more: int, data: st.DataObject) -> None:
    a, g = case
    n = a.n + more
    where = torch.rand(n, generator=g).argsort()[: a.n].sort().values
    out = a.place(where, n)
    well_formed(out)
    others = [i for i in range(n) if i not in where.tolist()]
    x = torch.randn(a.b, n, 2, generator=g)
    got, part = out(x), a(x[:, where])
    for b in range(a.b):
        mine = {int(where[k]): part[b, s] for s, k in enumerate(a.keep[b].tolist()) if k >= 0}
        kept = [k for k in out.keep[b].tolist() if k >= 0]
        assert kept == sorted([*mine, *others])
        for s, k in enumerate(kept):
            assert torch.allclose(got[b, s], mine[k] if k in mine else x[b, k], atol=1e-5)


@quick
@given(maps(), st.lists(st.sampled_from(KINDS), min_size=1, max_size=3))
def test_cat_is_block_diagonal(case: tuple[Reduction, torch.Generator], kinds: list[str]) -> None:
    a, g = case
    parts = [a, *[make(kind, a.b, 1 + i, g) for i, kind in enumerate(kinds)]]
    out = Reduction.cat(parts)
    well_formed(out)
    x = torch.randn(a.b, out.n, 2, generator=g)
    pieces = x.split([p.n for p in parts], 1)
    for b in range(a.b):
        want = torch.cat([p.row(b)(piece[b : b + 1]) for p, piece in zip(parts, pieces)], 1)
        assert torch.allclose(out.row(b)(x[b : b + 1]), want, atol=1e-5)
    assert torch.equal(out.lengths, sum(p.lengths for p in parts))


@quick
@given(maps())
def test_rows_can_be_taken_apart_and_stacked(case: tuple[Reduction, torch.Generator]) -> None:
    a, g = case
    rows = [a.row(b) for b in range(a.b)]
    for row in rows:
        well_formed(row)
    x = torch.randn(a.b, a.n, 2, generator=g)
    again = Reduction.stack(rows)
    assert torch.allclose(again(x), a(x)[:, : again.m], atol=1e-6)
    assert again.m == int(a.lengths.max())
    if again.m == a.m:
        assert again == a


@quick
@given(maps(("take", "merge", "drop")))
def test_listed_only_changes_the_order(case: tuple[Reduction, torch.Generator]) -> None:
    a, g = case
    shuffle = torch.rand(a.b, a.m, generator=g).argsort(-1)
    out = a.listed(a.keep.gather(1, shuffle))
    x = torch.randn(a.b, a.n, 2, generator=g)
    assert torch.equal(out(x), a(x).gather(1, shuffle[..., None].expand(-1, -1, 2)))
    assert torch.equal(out.expand(out(x)), a.expand(a(x)))
    assert out.listed(a.keep) == a


@quick
@given(maps())
def test_saved_maps_come_back_equal(tmp_path_factory: pytest.TempPathFactory, case: tuple[Reduction, Any]) -> None:
    a, _ = case
    file = tmp_path_factory.mktemp("maps") / "a.safetensors"
    a.save(file)
    again = Reduction.load(file)
    assert again == a
    assert again.selects == a.selects
    Reduction.identity(1, a.n).save(file)
    assert Reduction.load(file) == Reduction.identity(1, a.n)


@quick
@given(maps(("take", "merge", "drop", "dense")))
def test_equality_is_by_value(case: tuple[Reduction, torch.Generator]) -> None:
    a, _ = case
    matrix = None if a.matrix is None else a.matrix.clone()
    same = Reduction(a.keep.clone(), a.assign.clone(), a.weight.clone(), matrix, a.selects)
    assert a == same
    assert a == a.to("cpu")
    assert a != "a map"
    other = Reduction(a.keep, a.assign, a.weight + 0.5, None if matrix is None else matrix + 0.5)
    assert a != other
    assert a != Reduction.identity(a.b, a.n + 1)
    with pytest.raises(TypeError):
        hash(a)


def test_a_dense_map_differs_from_a_sparse_one() -> None:
    a = Reduction.take(torch.tensor([[0, 2]]), 3)
    assert a != Reduction.dense(a.to_dense(), a.keep)


def test_dropped_weights_do_not_matter_for_equality() -> None:
    a = Reduction.take(torch.tensor([[0, 2]]), 3)
    assert a == Reduction(a.keep, a.assign, torch.tensor([[1.0, 7.0, 1.0]]))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda a: a(torch.zeros(2, 4, 1)), r"maps \(2, 3\) tokens; it was given \(2, 4\)"),
        (lambda a: a.expand(torch.zeros(2, 3, 1)), r"lifts \(2, 2\) slots; it was given \(2, 3\)"),
        (lambda a: a.then(Reduction.identity(2, 3)), "cannot follow a map to 2 tokens by one from 3"),
        (lambda a: Reduction.merge(torch.tensor([[0, 0], [0, 1]])), "merge them row by row"),
        (lambda a: Reduction.merge(torch.tensor([[0, 0, 1]])), "a destination points to itself"),
        (lambda a: Reduction.cat([a, Reduction.identity(3, 3)]), "same number of rows"),
        (lambda a: Reduction.stack([a, Reduction.identity(2, 4)]), "same number of tokens"),
        (lambda a: a.listed(torch.tensor([[1, 0], [1, 2]])), "only the kept positions"),
        (lambda a: a.listed(torch.tensor([[1, 1], [1, 2]])), "only the kept positions"),
    ],
)
def test_misuse_is_explained(wrong: Any, says: str) -> None:
    a = Reduction.take(torch.tensor([[0, 2], [2, 1]]), 3)
    with pytest.raises(InputError, match=says):
        wrong(a)


def test_the_result_holds_only_its_own_bytes() -> None:
    x = torch.randn(2, 40, 8)
    for a in (
        Reduction.take(torch.arange(10).expand(2, -1), 40),
        Reduction.merge((torch.arange(40) // 4 * 4).expand(2, -1)),
    ):
        assert a(x).untyped_storage().nbytes() * 4 == x.nbytes


def test_repr_says_what_it_maps() -> None:
    assert repr(Reduction.identity(2, 3)) == "Reduction(2 x 3 -> 3, map)"


@pytest.mark.skipif(importlib.util.find_spec("foveate.show") is None, reason="foveate.show is not there yet")
def test_draw_darkens_what_was_dropped(tmp_path: Path) -> None:
    from PIL import Image

    image = Image.new("RGB", (64, 32), (200, 180, 160))
    drawn = Reduction.take(torch.tensor([[0, 3]]), 8).draw(image, (2, 4))
    assert drawn.size == image.size
    assert image.getpixel((20, 5)) == (200, 180, 160)
    dark, light = drawn.getpixel((24, 8)), drawn.getpixel((8, 8))
    assert sum(dark) < sum(light)
