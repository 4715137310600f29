"""Tokens of the store in few bits: how many bytes they take, and what is lost."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from foveate.archive.coding import coded, decoded
from foveate.archive.recipe import Recipe
from foveate.errors import InputError, StoreError
from foveate.load import Loaded
from foveate.stream.seen import Seen
from stream_kit import clip, model

pytest.importorskip("lancedb")

from foveate.archive import Archive, ask_store, index

PLAN, ASK = "divprune(keep=0.5)", "Which colour?"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return model("qwen3_vl", tmp_path_factory.mktemp("bits"))  # the family that has DeepStack features too


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip(tmp_path_factory.mktemp("films") / "a.mp4", 8, seed=1)


def seen_of(store: Path) -> tuple[list[Seen], int]:
    archive = Archive(store)
    (video,) = archive.videos()
    clips = archive.clips([video])
    return archive.tokens(video.width, clips, video.recipe.bits), sum(c.tokens for c in clips)


def test_what_is_lost_is_half_a_step(loaded: Loaded, film: Path, tmp_path: Path) -> None:
    sizes, found = {}, {}
    for bits in (None, 8, 4):
        (done,) = index([film], tmp_path / str(bits), model=loaded, plan=PLAN, fps=2, clip=4, bits=bits)
        sizes[bits] = done.stored
        found[bits], tokens = seen_of(tmp_path / str(bits))
        assert tokens == done.tokens > 0
    assert sizes[4] < sizes[8] < sizes[None]
    for bits in (8, 4):
        for mine, exact in zip(found[bits], found[None], strict=True):
            for name in ("slot", "time", "late", "cell", "side", "size", "tail", "over"):
                assert torch.equal(getattr(mine, name), getattr(exact, name))
            for name in ("x", "deep"):
                a, b = getattr(mine, name), getattr(exact, name)
                assert a.dtype == b.dtype
                assert a.shape == b.shape
                groups = [t.amax(-1, keepdim=True) - t.amin(-1, keepdim=True) for t in b.split(32, -1)]
                step = torch.cat([g.expand(*g.shape[:-1], 32) for g in groups], -1)[..., : b.shape[-1]] / (2**bits - 1)
                assert bool(((a - b).abs() <= 0.5 * step + 2e-3 * b.abs().amax() + 1e-6).all())
                assert bool((a != b).any())


@pytest.mark.parametrize(("bits", "share"), [(8, 0.5625), (4, 0.3125)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_bytes_are_codes_and_scales(bits: int, share: float, dtype: torch.dtype) -> None:
    data = {"x": torch.randn(50, 2048).to(dtype), "deep": torch.zeros(0, 50, 2048).to(dtype), "size": torch.ones(50)}
    out = coded(data, bits)
    held = sum(t.numel() * t.element_size() for name, t in out.items() if name.startswith("x"))
    assert held == share * 50 * 2048 * 2  # of 16 bits a number
    back = decoded(out, bits)
    assert back.keys() == data.keys()
    assert back["x"].dtype == dtype
    error = (back["x"].float() - data["x"].float()).pow(2).mean().sqrt() / data["x"].float().std()
    assert error < {8: 0.01, 4: 0.1}[bits]
    assert decoded(coded(data, None), None)["x"] is data["x"]


def test_answers_come_from_the_most_exact_width(loaded: Loaded, film: Path, tmp_path: Path) -> None:
    store = tmp_path / "both"
    for bits in (4, 8):
        (done,) = index([film], store, model=loaded, plan=PLAN, fps=2, clip=4, bits=bits)
        assert done.state == "indexed"
    (again,) = index([film], store, model=loaded, plan=PLAN, fps=2, clip=4, bits=8)
    assert (again.state, again.stored) == ("known", 0)
    read = []
    archive = Archive(store)
    plain = archive.tokens
    archive.tokens = lambda width, clips, bits=None: read.append(bits) or plain(width, clips, bits)  # type: ignore[method-assign]
    said = ask_store(archive, ASK, model=loaded, plan=PLAN, max_new_tokens=4)
    assert read == [8]
    assert {s.video for s in said.sources} == {"a.mp4"}


def test_a_store_without_bits_keeps_its_keys() -> None:
    plain = Recipe("m", "p", (), 1.0, 8, None, version="1")
    assert "bits" not in plain.text
    assert Recipe.read(plain.text) == plain
    few = dataclasses.replace(plain, bits=4)
    assert Recipe.read(few.text) == few
    assert len({plain.id, few.id, dataclasses.replace(plain, bits=8).id}) == 3


def test_what_does_not_fit_is_refused(loaded: Loaded, film: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'bits' must be one of 8, 4"):
        index([film], tmp_path / "x", model=loaded, plan=PLAN, bits=3)
    out = coded({"x": torch.randn(5, 64), "deep": torch.zeros(0, 5, 64)}, 8)
    with pytest.raises(InputError, match="not whole"):
        decoded({k: v for k, v in out.items() if k != "x.low"}, 8)
    with pytest.raises(InputError, match="do not fit"):
        decoded({**out, "x.codes": out["x.codes"][:, :3]}, 8)
    index([film], tmp_path / "eight", model=loaded, plan=PLAN, fps=2, clip=4, bits=8)
    archive = Archive(tmp_path / "eight")
    (video,) = archive.videos()
    with pytest.raises(StoreError, match="not whole"):
        archive.tokens(video.width, archive.clips([video]), None)
