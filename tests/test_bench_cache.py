"""The study of the cache, on tiny models and short contexts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import foveate
from foveate import spec
from foveate.bench import cache, shapes
from foveate.bench.kv import fill, held, lab, ladder, needle, pages, plots, reader, speed, text, verdicts
from foveate.bench.kv.once import Once
from foveate.errors import FoveateError, InputError
from foveate.lab import models
from foveate.method import options

SHAPE = fill.Shape(2, 4, 2, 16, torch.bfloat16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("model")
    models.save(models.make("image", models.small("image")), "image", models.small("image"), where)
    return where


def arguments(out: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cache.add(parser.add_subparsers(dest="what"))
    return parser.parse_args(["cache", "--out", str(out), "--small", *more])


# --- caches that were filled ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [*speed.STORES.values(), "snapkv(keep=1.0)"])
def test_a_filled_cache_is_one_that_a_model_can_go_on_with(plan: str) -> None:
    model = shapes.qwen2(torch.bfloat16, small=True)
    ours, plain = fill.stored(model, plan, 200), fill.plain(model, 200)
    assert ours.get_seq_length() == plain.get_seq_length() == 200
    with torch.inference_mode(), foveate.apply(model, plan):
        out = model(input_ids=torch.tensor([[3]]), past_key_values=ours, use_cache=True)
    assert out.logits.isfinite().all()
    assert ours.get_seq_length() == 201
    if plan == "snapkv(keep=1.0)":
        with torch.inference_mode():
            want = model(input_ids=torch.tensor([[3]]), past_key_values=plain, use_cache=True)
        assert torch.equal(out.logits, want.logits)


def test_layers_do_not_share_memory() -> None:
    made = fill.stored(SHAPE, "kivi", 300)
    assert fill.held_bytes(made) == 2 * made.layers[0].nbytes
    first, second = ({t.data_ptr() for t in layer.compact.keys.tensors() if t.numel()} for layer in made.layers)
    assert not first & second


# --- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ladder.evictions())
def test_what_is_held_is_what_was_asked_for(name: str) -> None:
    """Within 2% of a share of 1000 entries, for every policy that has one."""
    if "keep" not in dict(options(spec.get(name))):
        pytest.skip("its budget is no share of all entries")
    for keep in (0.5, 0.1):
        try:
            got = held._held(str(spec.get(name)(keep=keep)), 1000)
        except FoveateError as error:
            pytest.skip(str(error))
        asked = held.SHAPE.nbytes(1000) * keep / held.SHAPE.layers
        assert abs(got / asked - 1) <= verdicts.OFF, f"{name}(keep={keep}) holds {got / asked:.3f} of what was asked"


def test_the_process_grows_by_what_is_held(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["held", "kivi(bits=4, value_bits=4)", "8192"])
    held.main()
    got = json.loads(capsys.readouterr().out)
    assert got["held"] < 0.35 * held.SHAPE.nbytes(8192)
    assert abs(got["grown"] / got["held"] - 1) < 0.1  # a test's process has other things in memory as well


# --- plans ------------------------------------------------------------------------------------------------------------


def test_every_policy_has_a_plan_for_every_share_and_length() -> None:
    assert {"snapkv", "h2o", "duoattention"} <= set(ladder.evictions())
    assert {"kivi", "gear"} <= set(ladder.packings())
    for n in (40, 160, 4000):
        for name in ladder.evictions():
            for keep in ladder.KEEPS:
                spec.Plan.of(ladder.evicting(name, keep, n))
    for name in ladder.packings():
        assert ladder.packing(name)
    assert "window=8" in ladder.evicting("snapkv", 0.1, 160)
    kinds = [kind for kind, _, _ in ladder.plans(160, (0.1,), ("snapkv", "kivi"))]
    assert kinds == ["evict", *["pack"] * 6, *["stack"] * 3]


# --- needles ----------------------------------------------------------------------------------------------------------


def test_the_written_model_finds_every_needle() -> None:
    model = reader.reader(torch.bfloat16)
    for n, depth in ((48, 0.0), (96, 0.4), (200, 1.0), (600, 0.6)):
        found = [reader.text(seed, n, depth) for seed in range(3)]
        ids, want = (torch.stack(some) for some in zip(*found))
        assert ids.shape == (3, n)
        assert torch.equal(reader.answers(model, ids), want)


def test_a_needle_lies_where_it_is_said_to() -> None:
    for depth in (0.0, 0.5, 1.0):
        ids, code = reader.text(1, 400, depth)
        at = [i for i in range(len(ids) - 4) if torch.equal(ids[i : i + 4], code)]
        assert len(at) == 1
        assert abs((at[0] - 2) / (400 - 9) - depth) < 0.03


def test_a_needle_that_was_evicted_is_not_said() -> None:
    model = reader.reader(torch.bfloat16)
    assert needle._cell(model, "", 256, 0.25, 4) == 1
    assert needle._cell(model, "streaming_llm(keep=0.1)", 256, 0.25, 4) < 0.5
    assert needle._cell(model, "streaming_llm(keep=0.1)", 256, 1.0, 4) == 1


# --- the study --------------------------------------------------------------------------------------------------------


def test_parts_make_one_file(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = lab.Subject(str(folder), (("read", 2), ("dialogue", 2)))
    monkeypatch.setattr(lab, "SUBJECTS", (subject,))
    monkeypatch.setattr(lab, "SOLVED", 0.0)  # an untrained model does nothing right
    monkeypatch.setattr(needle, "TRIED", 64)
    monkeypatch.setattr(needle, "DEPTHS", (0.0, 1.0))
    monkeypatch.setitem(ladder._PACKED, "kivi", ({"recent": 32},))
    monkeypatch.setattr(ladder, "stacks", lambda n: ["snapkv(keep=0.3, window=8) + kivi(recent=32)"])
    monkeypatch.setattr(speed, "STORES", {"even": "snapkv(keep=0.3)", "packed": "kivi()"})
    monkeypatch.setattr(held, "PROCESSES", ())
    out = tmp_path / "cache.json"
    some = ["--methods", "snapkv", "streaming_llm", "kivi", "--keeps", "0.1", "--models", str(folder)]
    some += ["--lengths", "64", "4096", "--repeats", "1", "--needles", "1"]
    cache.run(arguments(out, *some, "--parts", "lab", "bytes"))
    cache.run(arguments(out, *some, "--parts", "needle", "speed", "text"))
    data = json.loads(out.read_text(encoding="utf-8"))
    assert set(data["parts"]) == set(cache.PARTS)
    assert {r["part"] for r in data["rows"]} == {"lab", "bytes", "needle", "speed"}
    assert "--weights" in data["parts"]["text"]["left_out"]["all plans"]
    rows = [r for r in data["rows"] if r["part"] == "lab"]
    assert [r["kind"] for r in rows] == ["none", "evict", "evict", "pack", "stack"]
    assert all(0 < r["bytes"] <= 1.2 for r in rows)
    assert {g["goal"].split()[0] for g in data["goals"]} >= {"needle:", "decoding", "bytes"}
    assert len([p for p in plots.plots(out) if p.stat().st_size > 5000]) == 3
    told = pages.section("snapkv", out)
    assert told is not None
    assert "| the whole cache | 100% |" in told
    assert "Tokens a second" in told
    assert pages.section("h2o", out) is None
    before = data["rows"]
    monkeypatch.setattr(lab, "_asked", None)
    monkeypatch.setattr(needle, "_cell", None)
    monkeypatch.setattr(speed, "timed", None)
    cache.run(arguments(out, *some))  # nothing is measured again
    assert [r for r in json.loads(out.read_text(encoding="utf-8"))["rows"] if r["part"] != "needle"] == [
        r for r in before if r["part"] != "needle"
    ]


def test_tasks_that_the_full_model_cannot_do_are_left_out(tmp_path: Path, folder: Path) -> None:
    subject = lab.Subject(str(folder), (("recall", 2), ("copy", 2)))
    rows, left = lab.rows(subject, 0, 1.0, (0.1,), ("snapkv",), tmp_path)
    assert [r["kind"] for r in rows] == ["none"]
    assert set(left) == {"recall", "copy"}
    assert "cannot be told apart" in left["copy"]


def test_text_is_measured_where_there_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PASSAGE", 40)
    monkeypatch.setattr(text, "AFTER", 8)
    monkeypatch.setattr(text, "COPIED", 12)
    loaded = foveate.load("tiny")
    ids = torch.randint(5, 100, (3, 48), generator=torch.Generator().manual_seed(0))
    full = text._measured(loaded.model, ids, "")
    same = text._measured(loaded.model, ids, "snapkv(keep=1.0)")
    assert same["nll"] == pytest.approx(full["nll"], abs=1e-5)
    assert (full["bytes"], same["bytes"]) == (1, 1)
    less = text._row("evict", "snapkv", "snapkv", 0.1, text._measured(loaded.model, ids, "snapkv(keep=0.1)"), full)
    assert less["bytes"] == pytest.approx(0.1, rel=0.02)
    assert less["nll_more_low"] <= less["nll_more"] <= less["nll_more_high"]
    monkeypatch.delenv(text.MODEL, raising=False)
    assert "--weights" in text.places(None, None)[2]
    assert "there is no" in text.places("/nowhere", "/nowhere")[2]


def test_passages_are_spread_over_a_text(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("\n".join(f"line {k} of many" for k in range(2000)), encoding="utf-8")

    class Words:
        bos_token_id = 1

        def __call__(self, some: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [len(word) for word in some.split()] * 4}

    made = text.passages(Words(), file, 4, 20)
    assert made.shape == (4, 20)
    assert (made[:, 0] == 1).all()


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'keeps' must be in"):
        cache.run(arguments(tmp_path / "x.json", "--keeps", "1.5"))
    with pytest.raises(InputError, match="snapkw"):
        cache.run(arguments(tmp_path / "x.json", "--methods", "snapkw"))


def test_results_are_made_once(tmp_path: Path) -> None:
    made = []
    for _ in range(2):
        assert Once(tmp_path, "lab").get(["a"], "snapkv", lambda: made.append(1) or 3) == 3
    assert made == [1]
    Once(tmp_path, "lab").get(["b"], "snapkv", lambda: made.append(1) or 3)
    assert made == [1, 1]


def test_goals_say_where_a_store_is_slower() -> None:
    rows = [{"part": "speed", "store": "packed", "tokens": n, "speedup": s} for n, s in ((1024, 0.5), (4096, 0.9))]
    (found,) = verdicts.goals(rows)
    assert (found["value"], found["holds"]) == (0.9, False)


def test_pages_say_where_a_store_is_slower(tmp_path: Path) -> None:
    rows = [
        {"part": "speed", "store": "", "plan": "kivi()", "tokens": n, "speedup": s} for n, s in ((4096, 0.9), (1024, 2))
    ]
    rows += [{"part": "bytes", "measure": "storages", "method": "kivi", "off": -0.05}]
    (tmp_path / "cache.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    told = pages.section("kivi", tmp_path / "cache.json") or ""
    assert "**Not faster than the plain cache at 4,096 tokens.**" in told
    assert "5.0% off" in told
    assert pages.section("kivi", tmp_path / "none.json") is None
