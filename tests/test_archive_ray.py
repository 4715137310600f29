"""Indexing on Ray Data: the same store as in one process, every file once, damaged files reported."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from stream_kit import clip, model

pytest.importorskip("lancedb")

import foveate
from foveate.archive import Archive, ask_store, index
from foveate.archive.on_ray import Worker, index_on_ray
from foveate.errors import InputError, MissingExtraError

SETTINGS: dict[str, Any] = {"plan": "divprune(keep=0.5)", "fps": 2, "clip": 4}


@pytest.fixture
def films(tmp_path: Path) -> list[Path]:
    home = tmp_path / "films"
    home.mkdir()
    made = [clip(home / f"{i}.mp4", 4, seed=i) for i in range(2)]
    (home / "bad.mp4").write_bytes(b"no video" * 99)
    shutil.copy(made[0], home / "twin.mp4")
    return [*made, home / "bad.mp4", home / "twin.mp4"]


def test_a_worker_gives_what_the_driver_stores(films: list[Path], tmp_path: Path) -> None:
    from foveate.archive import on_ray

    name = str(tmp_path / model("qwen2_5_vl", tmp_path).family)
    worker = Worker([], name, SETTINGS["plan"], SETTINGS["fps"], SETTINGS["clip"], None, 1)
    there, known = Archive(tmp_path / "a"), {}
    done = []
    for film in films:
        out = worker({"path": [str(film)]})
        done.append(on_ray._stored({k: v[0] for k, v in out.items()}, there, known))
    assert [d.state for d in done] == ["indexed", "indexed", "failed", "known"]
    again = Worker(list(known), name, SETTINGS["plan"], SETTINGS["fps"], SETTINGS["clip"], None, 1)
    assert again({"path": [str(films[0])]})["state"] == ["known"]
    index(films, tmp_path / "b", model=name, **SETTINGS)
    one, two = there, Archive(tmp_path / "b")
    assert [(v.name, v.key, v.tokens) for v in one.videos()] == [(v.name, v.key, v.tokens) for v in two.videos()]
    loaded = foveate.load(name)
    said = [ask_store(a, "What?", model=loaded, max_new_tokens=4) for a in (one, two)]
    assert said[0].text == said[1].text
    assert said[0].sources == said[1].sources


def test_on_a_local_ray(films: list[Path], tmp_path: Path, local_ray: None) -> None:
    name = str(tmp_path / model("qwen2_5_vl", tmp_path).family)
    done = {Path(d.path).name: d.state for d in index_on_ray(films, tmp_path / "s", model=name, **SETTINGS)}
    assert done["1.mp4"] == "indexed"
    assert done["bad.mp4"] == "failed"
    assert sorted([done["0.mp4"], done["twin.mp4"]]) == ["indexed", "known"]
    again = index_on_ray(films, tmp_path / "s", model=name, **SETTINGS)
    assert sorted(d.state for d in again) == ["failed", "known", "known", "known"]
    there = Archive(tmp_path / "s")
    videos = there.videos()
    assert [v.name for v in videos] == ["0.mp4", "1.mp4", "twin.mp4"]
    numbers = [c.number for c in there.clips(videos[:1])]
    assert numbers == list(range(videos[0].clips))


def test_what_is_wrong_for_all_files_is_said_once(films: list[Path], tmp_path: Path) -> None:
    loaded = model("qwen2_5_vl", tmp_path)
    pytest.importorskip("ray.data")
    with pytest.raises(InputError, match="every worker loads the model itself"):
        index_on_ray(films, tmp_path / "s", model=loaded)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'workers'"):
        index_on_ray(films, tmp_path / "s", model="tiny", workers=0)


def test_without_ray_it_says_what_to_install(
    films: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"foveate\[ray,store\]"):
        index_on_ray(films, tmp_path / "s", model="tiny")
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(MissingExtraError, match=r"foveate\[store\]"):
        Archive(tmp_path / "t")
