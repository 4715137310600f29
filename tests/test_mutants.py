"""Damaged files, a few of the thousands that ``python -m foveate.bench mutants`` goes through."""

from __future__ import annotations

from pathlib import Path

import pytest

from foveate.bench import mutants


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutants")


def test_each_decodes_or_is_refused(folder: Path) -> None:
    rows = mutants.run(folder, 72, first=40_000)
    assert [r["seed"] for r in rows] == list(range(40_000, 40_072))
    assert [r for r in rows if r["end"] not in ("decoded", "refused")] == []
    assert max(r["peak_mb"] for r in rows) < mutants.CAP_MB
    assert {r["end"] for r in rows} == {"decoded", "refused"}
    assert len({r["file"] for r in rows}) > 8


def test_a_seed_is_a_file() -> None:
    data, other = bytes(range(256)) * 20, b"other" * 99
    for seed in range(30):
        assert mutants.mutant(data, other, seed) == mutants.mutant(data, other, seed)
        assert mutants.mutant(data, other, seed) != data or seed % len(mutants.KINDS) == 4


def test_a_crash_is_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that dies at its first file is a row, and the next one is tried."""
    monkeypatch.setattr(mutants, "originals", lambda folder: [])
    rows = mutants.run(folder / "nothing", 2)
    assert [r["seed"] for r in rows] == [0, 1]
    assert all(r["end"].startswith("died with 1") for r in rows)
