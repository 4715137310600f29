"""Draw what every method keeps of two pictures: ``make gallery`` writes gallery_scene.png and gallery_photo.png.

One cell a method, by stage and name: dropped tokens are darkened, tokens that became one are tinted alike. Every method
is asked for about the same share of the tokens, by whatever option it has for that; those without such an option run at
their defaults, or at what ``PLANS`` says. The first picture is a scene of the lab, the second a photograph of Grace
Hopper by the U.S. Navy, in the public domain, which matplotlib brings along.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
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
from foveate.drawing import slots
from foveate.inputs.given import Given
from foveate.lab.tasks import generate
from foveate.load import Loaded
from foveate.method import STAGES as STAGES_ALL
from foveate.method import options
from foveate.sites.model import anatomy
from foveate.spec import Plan

STAGES = ("encoder", "inputs", "layers")
COLUMNS, SIDE = 7, 192  # cells in a line, and pixels of a picture's side
HEAD = 52  # pixels that a stage's name takes
#: Options of methods whose budget is not called keep, keeps or r; the shares that they leave are near a quarter.
PLANS = {
    "aim_prune": "layers=[2, 3], keeps=[0.5, 0.25]",
    "diffrate": "prune=[0.75, 0.5, 0.3], merge=[0.63, 0.4, 0.25]",
    "fastvggt": "share=0.75",
    "gridpool": "stride=2",
    "llavolta": "stride=4",
    "m3": "scale=36",
    "oryx_compressor": "stride=2",
    "pitome": "ratio=0.71",
    "tempme": "within=[27]",
}


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


def plan_text(cls: type[Any], keep: float, tokens: int, blocks: int) -> str:
    """A method that leaves about ``keep`` of ``tokens``, as text.

    blocks: of the tower, up to what the LLM reads.
    """
    opts: dict[str, Any] = options(cls)
    if cls.name in PLANS:
        given = PLANS[cls.name]
    elif "keep" in opts:
        given = f"keep={keep}"
    elif "keeps" in opts:
        n = len(opts["keeps"].default)
        given = f"keeps={[round(keep ** ((i + 1) / n), 2) for i in range(n)]}"
    elif "r" in opts:
        given = f"r={int((1 - keep) * tokens / blocks)}"
    else:
        given = ""
    return f"{cls.name}({given})"


def cells(loaded: Loaded, subject: Subject, keep: float) -> list[Cell]:
    """What every method of the three stages keeps of a picture."""
    question = {"type": "text", "text": subject.question}
    prompt = loaded.prompt([{"role": "user", "content": [{"type": "image", "image": subject.image}, question]}])
    n = len(prompt.visuals[0].where)
    parts = anatomy(loaded.model)
    out = []
    for name, cls in sorted(own().items(), key=lambda item: (STAGES_ALL.index(item[1].stage), item[0])):
        if cls.stage not in STAGES:
            continue
        plan: str | Plan = plan_text(cls, keep, n, parts.feature_block + 1)
        shown = str(plan).partition("(")[2].removesuffix(")")
        if name == "given":  # its scores are an option: here those of the attribution called "explain"
            plan = Plan.of(Given(keep=keep, scores=tuple(relevance(loaded, prompt, "explain").tolist())))
            shown = f"keep={keep}, scores of explain"
        answer = foveate.ask(subject.image, subject.question, model=loaded, plan=plan, max_new_tokens=1)
        out.append(Cell(name, cls.stage, shown, *ended(answer)))
    return out


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
            f"{model}: {total} visual tokens. Each method was asked for about {keep:.0%} of them where it has an "
            "option for that; the line below a cell says how many there are at the end, and the options. Methods that "
            "act in several places are shown after the last.",
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
    for subject in subjects(168):
        drawn = sheet(subject, cells(loaded, subject, args.keep), loaded.name, args.keep)
        path = args.out / f"gallery_{subject.name}.png"
        # a palette is a third of the size, and nobody sees it at this scale
        drawn.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
        print(path)


if __name__ == "__main__":
    main()
