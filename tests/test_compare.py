"""Comparing plans: keys, the log, resuming, and what is made of answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import foveate
from compare_kit import folder, lines
from foveate.bench.paired import mcnemar
from foveate.compare import asker, compare
from foveate.compare.keys import Keys, digest
from foveate.compare.log import Log
from foveate.compare.rows import row, rows_of, sites
from foveate.compare.source import Source
from foveate.errors import InputError, MediaError
from foveate.load import Loaded
from foveate.spec import Plan
from foveate.tune.questions import Question

PLANS = ["random(keep=0.5)", "snapkv(keep=0.5)"]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return foveate.load("tiny")


def run(loaded: Loaded, data: Path, out: Path, plans: list[str] = PLANS, **more: Any) -> Any:
    return compare([loaded], plans, data=data, out=out, max_new_tokens=3, **more)


# --- the whole --------------------------------------------------------------------------------------------------------


def test_rows_of_a_comparison(loaded: Loaded, tmp_path: Path) -> None:
    told = run(loaded, folder(tmp_path / "own"), tmp_path / "out", command="foveate bench x")
    assert [r["plan"] for r in told.rows] == ["none", *PLANS]
    full, half, cache = told.rows
    assert full["n"] == 6
    assert full["task"] == "data:own"
    assert half["left"] == full["left"] / 2 == half["visual"] / 2
    assert half["sites"] == {"inputs": 0.5}
    assert half["flops"] < full["flops"]
    assert half["kv_of_full"] < 1
    assert set(cache["sites"]) == {"cache"}
    assert cache["left"] == cache["visual"]
    assert cache["kv"] < full["kv"]
    assert cache["flops_of_full"] == 1
    for r in told.rows:
        assert r["low"] <= r["accuracy"] <= r["high"]
        assert r["first_token"] > 0
        assert r["per_token"] > 0
        assert r["command"] == "foveate bench x"
        assert r["seed"] == 0
        assert r["machine"][0]["torch"]
        assert r["commit"]
        assert Path(r["log"]) == tmp_path / "out" / "answers.jsonl"
    assert half["first_token_of_full"] > 0
    assert half["p"] == 1  # it is never right, with the plan or without
    log = lines(tmp_path / "out")
    assert len(log) == len({e["key"] for e in log}) == 18
    assert told.about["answered"] == 18
    assert {e["plan"] for e in log[:3]} == {e["plan"] for e in log[3:6]} == {"none", *PLANS}
    assert [log[i]["plan"] for i in (0, 3)] == ["none", PLANS[0]], "plans take turns in being first"


def test_what_is_known_is_not_asked_again(loaded: Loaded, tmp_path: Path) -> None:
    own, out = folder(tmp_path / "own"), tmp_path / "out"
    first = run(loaded, own, out)
    before = (out / "answers.jsonl").read_bytes()
    again = run(loaded, own, out)
    assert (again.about["answered"], again.about["known"]) == (0, 18)
    assert (out / "answers.jsonl").read_bytes() == before
    assert again.rows == first.rows

    moved = shutil.move(own, tmp_path / "moved")
    shutil.move(Path(moved) / "0.png", Path(moved) / "zero.png")  # the same bytes elsewhere are the same picture
    questions = Path(moved) / "questions.jsonl"
    questions.write_text(questions.read_text().replace('"0.png"', '"zero.png"').replace("a blue", "navy"))
    other = run(loaded, Path(moved), out, [*PLANS, "random(keep=0.25)"])
    assert (other.about["answered"], other.about["known"]) == (6, 18), "only the new plan is asked"

    Image.new("RGB", (56, 56)).save(Path(moved) / "1.png")
    assert run(loaded, Path(moved), out).about["answered"] == 3, "another picture is another question"
    assert run(loaded, Path(moved), out, seed=5).about["answered"] == 18, "and so is another seed"


def test_a_log_that_was_cut_is_filled_up(loaded: Loaded, tmp_path: Path) -> None:
    own, out = folder(tmp_path / "own"), tmp_path / "out"
    run(loaded, own, out)
    log = out / "answers.jsonl"
    whole = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(whole[:7]) + whole[7][:40])  # stopped in the middle of a line
    again = run(loaded, own, out)
    assert (again.about["answered"], again.about["known"]) == (11, 7)
    text = log.read_bytes().splitlines(keepends=True)
    assert text[:7] == whole[:7]
    keys = [json.loads(t)["key"] for t in text[:7] + text[8:]]
    assert sorted(keys) == sorted(json.loads(t)["key"] for t in whole)
    assert run(loaded, own, out).about["answered"] == 0


def test_the_same_question_twice_counts_once(loaded: Loaded, tmp_path: Path) -> None:
    own = folder(tmp_path / "own", 2)
    file = own / "questions.jsonl"
    file.write_text(file.read_text() * 2)
    told = run(loaded, own, tmp_path / "out", ["random(keep=0.5)"])
    assert told.rows[0]["n"] == 2
    assert told.about["same_questions_left_out"] == 2
    assert len(lines(tmp_path / "out")) == 4


def test_lab_tasks_know_their_evidence(loaded: Loaded, tmp_path: Path) -> None:
    told = compare([loaded], ["random(keep=0.5)"], tasks="attribute,lab:needle", n=2, frames=8, max_new_tokens=2,
                   out=tmp_path)  # fmt: skip
    by = {(r["plan"], r["task"]): r for r in told.rows}
    assert {t for _, t in by} == {"lab:attribute", "lab:needle", "all"}
    assert by["none", "all"]["evidence"] == 1
    assert by["none", "all"]["n"] == 4
    assert 0 <= by["random(keep=0.5)", "all"]["evidence"] < 1


def test_frames_are_chosen_by_plans_that_choose(loaded: Loaded, tmp_path: Path) -> None:
    told = compare([loaded], ["uniform(frames=2)"], tasks="needle", n=1, frames=8, max_new_tokens=2, out=tmp_path)
    full, few = told.rows
    assert few["visual"] < full["visual"]
    assert few["sites"] == {"media": 0.25}
    assert few["evidence"] is None, "frames that would have shown it may be missing"
    assert few["kv_of_full"] < 1


def test_a_plan_that_cannot_run_is_left_out(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = folder(tmp_path / "own", 3)
    answer = asker.answer

    def broken(loaded: Loaded, prompt: Any, plan: Plan, **more: Any) -> Any:
        if str(plan) == bad:
            raise RuntimeError("no such thing")
        return answer(loaded, prompt, plan, **more)

    monkeypatch.setattr(asker, "answer", broken)
    bad = "random(keep=0.3)"
    told = run(loaded, own, tmp_path / "out", [bad, "random(keep=0.5)"])
    assert [(r["plan"], r["n"]) for r in told.rows] == [("none", 3), ("random(keep=0.5)", 3)]
    assert told.left_out == {"tiny": {bad: "data:own, question 1: RuntimeError: no such thing"}}
    bad = ""
    with pytest.raises(InputError, match="the full model cannot be asked"):
        run(loaded, own, tmp_path / "other")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"tasks": "atribute"}, "did you mean 'attribute'"),
        ({"data": "no/such"}, "no folder or file 'no/such'"),
        ({"tasks": " , "}, "unknown task|no task|task"),
        ({"n": 0}, "'n' must be at least 1"),
        ({"max_new_tokens": 0}, "'max_new_tokens' must be at least 1"),
        ({"clients": [0]}, "must be above 0"),
        ({"clients": [1]}, "load the model themselves"),
    ],
)
def test_what_is_refused(loaded: Loaded, tmp_path: Path, given: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        compare([loaded], PLANS, out=tmp_path / "out", **given)


def test_media_that_cannot_be_read(loaded: Loaded, tmp_path: Path) -> None:
    own = folder(tmp_path / "own", 2)
    (own / "1.png").write_bytes(b"no picture")
    with pytest.raises(MediaError):
        run(loaded, own, tmp_path / "out")


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_digest_tells_contents_not_places(tmp_path: Path) -> None:
    def said(media: Any, text: str = "What?") -> str:
        content = [{"type": "image", "image": media, "limits": object()}, {"type": "text", "text": text}]
        return digest([{"role": "user", "content": content}])

    one = Image.new("RGB", (4, 4))
    one.save(tmp_path / "a.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "b.png")
    assert said(tmp_path / "a.png") == said(str(tmp_path / "b.png"))
    Image.new("RGB", (4, 4), (1, 0, 0)).save(tmp_path / "b.png")
    texts = {said(tmp_path / "a.png"), said(tmp_path / "b.png"), said(tmp_path / "a.png", "Why?"), said(one),
             said([one]), said([one, one]), said(one.resize((2, 8)))}  # fmt: skip
    assert len(texts) == 7
    with pytest.raises(InputError, match="object"):
        said(object())
    with pytest.raises(MediaError, match="cannot be read"):
        said(tmp_path / "none.png")


def test_a_key_changes_with_all_it_depends_on(loaded: Loaded) -> None:
    half, none = Plan.of("random(keep=0.5)"), Plan.of("")
    base = Keys(loaded, "cpu", [16, 0])
    other = foveate.load("tiny")
    next(other.model.parameters()).data[0] += 1e-3
    keys = [base.key(half, "a", 8), base.key(none, "a", 8), base.key(half, "b", 8), base.key(half, "a", 9),
            base.key(Plan.of("random(keep=0.5, seed=1)"), "a", 8), Keys(loaded, "cpu", [16, 1]).key(half, "a", 8),
            Keys(loaded, "cuda", [16, 0]).key(half, "a", 8), Keys(other, "cpu", [16, 0]).key(half, "a", 8)]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert Keys(foveate.load("tiny"), "cpu", [16, 0]).key(half, "a", 8) == keys[0]


# --- the log ----------------------------------------------------------------------------------------------------------


def test_the_log(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.jsonl"
    with Log(path) as log:
        assert log.add({"key": "a", "score": 1.0})
        assert not log.add({"key": "a", "score": 0.0})
        with pytest.raises(InputError, match="another run writes"):
            Log(path)
    with path.open("a") as file:
        file.write('not JSON\n["b"]\n{"key": "c"}\n{"key": "a", "score": 0.5}\n{"key": "d", "sco')
    with Log(path) as log:
        assert log.found == {"a": {"key": "a", "score": 1.0}}, "the first of a key counts"
        assert log.add({"key": "d", "score": 0.0})
    with Log(path) as log:
        assert set(log.found) == {"a", "d"}


# --- rows -------------------------------------------------------------------------------------------------------------


def entry(said: str, **more: Any) -> dict[str, Any]:
    base = {"said": said, "evidence": None, "visual": 10, "left": 5, "sites": [], "first": 0.2, "seconds": 0.5,
            "tokens": 4, "peak": 7, "kv": 10.0, "flops": 4.0, "run": "r", "worker": "w"}  # fmt: skip
    return base | more


def test_mcnemar() -> None:
    assert mcnemar([1, 1, 0, 0], [1, 1, 0, 0]) == (1.0, 0, 0)
    p, better, worse = mcnemar([1] * 6 + [0] + [1] * 9, [0] * 6 + [1] + [1] * 9)
    assert (better, worse) == (6, 1)
    assert p == pytest.approx(0.125)  # 2 * (1 + 7) / 2 ** 7
    assert mcnemar([1] * 5, [0] * 5)[0] == pytest.approx(0.0625)
    assert mcnemar([0.5, 0.2], [0.4, 0.3])[1:] == (1, 1)
    assert mcnemar([1.0] * 3000, [0.0] * 3000)[0] == 0.0


def test_a_row_compares_with_the_full_model() -> None:
    asked = [Question([], ("red",)) for _ in range(4)]
    full = [entry("Red."), entry("red"), entry("blue"), entry("green")]
    mine = [entry("red", first=0.1), entry("blue", first=0.1), entry("BLUE", first=0.1), entry("x", first=0.9, run="s")]
    told = row(asked, mine, full)
    assert (told["accuracy"], told["loss"], told["better"], told["worse"]) == (0.25, 0.25, 0, 1)
    assert told["loyalty"] == 0.5
    assert told["first_token_of_full"] == 0.5, "only pairs of one run count"
    assert told["first_token_low"] == 0
    assert told["first_token_high"] is None, "three pairs bound nothing"
    assert told["per_token"] == pytest.approx(0.4 / 3)
    assert told["kv_of_full"] == 1
    alone = row(asked, full, None)
    assert "p" not in alone
    assert "kv_of_full" not in alone


def test_all_tasks_together() -> None:
    asked = {"a": [Question([], ("x",))], "b": [Question([], ("y",))] * 3}
    found = {"none": {"a": [entry("x")], "b": [entry("y"), entry("y"), entry("n")]}}
    rows = rows_of(asked, found)
    assert [(r["task"], r["n"], r["accuracy"]) for r in rows] == [("a", 1, 1.0), ("b", 3, 0.6667), ("all", 4, 0.75)]


def test_shares_by_site() -> None:
    one = [["inputs", None, "a", 100, 50], ["inputs", None, "b", 50, 10], ["layers", 2, "c", 10, 5],
           ["layers", 4, "c", 5, 1], ["cache", 0, "d", 40, 10], ["cache", 1, "d", 40, 30],
           ["decode", None, "e", 0, 0]]  # fmt: skip
    two = [["inputs", None, "a", 100, 30], ["inputs", None, "b", 30, 6]]
    assert sites([entry("", sites=one), entry("", sites=two)]) == {
        "inputs": round(80 / 200 * 16 / 80, 4), "layers 2": 0.5, "layers 4": 0.2, "cache": 0.5,
    }  # fmt: skip


def test_names_of_tasks(loaded: Loaded, tmp_path: Path) -> None:
    def names(tasks: Any, data: Any = None) -> tuple[str, ...]:
        return Source.of(tasks, data, loaded, n=1, seed=0, difficulty=0.5, frames=4).names

    assert names("lab:attribute, counting,attribute") == ("lab:attribute", "lab:counting")
    assert names(None) == names("lab") == names(["lab"])
    assert names(None, folder(tmp_path / "mine", 1)) == ("data:mine",)
    assert names("lab:read", tmp_path / "mine") == ("lab:read", "data:mine")
