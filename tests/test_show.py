"""Pictures of what was kept: the right cells are dark, and sheets of any number of frames hold all they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveate import Reduction
from foveate.errors import InputError, MediaError
from foveate.show import draw_kept, draw_report, save_sheet


def white(width: int = 80, height: int = 60) -> Image.Image:
    return Image.new("RGB", (width, height), "white")


def cells(image: Image.Image, rows: int, cols: int) -> np.ndarray:
    """(rows, cols) brightness at the middle of each cell."""
    grey = np.asarray(image.convert("L"))
    y = ((np.arange(rows) + 0.5) * grey.shape[0] / rows).astype(int)
    x = ((np.arange(cols) + 0.5) * grey.shape[1] / cols).astype(int)
    return grey[y][:, x]


@pytest.mark.parametrize(("rows", "cols"), [(6, 8), (1, 1), (3, 5), (60, 80), (24, 24)])
def test_dropped_cells_are_dark(rows: int, cols: int) -> None:
    kept = torch.rand(rows, cols, generator=torch.Generator().manual_seed(0)) < 0.4
    image = white()
    out = draw_kept(image, kept)
    assert (out.mode, out.size) == ("RGB", image.size)
    assert np.array_equal(cells(out, rows, cols) > 128, kept.numpy())
    assert np.asarray(image).min() == 255  # the input is left alone


def test_kept_pixels_are_the_images_own() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))
    out, given = np.asarray(draw_kept(noise, torch.ones(1, 1, dtype=torch.bool))), np.asarray(noise)
    assert np.array_equal(out, given)


def test_more_cells_than_pixels() -> None:
    assert draw_kept(white(10, 10), torch.ones(24, 24, dtype=torch.bool)).size == (10, 10)


def test_any_mode_and_any_number_type() -> None:
    for mode in ("L", "RGBA", "P", "CMYK"):
        assert draw_kept(white().convert(mode), torch.ones(2, 2)).mode == "RGB"
    assert np.array_equal(cells(draw_kept(white(), torch.tensor([[3, 0]])), 1, 2) > 128, [[True, False]])


def test_merged_cells_share_a_colour() -> None:
    groups = torch.tensor([[0, 0, 1, 1], [2, 3, 3, -1]])
    kept = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)
    image = Image.new("RGB", (160, 80), (128, 128, 128))
    out = np.asarray(draw_kept(image, kept, groups)).astype(int)
    at = {(r, c): out[40 * r + 20, 40 * c + 20] for r in range(2) for c in range(4)}

    def hue(cell: tuple[int, int]) -> np.ndarray:
        tint = at[cell] - at[cell].mean()
        return tint / max(np.abs(tint).max(), 1e-9)

    assert np.allclose(hue((0, 0)), hue((0, 1)), atol=0.1)
    assert np.allclose(hue((1, 1)), hue((1, 2)), atol=0.1)
    assert np.abs(hue((0, 0)) - hue((0, 2))).max() > 0.3
    assert np.abs(at[1, 0] - 128).max() <= 1  # alone in its slot: as it was
    assert at[1, 3].max() < 70  # dropped
    assert np.ptp(at[0, 0]) > np.ptp(at[0, 1])  # the cell that is kept is tinted more


def test_reduction_draws_itself() -> None:
    keep = torch.tensor([[0, 5, 11]])
    out = Reduction.take(keep, 12).draw(white(), (3, 4))
    assert (cells(out, 3, 4) > 128).reshape(-1).nonzero()[0].tolist() == [0, 5, 11]


@pytest.mark.parametrize("bad", [torch.ones(4), torch.ones(2, 2, 2), torch.ones(0, 4)])
def test_refuses_what_is_no_grid(bad: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"\(rows, cols\)"):
        draw_kept(white(), bad)
    with pytest.raises(InputError, match=r"\(rows, cols\)"):
        draw_report([white()], [bad])


def test_refuses_groups_of_another_shape() -> None:
    with pytest.raises(InputError, match="same shape"):
        draw_kept(white(), torch.ones(2, 2), torch.zeros(2, 3))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 16, 33, 64])
def test_sheet_holds_every_frame(n: int) -> None:
    """Each frame has its own colour: on the sheet it is a full rectangle, in reading order, and nothing overlaps."""
    colours = [(255 - i, 3 * i, 120 + i) for i in range(n)]
    frames = [Image.new("RGB", (80, 60), c) for c in colours]
    sheet = draw_report(frames, [torch.zeros(4, 4)] * n, "plan", [f"{i} s" for i in range(n)])
    assert sheet.width <= 1290
    pixels = np.asarray(sheet)
    areas, corners = [], []
    for colour in colours:
        y, x = (pixels == colour).all(-1).nonzero()
        areas.append(len(y))
        assert len(y) == (np.ptp(y) + 1) * (np.ptp(x) + 1)  # a full rectangle: nothing is drawn over it
        corners.append((int(y.min()), int(x.min())))
    assert len(set(areas)) == 1
    assert corners == sorted(corners)  # reading order
    assert (pixels[[0, -1]] == 255).all()
    assert (pixels[:, [0, -1]] == 255).all()


def test_more_frames_than_fit_are_spread() -> None:
    frames = [Image.new("RGB", (8, 6), (i, 0, 0)) for i in range(200)]
    sheet = np.asarray(draw_report(frames, [torch.ones(1, 1)] * 200))
    seen = [i for i in range(200) if (sheet == (i, 0, 0)).all(-1).any()]
    assert len(seen) >= 64
    assert seen[0] < 4
    assert seen[-1] > 195


def test_long_words_and_odd_sizes_do_not_overflow() -> None:
    frames = [white(60, 400), white(900, 40), white(2, 2), white(300, 200)]
    grids = [torch.ones(4, 4), torch.ones(1, 30), torch.zeros(1, 1), torch.ones(2, 3)]
    for title in ("", "word " * 80, "unbroken" * 80, "two\nlines", "что там"):
        sheet = np.asarray(draw_report(frames, grids, title, ["a caption much too long for its frame " * 3] * 4))
        assert (sheet[:, -20:] == 255).all()
        assert (sheet[:, :20] == 255).all()


def test_report_with_groups() -> None:
    sheet = draw_report([white()] * 2, [torch.eye(4)] * 2, groups=[torch.arange(4).repeat(4, 1)] * 2)
    assert np.ptp(np.asarray(sheet).astype(int), axis=-1).max() > 60  # there is colour


def test_report_refuses() -> None:
    with pytest.raises(InputError, match="no frames"):
        draw_report([], [])
    with pytest.raises(InputError, match="2 frames and 1 grids"):
        draw_report([white()] * 2, [torch.ones(2, 2)])
    with pytest.raises(InputError, match="1 frames and 2 captions"):
        draw_report([white()], [torch.ones(2, 2)], captions=["a", "b"])


def test_save(tmp_path: Path) -> None:
    for name in ("sheet.png", "sheet.jpg", "sheet.webp"):
        path = save_sheet(tmp_path / name, [white()], [torch.ones(2, 2)], "plan", ["0 s"])
        with Image.open(path) as image:
            assert image.width > 400
    with pytest.raises(MediaError, match="no picture format"):
        save_sheet(tmp_path / "sheet.txt", [white()], [torch.ones(2, 2)])
    with pytest.raises(MediaError, match="cannot be written"):
        save_sheet(tmp_path / "no" / "sheet.png", [white()], [torch.ones(2, 2)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sheet.jpg", "sheet.png", "sheet.webp"]
