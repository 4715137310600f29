"""The store of indexed videos: encoded once, found again, and never answered from when it is damaged."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from foveate import archive as package
from foveate.errors import InputError, PlanError, StoreError
from foveate.load import Loaded
from stream_kit import clip, model

pytest.importorskip("lancedb")

from foveate.archive import Archive, ask_store, asking, find, index, indexing, table
from foveate.archive.row import rows
from foveate.stream import Stream
from foveate.video import open_video

ASK = "Which colour?"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return model("qwen2_5_vl", tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("films")
    return [clip(home / "a.mp4", 12, seed=1), clip(home / "b.mp4", 8, seed=2)]


@pytest.fixture(scope="module")
def filled(loaded: Loaded, films: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("stores") / "one"
    done = index(films, where, model=loaded, plan="divprune(keep=0.5)", fps=2, clip=4)
    assert [d.state for d in done] == ["indexed", "indexed"]
    return where


def forbidden(*_: Any, **__: Any) -> Any:
    raise AssertionError("a stored video was decoded or encoded again")


# --- answers ----------------------------------------------------------------------------------------------------------


def test_an_answer_from_the_store_is_the_streams(loaded: Loaded, films: list[Path], filled: Path) -> None:
    live = Stream(loaded, "divprune(keep=0.5)", cap=10_000, clip=4)
    with open_video(films[0]) as video:
        live.push(list(indexing.frames_at(video, 2)))
    said = ask_store(filled, ASK, model=loaded, videos=["a.mp4"], max_new_tokens=8)
    assert said.text == live.ask(ASK, max_new_tokens=8).text
    assert {s.video for s in said.sources} == {"a.mp4"}
    assert said.sources[0].start == 0


def test_nothing_is_decoded_or_encoded_again(
    loaded: Loaded, filled: Path, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "open_video", forbidden)
    monkeypatch.setattr(indexing, "encode", forbidden)
    monkeypatch.setattr(type(loaded.model.base_model.visual), "forward", forbidden)
    said = ask_store(filled, ASK, model=loaded, max_new_tokens=4)
    assert {s.video for s in said.sources} == {"a.mp4", "b.mp4"}
    assert "a.mp4: " in said.prompt.text[0]
    again = index(films, filled, model=loaded, plan="divprune(keep=0.5)", fps=2, clip=4)
    assert [d.state for d in again] == ["known", "known"]


def test_a_budget_retrieves_the_clips_that_fit(loaded: Loaded, filled: Path) -> None:
    everything = ask_store(filled, ASK, model=loaded, max_new_tokens=1)
    total = sum(s.tokens for s in everything.sources)
    for by in ("embeddings", "model"):
        said = ask_store(filled, ASK, model=loaded, budget=total // 2, by=by, max_new_tokens=1)
        assert 0 < sum(s.tokens for s in said.sources) <= total // 2
        assert [s.score for s in said.sources] == sorted((s.score for s in said.sources), reverse=True)


def test_the_search_by_vector_orders_as_the_product_says(loaded: Loaded, filled: Path) -> None:
    there = Archive(filled)
    videos = there.videos()
    width = videos[0].width
    near = torch.randn(width)
    found = there.clips(videos, near.tolist(), 3)
    every = there.clips(videos)
    unit = [torch.nn.functional.normalize(s.x.float(), dim=-1).mean(0) @ near for s in there.tokens(width, every)]
    best = sorted(range(len(every)), key=lambda i: -unit[i])[:3]
    assert [(c.key, c.number) for c in found] == [(every[i].key, every[i].number) for i in best]
    torch.testing.assert_close(
        torch.tensor([c.fit for c in found]), torch.stack([unit[i] for i in best]), atol=1e-4, rtol=0
    )


def test_many_videos_are_told_by_their_recipe(loaded: Loaded, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Archive(filled)
    one = there.videos()[:1]
    few, near = there.clips(one), [1.0] * one[0].width
    best = there.clips(one, near, 2)
    monkeypatch.setattr(table, "FEW", 0)
    assert there.clips(one) == few
    assert there.clips(one, near, 2)[: len(best)] == [c for c in best if c.key == one[0].key]


def test_a_question_can_be_part_of_the_entry(loaded: Loaded, films: list[Path], tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no method of 'divprune' decides by the question"):
        index(films[:1], tmp_path / "s", model=loaded, plan="divprune", question=ASK)
    done = index(films[:1], tmp_path / "s", model=loaded, plan="quota(keep=0.5)", question=ASK, fps=1)
    free = index(films[:1], tmp_path / "s", model=loaded, plan="quota(keep=0.5)", fps=1)
    assert done[0].key != free[0].key
    assert done[0].tokens < free[0].tokens, "without a question nothing is dropped until it comes"
    shutil.rmtree(tmp_path / "s")
    index(films[:1], tmp_path / "s", model=loaded, plan="quota(keep=0.5)", question=ASK, fps=1)
    assert ask_store(tmp_path / "s", ASK, model=loaded, max_new_tokens=1).tokens == 1
    with pytest.raises(InputError, match="for other questions only"):
        ask_store(tmp_path / "s", "Another one?", model=loaded)


# --- once, and what is left of interruptions --------------------------------------------------------------------------


def test_the_same_content_under_two_names_is_stored_once(loaded: Loaded, films: list[Path], tmp_path: Path) -> None:
    twin = shutil.copy(films[1], tmp_path / "twin.mp4")
    done = index([films[1], twin], tmp_path / "s", model=loaded, plan="divprune", fps=1)
    assert [d.state for d in done] == ["indexed", "known"]
    there = Archive(tmp_path / "s")
    assert [v.name for v in there.videos()] == ["b.mp4", "twin.mp4"]
    assert len(there.clips(there.videos())) == done[0].clips
    assert ask_store(there, ASK, model=loaded, videos=["twin.mp4"], max_new_tokens=1).tokens == 1


def test_an_interrupted_run_leaves_nothing_to_answer_from_and_is_taken_up(
    loaded: Loaded, films: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = indexing.encode, itertools.count()

    def stopped(*given: Any, **more: Any) -> Any:
        if next(count) == 3:
            raise KeyboardInterrupt
        return real(*given, **more)

    monkeypatch.setattr(indexing, "encode", stopped)
    monkeypatch.setattr(indexing, "TOGETHER", 1)
    with pytest.raises(KeyboardInterrupt):
        index(films, tmp_path / "s", model=loaded, plan="divprune", fps=2, clip=4)
    with pytest.raises(InputError, match="holds no videos"):
        ask_store(tmp_path / "s", ASK, model=loaded)
    done = index(films, tmp_path / "s", model=loaded, plan="divprune", fps=2, clip=4)
    assert [d.state for d in done] == ["indexed", "indexed"]
    there = Archive(tmp_path / "s")
    numbers = [c.number for c in there.clips([v for v in there.videos() if v.key == done[0].key])]
    assert numbers == list(range(6)), "no clip twice"


def test_a_damaged_file_is_reported_and_skipped(loaded: Loaded, films: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"not a video" * 50)
    told: list[Any] = []
    done = index(
        [tmp_path / "bad.mp4", tmp_path / "none.mp4", films[1]],
        tmp_path / "s",
        model=loaded,
        plan="divprune",
        tell=told.append,
    )
    assert [d.state for d in done] == ["failed", "failed", "indexed"]
    assert told == done
    assert "bad.mp4" in done[0].error
    assert len(Archive(tmp_path / "s").videos()) == 1


# --- damage -----------------------------------------------------------------------------------------------------------


def _change(where: Path, name: str, value: dict[str, str]) -> None:
    import lancedb

    lancedb.connect(str(where)).open_table(name).update(values_sql=value)


HALVES = "arrow_cast(make_array(" + ", ".join(["0.5"] * 32) + "), 'FixedSizeList(32, Float32)')"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("clips_32", {"payload": "arrow_cast('12345678{}', 'Binary')"}),
        ("clips_32", {"start": "start + 1"}),
        ("clips_32", {"number": "number + 1"}),
        (
            "clips_32",
            {"vector": "arrow_cast(make_array(" + ", ".join(["0.5"] * 32) + "), 'FixedSizeList(32, Float32)')"},
        ),
        ("videos", {"name": "'other.mp4'"}),
        ("videos", {"media": "'00'"}),
        ("videos", {"recipe": "replace(recipe, 'divprune', 'todre')"}),
    ],
)
def test_a_damaged_entry_is_refused(
    loaded: Loaded, filled: Path, tmp_path: Path, name: str, change: dict[str, str]
) -> None:
    where = Path(shutil.copytree(filled, tmp_path / "s"))
    _change(where, name, change)
    with pytest.raises(StoreError, match="index the video again"):
        ask_store(where, ASK, model=loaded, max_new_tokens=1)


def test_an_entry_under_anothers_key_is_refused(loaded: Loaded, filled: Path, films: list[Path]) -> None:
    there = Archive(filled)
    video = there.videos()[0]
    (clip_,) = there.tokens(video.width, there.clips([video])[:1])
    (row,) = rows("0" * 64, video.recipe, [(0, clip_)])
    with pytest.raises(StoreError, match="checksum"):
        there._seen({**row, "key": video.key}, video.width)


def test_broken_files_of_the_store_are_one_clear_error(loaded: Loaded, filled: Path, tmp_path: Path) -> None:
    where = Path(shutil.copytree(filled, tmp_path / "s"))
    for file in where.rglob("*.lance"):
        if file.is_file():
            data = bytearray(file.read_bytes())
            data[: len(data) // 2] = bytes(len(data) // 2)
            file.write_bytes(bytes(data[: len(data) - 7]))
    with pytest.raises(StoreError):
        ask_store(where, ASK, model=loaded, max_new_tokens=1)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_other_models_plans_and_names_are_refused(
    loaded: Loaded, filled: Path, films: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"nothing in .* was indexed with"):
        ask_store(filled, ASK, model=model("qwen2_vl", tmp_path))
    with pytest.raises(InputError, match=r"has no video 'c.mp4'; it has a.mp4, b.mp4"):
        ask_store(filled, ASK, model=loaded, videos=["c.mp4"])
    with pytest.raises(InputError, match=r"nothing was indexed with the plan 'todre'; there is divprune\(keep=0.5\)"):
        ask_store(filled, ASK, model=loaded, plan="todre")
    for wrong in ({"question": ""}, {"question": ASK, "budget": 0}):
        with pytest.raises(InputError):
            ask_store(filled, model=loaded, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'fps' must be above 0"):
        index(films, tmp_path / "s", model=loaded, fps=0)
    with pytest.raises(InputError, match="holds no videos"):
        find([tmp_path / "qwen2_vl"])


def test_several_plans_in_one_store(loaded: Loaded, films: list[Path], tmp_path: Path) -> None:
    for plan in ("divprune", "todre"):
        index(films[1:], tmp_path / "s", model=loaded, plan=plan, fps=1)
    with pytest.raises(InputError, match=r"in 2 ways \(divprune; todre\); say which"):
        ask_store(tmp_path / "s", ASK, model=loaded)
    said = ask_store(tmp_path / "s", ASK, model=loaded, plan="todre + snapkv(keep=0.5, window=2)", max_new_tokens=1)
    assert [r.method for r in said.report.rows] == ["snapkv(keep=0.5, window=2)"]


def test_folders_are_searched(films: list[Path], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("in/z.mp4", "y.MOV", "notes.txt"):
        shutil.copy(films[1], tmp_path / name)
    assert [p.name for p in find([tmp_path, tmp_path / "y.MOV"])] == ["z.mp4", "y.MOV"]


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_commands(films: list[Path], tmp_path: Path, loaded: Loaded) -> None:
    from foveate.cli import app

    where, run = str(tmp_path / "s"), CliRunner().invoke
    folder = model("qwen2_5_vl", tmp_path).name
    out = run(app, ["index", str(films[0]), "--store", where, "--model", folder, "--fps", "1"])
    assert out.exit_code == 0, out.output
    assert "1 indexed" in out.output
    out = run(app, ["ask", "--store", where, "a.mp4", ASK, "--model", folder, "--max-new-tokens", "2"])
    assert out.exit_code == 0, out.output
    assert "from a.mp4 [00:00" in out.output
    out = run(app, ["stream", str(films[1]), ASK, "--model", folder, "--at", "3", "--at", "6", "--max-new-tokens", "2"])
    assert out.exit_code == 0, out.output
    assert out.output.count("\n") >= 2
    (tmp_path / "bad.mp4").write_bytes(b"x")
    out = run(app, ["index", str(tmp_path / "bad.mp4"), "--store", where, "--model", folder])
    assert out.exit_code == 1
    assert "failed" in out.output


def test_the_package_lists_what_it_gives() -> None:
    assert all(hasattr(package, name) for name in package.__all__)
    assert asking.CANDIDATES > 0
