"""The study of image methods, on an untrained model and a dozen items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import foveate
from foveate import spec
from foveate.bench import exam, image, pareto, plans, study, verdict
from foveate.bench.desk import FULL, Desk
from foveate.bench.kept_lines import Lines
from foveate.bench.paired import difference, share
from foveate.errors import InputError
from foveate.lab import models

KEEPS = (0.5, 0.25)
N = len(exam.TASKS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("model")
    models.save(models.make("image", models.small("image")), "image", models.small("image"), where)
    return where


@pytest.fixture(scope="module")
def out(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results") / "image.json"
    image.run(path, str(folder), N, 0, KEEPS, ["divprune", "tome"], 1)
    return path


def test_rows_and_goals(out: Path) -> None:
    data = json.loads(out.read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = data["rows"]
    wanted = {(FULL, 1.0), *((m, k) for m in ("random", "divprune") for k in KEEPS)}
    assert {(r["method"], r["keep"]) for r in rows} == wanted | {("tome", k) for k in KEEPS}
    for row in rows:
        assert set(row["tasks"]) == {*exam.TASKS, "objects", "fine", "overall"}
        whole = row["tasks"]["overall"]
        assert whole["n"] == N
        assert whole["low"] <= whole["accuracy"] <= whole["high"]
        assert ("loss" in whole) == (row["method"] != FULL)
        assert ("gain" in whole) == (row["method"] not in (FULL, "random"))
        assert row["ms"] > 0
        if row["method"] != FULL:
            assert row["kept"] == pytest.approx(row["keep"], rel=0.1)
            assert row["flops"] < row["flops_full"]
    assert rows[0]["tasks"]["overall"]["loyalty"] == 1
    assert rows[0]["flops"] == rows[0]["flops_full"]
    assert {"goal", "value", "bar", "holds"} == set(data["goals"][0])
    assert "given" in data["left_out"]


def test_a_second_run_asks_nothing(out: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("asked again")

    before = json.loads(out.read_text(encoding="utf-8"))["rows"]
    for name in ("_sheet", "_kept", "_cost"):
        monkeypatch.setattr(Desk, name, never)
    image.run(out, str(folder), N, 0, KEEPS, ["divprune", "tome"], 1)
    assert json.loads(out.read_text(encoding="utf-8"))["rows"] == before


def test_plots_and_pages(out: Path) -> None:
    made = pareto.plots(out)
    assert [p.name for p in made][:2] == ["image.png", "image_objects.png"]
    assert all(p.stat().st_size > 5000 for p in made)
    text = verdict.section("divprune", out)
    assert text is not None
    assert "| full model | 100% |" in text
    assert "random selection" in text
    assert verdict.section("fastv", out) is None
    assert verdict.section("divprune", out.with_name("none.json")) is None
    assert "Not in the study" in (verdict.section("given", out) or "")


def test_batches_answer_as_single_items_do(folder: Path, out: Path) -> None:
    loaded = foveate.load(str(folder))
    found = exam.items_of(0, N, out.parent / ".cache")
    for plan in ("", "divprune(keep=0.25)", "fastv(layer=1, keep=0.3)"):
        together = exam.ask(exam.prepare(loaded, found), loaded, plan)
        alone = exam.ask(exam.prepare(loaded, found, batch=1), loaded, plan)
        cut = [(a[: min(len(a), len(b))], b[: min(len(a), len(b))]) for a, b in zip(together.said, alone.said)]
        assert all(a == b for a, b in cut), plan  # the cap on new tokens is the batch's
        assert together.kept == alone.kept


def test_a_conversation_is_what_one_prompt_is(folder: Path, out: Path) -> None:
    loaded = foveate.load(str(folder))
    found = [f for f in exam.items_of(0, N, out.parent / ".cache") if f[0] == "dialogue"]
    ready = exam.prepare(loaded, found)
    assert ready.batches[0].rest
    prompt = loaded.prompt(found[0][1].messages)
    with torch.inference_mode():
        whole = loaded.model.generate(**prompt.inputs, max_new_tokens=ready.batches[0].most, do_sample=False)
    assert exam.ask(ready, loaded, "").said == [loaded.decode(whole[:, prompt.n :])[0].strip()]


def test_small_text_is_small(out: Path) -> None:
    items = [i for t, i in exam.items_of(0, N, out.parent / ".cache") if t == "small_text"]
    assert all(i.evidence[0].box[3] - i.evidence[0].box[1] <= exam.SMALL and len(i.answer) <= 3 for i in items)


# --- plans ------------------------------------------------------------------------------------------------------------


def test_every_method_gets_a_plan() -> None:
    measured: list[Any] = []

    def kept(method: Any) -> float:
        measured.append(method)
        return 1.0  # nothing helps: such a method stays at its default

    for name, cls in spec.methods().items():
        if cls.stage in study.STAGES:
            assert plans.plan_for(cls, 0.1, 144, kept).name == name


def test_options_are_found_by_name() -> None:
    def none(method: Any) -> float:
        raise AssertionError("measured")

    assert plans.plan_for(spec.get("divprune"), 0.25, 144, none).keep == 0.25
    assert plans.plan_for(spec.get("pyramiddrop"), 0.05, 144, none).keeps == (0.4571, 0.1857, 0.05)
    assert plans.plan_for(spec.get("aim_prune"), 0.5, 144, none).keeps[-1] == 0.5
    rates = plans.plan_for(spec.get("diffrate"), 0.25, 144, none)
    assert rates.merge[-1] == 0.25
    assert all(p >= m for p, m in zip(rates.prune, rates.merge))


def test_rates_are_searched() -> None:
    found = plans.plan_for(spec.get("tome"), 0.25, 144, lambda m: max(9, 144 - 4 * m.r) / 144)
    assert found.r == 27
    cosine = plans.plan_for(spec.get("dymu"), 0.5, 144, lambda m: (1 + m.thresholds[0]) / 2)
    assert cosine.thresholds == pytest.approx((0.0,), abs=0.02)


def test_a_plan_counts_once_and_only_near_its_share() -> None:
    found = {0.5: "a", 0.25: "a", 0.1: "b", 0.05: "b"}
    assert plans.files(found, {"a": 0.25, "b": 0.0625}) == {"a": 0.25, "b": 0.05}
    assert plans.files({0.1: "c"}, {"c": 1.0}) == {}


# --- figures ----------------------------------------------------------------------------------------------------------


def test_paired_differences() -> None:
    mean, low, high = difference([1, 1, 1, 0] * 25, [1, 0, 1, 0] * 25)
    assert mean == 0.25
    assert 0.15 < low < 0.25 < high < 0.34
    assert difference([1.0] * 5, [1.0] * 5)[1] < 0 < difference([1.0] * 5, [1.0] * 5)[2]
    assert share([1, 0, 1, 1])["accuracy"] == 0.75


def test_the_front_is_what_nothing_cheaper_beats() -> None:
    assert pareto.front([(0.5, 0.9), (0.1, 0.4), (0.1, 0.6), (0.3, 0.5), (0.6, 0.9)]) == [2, 0]


def test_a_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    lines = Lines(tmp_path, "x")
    lines.put("a", [1])
    (file,) = tmp_path.glob("x-*.jsonl")
    with file.open("a", encoding="utf-8") as out:
        out.write('{"key": "b", "va')
    again = Lines(tmp_path, "x")
    assert (again.get("a"), again.get("b")) == ([1], None)
    again.put("c", 2)
    assert Lines(tmp_path, "x").get("c") == 2


def test_bad_input(folder: Path, tmp_path: Path) -> None:
    for items, keeps, only in ((3, KEEPS, []), (N, (0.0,), []), (N, KEEPS, ["divprun"])):
        with pytest.raises(InputError):
            image.run(tmp_path / "image.json", str(folder), items, 0, keeps, only, 1)
