"""Draw what every method keeps of two pictures: ``make gallery`` writes gallery_scene.png and gallery_photo.png.

One cell a method, by stage and name: dropped tokens are darkened, tokens that became one are tinted alike. Every method
is asked for about the same share of the first picture's tokens, by whatever option it has for that; those without such
an option run at their defaults. The first picture is a scene of the lab, the second a photograph of Grace
Hopper by the U.S. Navy, in the public domain, which matplotlib brings along.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from page_parts import own
from pages import ABOUT, ROOT

import foveate
from foveate import show
from foveate.ask import Answer
from foveate.attribution import relevance
from foveate.bench.plans import plan_for
from foveate.drawing import slots
from foveate.lab.tasks import generate
from foveate.load import Loaded
from foveate.prompt import Prompt

STAGES = ("encoder", "inputs", "layers")
COLUMNS, SIDE = 7, 192  # cells in a line, and pixels of a picture's side
HEAD = 52  # pixels that a stage's name takes


@dataclass(frozen=True)
class Cell:
    """What one method did: kept and part (rows, cols), bool and int64 as in :func:`foveate.show.draw_kept`."""

    name: str
    stage: str
    plan: str
    kept: Tensor
    part: Tensor


@dataclass(frozen=True)
class Subject:
    """A picture, what is asked about it, and what it is called on its sheet."""

    name: str
    image: Image.Image
    question: str
    about: str


def subjects(side: int) -> list[Subject]:
    """The two pictures, square, ``side`` pixels wide."""
    import matplotlib

    item = generate("read", 3, 13, size=side)[-1]
    photo = Image.open(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")).convert("RGB")
    square = photo.crop((0, 0, photo.width, photo.width)).resize((side, side), Image.Resampling.LANCZOS)
    return [
        Subject("scene", item.media[0], item.question, "a scene of the lab"),
        Subject("photo", square, "what colour is the shape at the center?", "a photograph (U.S. Navy, public domain)"),
    ]


def plans(loaded: Loaded, subject: Subject, keep: float) -> dict[str, Any]:
    """A method of every name in the three stages that leaves about ``keep`` of a picture, where an option sets that."""
    n = len(_prompt(loaded, subject).visuals[0].where)

    def share(m: Any) -> float:
        return float(ended(_ask(loaded, subject, m))[0].float().mean())

    return {name: plan_for(cls, keep, n, share) for name, cls in own().items() if cls.stage in STAGES}


def cells(loaded: Loaded, subject: Subject, chosen: Mapping[str, Any]) -> list[Cell]:
    """What the methods of :func:`plans` keep of a picture, by stage and name."""
    out = []
    for name, m in sorted(chosen.items(), key=lambda item: (STAGES.index(item[1].stage), item[0])):
        shown = str(m).partition("(")[2].removesuffix(")")
        if name == "given":  # its scores are an option: here those of the attribution called "explain"
            scores = relevance(loaded, _prompt(loaded, subject), "explain").tolist()
            m, shown = replace(m, scores=tuple(scores)), f"keep={m.keep}, scores of explain"
        out.append(Cell(name, m.stage, shown, *ended(_ask(loaded, subject, m))))
    return out


def _prompt(loaded: Loaded, subject: Subject) -> Prompt:
    question = {"type": "text", "text": subject.question}
    return loaded.prompt([{"role": "user", "content": [{"type": "image", "image": subject.image}, question]}])


def _ask(loaded: Loaded, subject: Subject, plan: Any) -> Answer:
    return foveate.ask(subject.image, subject.question, model=loaded, plan=plan, max_new_tokens=1)


def ended(answer: Answer) -> tuple[Tensor, Tensor]:
    """Of a prompt with one picture: kept and part (rows, cols), where ``part`` is the cell that each cell went to."""
    (visual,) = answer.prompt.visuals
    if visual.grid is None:
        raise SystemExit("the model's tokens form no grid; choose another model")
    where, n = visual.where, len(visual.where)
    to = slots(answer.prompt, answer.report.kept, ("inputs", "layers"))[0, where]
    own_place = to == where
    part = torch.where(to >= 0, torch.searchsorted(where, to), -1)
    for r in answer.report.encoded:
        inside = r.restrict(r.n - n, r.n)  # without class tokens
        part = torch.where(inside.assign[0] >= 0, inside.keep[0][inside.assign[0]], -1)
        part[inside.keep[0]] = inside.keep[0]
    return own_place.view(visual.grid)[0], part.view(visual.grid)[0]


# --- the sheet ----------------------------------------------------------------------------------------------------


def sheet(subject: Subject, found: Sequence[Cell], model: str, keep: float) -> Image.Image:
    """All cells under their stages' names, below the picture itself and what it is."""
    wide = COLUMNS * (SIDE + show.GAP) - show.GAP
    picture = subject.image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    blocks = [(stage, [c for c in found if c.stage == stage]) for stage in STAGES]
    high = show.MARGIN + SIDE + sum(HEAD + sum(_below(row) for row in _rows(mine)) for _, mine in blocks)
    out = Image.new("RGB", (wide + 2 * show.MARGIN, high + show.MARGIN), show.PAPER)
    pen = ImageDraw.Draw(out)
    out.paste(picture, (show.MARGIN, show.MARGIN))
    _headline(pen, subject, found, model, keep, wide - SIDE - show.GAP)
    y = show.MARGIN + SIDE
    for stage, mine in blocks:
        title = f"{stage.capitalize()}: {ABOUT[stage]}"
        pen.text((show.MARGIN, y + HEAD - 30), title, show.INK, font=show._font(16))
        y += HEAD
        for row in _rows(mine):
            for i, cell in enumerate(row):
                _cell(out, pen, cell, picture, show.MARGIN + i * (SIDE + show.GAP), y)
            y += _below(row)
    return out


def _headline(
    pen: ImageDraw.ImageDraw, subject: Subject, found: Sequence[Cell], model: str, keep: float, wide: float
) -> None:
    x, y = show.MARGIN + SIDE + show.GAP + 6, float(show.MARGIN)
    total = found[0].kept.numel()
    told = (
        (f"What {len(found)} methods keep of {subject.about}", 20, show.INK),
        (f"Asked: {subject.question}", 16, show.INK),
        (
            f"{model}: {total} visual tokens. Each method was asked for about {keep:.0%} of those of the lab's scene, "
            "where it has an option for that; the line below a cell says how many there are at the end, and the "
            "options. Methods that act in several places are shown after the last.",
            13,
            show.FAINT,
        ),
        (
            "Dark cells are dropped. Cells of one colour became one token; the strongest tint is where that token "
            "stands. Where a token is shared out among several, the colour is that of the one that takes most of it.",
            13,
            show.FAINT,
        ),
    )
    for words, size, ink in told:
        font = show._font(size)
        for line in show._wrap(words, font, wide - 6):
            pen.text((x, y), line, ink, font=font)
            y += show._height(font) + 4
        y += 6


def _cell(out: Image.Image, pen: ImageDraw.ImageDraw, cell: Cell, picture: Image.Image, x: int, y: int) -> None:
    merged = bool(((cell.part >= 0) & ~cell.kept).any())
    out.paste(show.draw_kept(picture, cell.kept, cell.part if merged else None), (x, y))
    y += SIDE + 5
    pen.text((x, y), show._cut(cell.name, show._font(13), SIDE), show.INK, font=show._font(13))
    y += show._height(show._font(13)) + 2
    for line in _lines(cell):
        pen.text((x, y), line, show.FAINT, font=show._font(11))
        y += show._height(show._font(11)) + 1


def _lines(cell: Cell) -> list[str]:
    """What stands below a cell's name."""
    count = f"{int(cell.kept.sum())} of {cell.kept.numel()}"
    return show._wrap(f"{count}: {cell.plan}" if cell.plan else f"{count}: defaults", show._font(11), SIDE)


def _rows(mine: Sequence[Cell]) -> list[Sequence[Cell]]:
    return [mine[i : i + COLUMNS] for i in range(0, len(mine), COLUMNS)]


def _below(row: Sequence[Cell]) -> int:
    """Height of a line of cells with its words and the gap after it."""
    lines = max(len(_lines(c)) for c in row)
    return SIDE + 7 + show._height(show._font(13)) + lines * (show._height(show._font(11)) + 1) + show.GAP


def main() -> None:
    """Command line of the gallery."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="lab/image", help="a trained model whose image tokens form one square")
    parser.add_argument("--keep", type=float, default=0.25, help="share of the tokens that methods are asked for")
    parser.add_argument("--out", type=Path, default=ROOT / "results", help="folder of the pictures")
    args = parser.parse_args()
    loaded = foveate.load(args.model)
    args.out.mkdir(parents=True, exist_ok=True)
    both = subjects(168)
    chosen = plans(loaded, both[0], args.keep)
    for subject in both:
        drawn = sheet(subject, cells(loaded, subject, chosen), loaded.name, args.keep)
        path = args.out / f"gallery_{subject.name}.png"
        # a palette is a third of the size, and nobody sees it at this scale
        drawn.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
        print(path)


if __name__ == "__main__":
    main()
