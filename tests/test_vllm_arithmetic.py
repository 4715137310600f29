"""What the vLLM plug-in works out without vLLM: which methods can run, how many tokens stay, and where they stand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate
from foveate.errors import FoveateError, InputError, MissingExtraError, OptionError, PlanError, SignalError
from foveate.inputs.divprune import DivPrune
from foveate.reduction import Reduction
from foveate.testing import tiny
from foveate.tokens import Tokens
from foveate.vllm import Layout, columns, layout, positions, register, rule_of, settings, works
from foveate.vllm.item import Item
from foveate.vllm.rule import Rule, fitted

# --- rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", works())
def test_a_rule_counts_what_the_method_keeps(name: str) -> None:
    rule = rule_of(name)
    for at, made in enumerate((Layout(1, 7, 9), Layout(5, 4, 5), Layout(1, 8, 6, side=5, ends="line", flat=True))):
        draw = torch.Generator().manual_seed(at)
        x, words = torch.randn(made.free, 24, generator=draw), torch.randn(6, 24, generator=draw)
        r, forced = rule.reduce(x, made, words)
        assert not forced
        assert r.m == rule.count(made) <= made.free
        assert bool(r.valid.all())


def test_a_request_sets_keep() -> None:
    assert str(rule_of("divprune", 0.5)) == "divprune(keep=0.5)"
    assert rule_of("divprune(keep=0.1)", 7).count(Layout(1, 5, 5)) == 7
    assert rule_of("divprune", 0.5).count(Layout(2, 5, 5)) == 25
    with pytest.raises(OptionError, match="gridpool has no option 'keep'"):
        rule_of("gridpool", 0.5)


def test_what_decides_by_the_words_says_so() -> None:
    assert rule_of("foveal").words
    assert rule_of("cdpruner").words
    assert not rule_of("foveal(query=0.0)").words
    assert not rule_of("evs").words


@pytest.mark.parametrize(
    ("plan", "error", "why"),
    [
        ("dcode", PlanError, "depends on what the picture shows.*these methods run there: .*divprune"),
        ("trim", PlanError, r"give it a budget, trim\(keep=0.25\)"),
        ("foveal(keep=0.2, enough=0.9)", PlanError, r"foveal\(keep=0.2, enough=0.9\) keeps depends"),
        ("visionzip", SignalError, "visionzip needs cls_attention or received_attention.*divprune"),
        ("snapkv", PlanError, "one method of stage inputs"),
        ("divprune + evs", PlanError, "one method of stage inputs"),
        ("", PlanError, "one method of stage inputs"),
        ("divprun", FoveateError, "did you mean 'divprune'"),
    ],
)
def test_what_cannot_run_is_refused(plan: str, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        rule_of(plan)


@pytest.mark.parametrize("plan", ["trim(keep=0.2)", "prunevid(keep=0.25)", "timechat_online(keep=0.25)"])
def test_a_budget_makes_a_method_fit(plan: str) -> None:
    assert rule_of(plan).exact


def test_auto_is_the_plan_of_the_family() -> None:
    try:
        assert isinstance(rule_of("auto", family="qwen2_5_vl"), Rule)
    except PlanError as error:  # the family's plan may act elsewhere too
        assert "one method of stage inputs" in str(error)  # noqa: PT017


@pytest.mark.parametrize("kept", [3, 9, 16])
def test_another_number_is_made_to_fit(kept: int) -> None:
    class Fickle:
        keep = 9

        def reduce(self, tokens: Tokens) -> Reduction:
            return Reduction.take(torch.arange(kept)[None] * 2, tokens.n)

    rule = Rule(Fickle(), True, False)
    r, forced = rule.reduce(torch.randn(40, 4), Layout(1, 5, 8))
    assert r.m == 9
    assert forced == (kept != 9)
    if kept < 9:
        assert set(range(0, 2 * kept, 2)) <= set(r.keep[0].tolist())


def test_fitting_keeps_nothing_twice() -> None:
    r = Reduction.take(torch.tensor([[0, 1, 5]]), 6)
    assert [fitted(r, m).keep[0].tolist() for m in (1, 2, 6)] == [[0], [0, 1], [0, 1, 2, 3, 4, 5]]


# --- layouts and positions --------------------------------------------------------------------------------------------


def whole(made: Layout, kept: Tensor) -> Tensor:
    """Rows that carry the positions of an item of which the given visual tokens stay."""
    return columns.read(columns.write(layout.places(made)[layout.stays(made, kept)]).float())


def spans_of(z: Any, made: list[Layout], kept: list[Tensor]) -> tuple[list[positions.Span], int]:
    """Where the items stand in the shortened prompt, and how long that is. Of row 0, items in their order."""
    ids = z.inputs["input_ids"][0]
    visual = torch.isin(ids, torch.tensor([100, 101]))
    runs = (visual & ~visual.roll(1)).nonzero()[:, 0].tolist()
    spans, gone, run = [], 0, 0
    for each, keep in zip(made, kept):
        start = runs[run] - (each.words[0] if each.words else 0)
        length = len(keep) + each.fixed
        spans.append(positions.Span(start - gone, length, each))
        gone += each.free - len(keep)
        run += max(1, len(each.words))
    return spans, len(ids) - gone


CASES: list[tuple[str, dict[str, Any]]] = [
    ("qwen2_5_vl", {"images": 2}),
    ("qwen2_5_vl", {"video": True}),
    ("qwen3_vl", {"images": 2}),
    ("qwen3_vl", {"video": True}),
]


def case(family: str, more: dict[str, Any]) -> tuple[Any, list[Layout]]:
    z = tiny(family, **more)
    kind = "video" if more.get("video") else "image"
    grids = z.inputs[f"{kind}_grid_thw"].tolist()
    merge = z.model.config.vision_config.spatial_merge_size
    if kind == "image":
        return z, [layout.patches(g, merge) for g in grids]
    if family == "qwen3_vl":
        return z, [layout.stamped(g, merge, [1] * g[0], 1) for g in grids]
    seconds = z.inputs.get("second_per_grid_ts", [1.0] * len(grids))
    rate = z.model.config.vision_config.tokens_per_second
    return z, [layout.patches(g, merge, layout.pace(float(s), rate)) for g, s in zip(grids, seconds)]


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("share", [1.0, 0.4])
@pytest.mark.parametrize(("family", "more"), CASES)
def test_positions_are_those_of_transformers(family: str, more: dict[str, Any], share: float, table: bool) -> None:
    z, made = case(family, more)
    names = ("mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts")
    given = {k: z.inputs[k] for k in names if k in z.inputs}
    full, _ = z.model.model.get_rope_index(z.inputs["input_ids"], **given)
    draw = torch.Generator().manual_seed(0)
    kept = [torch.randperm(m.free, generator=draw)[: max(1, int(m.free * share))].sort().values for m in made]
    spans, n = spans_of(z, made, kept)
    left = torch.ones(full.shape[-1], dtype=torch.bool)
    shift = 0
    for span, m, keep in zip(spans, made, kept):
        start = span.offset + shift
        gone = torch.ones(m.free + m.fixed, dtype=torch.bool)
        gone[layout.stays(m, keep)] = False
        left[start : start + len(gone)] = ~gone
        shift += int(gone.sum())
    before, ahead = positions.ahead(n, spans, table)
    assert before.shape[1] == n + (1 + len(spans) if table else 0)
    assert ahead == int(full[0, 0, -1]) + 1 - n
    placed, after = positions.fill(before, n, [whole(m, k) for m, k in zip(made, kept)], 0)
    assert torch.equal(placed[:, :n], full[:, 0, left])
    assert after == ahead


def film() -> tuple[list[positions.Span], list[Tensor], int]:
    """A prompt of 40 tokens with two equal images, one right behind the other, and then a long video."""
    one, two = Layout(1, 4, 4), Layout(20, 2, 2, pace=8.0)
    rows = [whole(m, torch.arange(0, m.free, 2)) for m in (one, one, two)]
    spans = [positions.Span(3, 8, one), positions.Span(11, 8, one), positions.Span(21, 40, two)]
    return spans, rows, 66


@pytest.mark.parametrize("step", [1, 5, 13, 66])
def test_pieces_of_a_prompt_fill_in_the_same(step: int) -> None:
    spans, rows, n = film()
    start, delta = positions.ahead(n, spans)
    want, _ = positions.fill(start, n, rows, 0)
    assert int(want[:, :n].min()) >= 0
    got = start
    for at in range(0, n, step):
        piece = []
        for span, carried in zip(spans, rows):
            low, high = max(at - span.offset, 0), min(at + step - span.offset, span.length)
            if low < high:
                piece.append(carried[low:high])
        got, found = positions.fill(got, n, piece, at)
        assert found == delta
        again, _ = positions.fill(got, n, piece, at)  # a request that was put back is read anew
        assert torch.equal(again, got)
    assert torch.equal(got, want)
    assert delta == 13 + 2 + 5 - n  # words go on where the grid ends, though the last frame stands further on
    assert int(want[:, :n].max()) == 13 + 19 * 8


def test_a_drafter_looks_one_ahead() -> None:
    spans, rows, n = film()
    start, _ = positions.ahead(n, spans)
    want, _ = positions.fill(start, n, rows, 0)
    half, _ = positions.fill(start, n, [rows[0][:5]], 0)
    ahead, _ = positions.fill(half, n, [rows[0][1:6]], 0)
    assert torch.equal(ahead[:, :9], want[:, :9])


def test_a_cached_image_leaves_words_in_their_places() -> None:
    spans, rows, n = film()
    start, delta = positions.ahead(n, spans)
    tail, found = positions.fill(start, n, [], 61)
    want, _ = positions.fill(start, n, rows, 0)
    assert torch.equal(tail[:, 61:n], want[:, 61:n])
    assert found == delta


def test_rows_that_belong_nowhere_are_refused() -> None:
    spans, rows, n = film()
    for table in (True, False):
        start, _ = positions.ahead(n, spans, table)
        with pytest.raises(InputError, match="rows"):
            positions.fill(start, n, rows + rows, 0)
    with pytest.raises(InputError, match="does not fit"):
        positions.ahead(20, spans)
    with pytest.raises(InputError, match="not those of a prompt"):
        positions.fill(positions.ahead(n, spans)[0], n - 1, rows, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_positions_survive_every_dtype(dtype: torch.dtype) -> None:
    places = torch.tensor([[0, 1, 2], [255, 256, 257], [99_999, 128, 16_383], [2_097_151, 0, 131_071]])
    got = columns.read(columns.write(places).to(dtype))
    assert torch.equal(got, torch.cat([places, torch.arange(4)[:, None]], 1))
    with pytest.raises(InputError, match="must lie in 0 to 2097151"):
        columns.write(places + 1)


# --- LLaVA-OneVision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [(60, 60), (50, 110), (110, 40), (30, 200), (201, 33), (97, 111), (336, 336), (57, 58)]
)
def test_lines_end_where_the_model_ends_them(size: tuple[int, int]) -> None:
    from transformers.image_processing_utils import select_best_resolution

    z = tiny("llava_onevision")
    config, core = z.model.config, z.model.model
    tile = config.vision_config.image_size
    side = tile // config.vision_config.patch_size
    points = [[tile * i, tile * j] for i in range(1, 7) for j in range(1, 7)]
    config.image_grid_pinpoints = points
    best = select_best_resolution(size, points)
    crops = 1 + best[0] // tile * (best[1] // tile)
    made = layout.stitched(size, best, tile, side, crops)
    marked = torch.zeros(crops, side**2, 1)
    (packed,), _ = core.pack_image_features(
        [marked], torch.tensor([size]), image_newline=torch.ones(1), vision_aspect_ratio="anyres_max_9"
    )
    assert torch.equal(packed[:, 0].long(), layout.kinds(made))
    cells = layout.grid(made)
    assert cells.shape == (made.free, 3)
    assert len(cells.unique(dim=0)) == made.free
    assert cells.amax(0).tolist() == [1, max(made.rows, side) - 1, max(made.cols, side) - 1]


def test_one_crop_and_films_end_in_one_token() -> None:
    one = layout.stitched((50, 50), (56, 56), 56, 4, 1)
    assert (one.free, one.fixed, one.advance) == (16, 1, 17)
    film = layout.filmed(3, 5)
    assert (film.free, film.fixed) == (27, 1)
    assert layout.kinds(film)[-1] == layout.END
    assert layout.places(film)[:, 0].tolist() == list(range(28))


# --- items ------------------------------------------------------------------------------------------------------------

STAMPED = Layout(3, 2, 2, words=(4, 4, 5), after=1)
TEXTS = [[9, 8, 7, 3], [9, 8, 6, 3], [9, 8, 5, 1, 3], [4]]


def test_an_item_travels_as_bytes() -> None:
    item = Item.of("divprune(keep=0.5)", STAMPED, (1, 2, 3), TEXTS)
    assert (item.kept, item.length) == (6, 6 + 16)
    assert Item.from_tensor(item.to_tensor()) == item
    assert len(item.ids(0)) == item.length
    assert item.ids(0) == [9, 8, 7, 3, 0, 0, 4, 9, 8, 6, 3, 0, 0, 4, 9, 8, 5, 1, 3, 0, 0, 4]
    assert [i for i in item.ids(0) if i] == item.words()
    plain = Item.of("divprune(keep=0.5)", Layout(1, 3, 3, pace=0.1 + 0.2))
    assert Item.from_tensor(plain.to_tensor()) == plain
    assert plain.ids(5) == [5] * 4


def test_words_stand_between_the_frames_they_belong_to() -> None:
    item = Item.of("divprune(keep=0.5)", STAMPED, (), TEXTS)
    x = torch.randn(12, 6)
    words = torch.arange(16.0)[:, None].expand(-1, 4) + 100
    rows, forced = item.reduce(x, 4, None, words)
    assert rows.shape == (item.length, 6 + columns.WIDTH)
    assert not forced
    at = columns.read(rows[:, 6:])
    full = layout.kinds(STAMPED)
    r, _ = rule_of("divprune(keep=0.5)").reduce(x[:, :4], STAMPED)
    kept = layout.stays(STAMPED, r.keep[0])
    assert torch.equal(at[:, :3], layout.places(STAMPED)[kept])
    assert torch.equal(rows[full[kept] == layout.VISUAL, :6], x[r.keep[0]])
    assert torch.equal(rows[full[kept] == layout.WORD, :4], words)
    assert not rows[full[kept] == layout.WORD, 4:6].any()  # nothing is added to words in deeper layers


def test_ends_of_lines_stay_and_are_not_seen() -> None:
    made = Layout(1, 2, 3, side=2, ends="line", flat=True)
    item = Item.of("avgpool(keep=0.5)", made)
    x = torch.randn(made.encoded, 4)
    ends = layout.kinds(made) == layout.END
    rows, _ = item.reduce(x, 4)
    r = foveate.parse("avgpool(keep=0.5)")[0].reduce(Tokens(x[~ends][None]))
    stay = layout.kinds(made)[layout.stays(made, r.keep[0])] == layout.END
    assert torch.equal(rows[stay, :4], x[ends])
    assert torch.allclose(rows[~stay, :4], r(x[~ends][None])[0])
    with pytest.raises(ValueError, match="12 features"):
        item.reduce(x[1:], 4)


# --- settings ---------------------------------------------------------------------------------------------------------


def engine(environment: Mapping[str, str] | None = None, **fields: Any) -> str | None:
    return settings.engine(SimpleNamespace(**fields), "qwen2_5_vl", environment or {})


def test_the_plan_of_an_engine() -> None:
    assert engine() is None
    assert engine(foveate_plan="divprune", foveate_keep=0.4) == "divprune(keep=0.4)"
    assert engine({"FOVEATE_PLAN": "evs(keep=0.3)"}) == "evs(keep=0.3)"
    assert engine({"FOVEATE_PLAN": "evs"}, foveate_plan="divprune(keep=3)") == "divprune(keep=3)"
    with pytest.raises(PlanError, match="and no plan"):
        engine(foveate_keep=0.4)
    with pytest.raises(OptionError, match="must be in"):
        engine(foveate_plan="divprune", foveate_keep=1.5)


def test_a_request_is_resolved_to_one_entry() -> None:
    made = settings.request("divprune(keep=0.4)", {"fps": 2}, [5, 6, 7], [6])
    assert settings.resolved(made) == ({"fps": 2}, ("divprune(keep=0.4)", []))
    less = settings.request("divprune(keep=0.4)", {"foveate_keep": 0.1}, [5], [])
    assert made[settings.KEY] != less[settings.KEY]
    asked = settings.request("foveal", {}, [5, 6, 7], [6])
    assert json.loads(asked[settings.KEY]) == ["foveal", [5, 7]]
    assert settings.request("foveal", {}, [5, 6, 8], [6]) != asked
    assert settings.request(None, {"fps": 2}, [5], []) == {"fps": 2}
    assert settings.resolved({"fps": 2}) == ({"fps": 2}, None)


@pytest.mark.parametrize(
    ("plan", "asked", "why"),
    [
        ("divprune", {"foveate_keep": 0.0}, "must be in"),
        ("divprune", {"foveate_keep": "half"}, "must be in"),
        ("divprune", {"foveate_plan": "evs"}, "can set foveate_keep alone"),
        ("divprune", {"foveate": "x"}, "can set foveate_keep alone"),
        (None, {"foveate_keep": 0.5}, "without a plan"),
    ],
)
def test_a_request_that_cannot_be_met(plan: str | None, asked: dict[str, Any], why: str) -> None:
    with pytest.raises(PlanError, match=why):
        settings.request(plan, asked, [], [])


def test_without_vllm_registering_says_how_to_get_it() -> None:
    try:
        import vllm  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtraError, match="foveate"):
            register()
    else:
        register()
        register()


def test_keep_is_the_methods_own() -> None:
    assert replace(DivPrune(), keep=0.5) == rule_of("divprune", 0.5).method
