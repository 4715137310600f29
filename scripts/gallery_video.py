"""Draw what every video method keeps of a clip of the lab: ``make gallery`` writes gallery_video.png with the others.

One strip a method, by stage and name, a picture for each slice of time: dropped tokens are darkened, tokens that became
one are tinted alike. Every method is asked for about the same share of the tokens, by whatever option it has for that.
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

from gallery import STAGES
from page_parts import own
from pages import ABOUT, ROOT

import foveate
from foveate import show
from foveate.bench.filmic import of_video
from foveate.bench.plans import plan_for
from foveate.drawing import slots
from foveate.errors import FoveateError
from foveate.grid import cell
from foveate.lab.tasks import Item, generate
from foveate.load import Loaded
from foveate.prompt import Prompt

COLUMNS, SIDE, GAP = 2, 84, 4  # strips in a line, pixels of a picture's side, and between pictures
HEAD, WORDS = 46, 36  # pixels that a stage's name takes, and the words above a strip


@dataclass(frozen=True)
class Strip:
    """What one method did: kept (t, rows, cols) bool, and part: the token that each went to, -1 where dropped."""

    name: str
    stage: str
    plan: str
    kept: Tensor
    part: Tensor


def clip(size: int, frames: int = 16) -> Item:
    """A clip in which a shape changes its colour, so that something stays and something does not."""
    return generate("state", 3, 1, size=size, frames=frames)[0]


def strips(loaded: Loaded, item: Item, keep: float) -> tuple[list[Strip], list[str]]:
    """What every video method that runs on the model keeps of a clip; and the names of those that do not run."""
    prompt = loaded.prompt(item.messages)
    n = len(prompt.visuals[0].where)
    out, missing = [], []
    for name, cls in sorted(own().items(), key=lambda pair: pair[0]):
        if cls.stage not in STAGES or not of_video(cls):
            continue
        if cell(loaded.model, cls) is not None:
            missing.append(name)
            continue
        try:
            chosen = plan_for(cls, keep, n, lambda m: float(_ended(loaded, prompt, m)[0].float().mean()))
            given = str(chosen).partition("(")[2].removesuffix(")")
            out.append(Strip(name, cls.stage, given, *_ended(loaded, prompt, chosen)))
        except FoveateError:
            missing.append(name)
    return sorted(out, key=lambda s: STAGES.index(s.stage)), missing


@torch.inference_mode()
def _ended(loaded: Loaded, prompt: Prompt, plan: Any) -> tuple[Tensor, Tensor]:
    """Of a prompt with one clip: kept and part (t, rows, cols)."""
    (visual,) = prompt.visuals
    if visual.grid is None:
        raise SystemExit("the model's tokens form no grid; choose another model")
    with foveate.apply(loaded.model, plan) as report:
        loaded.model(**prompt.inputs, logits_to_keep=1)
    to = slots(prompt, report.kept, ("inputs", "layers"))[0, visual.where]
    part = torch.where(to >= 0, torch.searchsorted(visual.where, to), -1)
    return (to == visual.where).view(visual.grid), part.view(visual.grid)


# --- the sheet ----------------------------------------------------------------------------------------------------


def sheet(prompt: Prompt, item: Item, found: Sequence[Strip], missing: Sequence[str], about: str) -> Image.Image:
    """All strips under their stages' names, below the clip itself."""
    (visual,) = prompt.visuals
    side = Image.Resampling.LANCZOS
    pictures = [p.convert("RGB").resize((SIDE, SIDE), side) for p in visual.pictures]
    long = len(pictures) * (SIDE + GAP) - GAP
    wide = COLUMNS * (long + show.GAP) - show.GAP
    blocks = [(stage, mine) for stage in STAGES if (mine := [s for s in found if s.stage == stage])]
    lines = sum(-(-len(mine) // COLUMNS) for _, mine in blocks)
    top = show.MARGIN + SIDE + WORDS
    high = top + HEAD * len(blocks) + lines * (SIDE + WORDS + show.GAP) + show.MARGIN
    out = Image.new("RGB", (wide + 2 * show.MARGIN, high), show.PAPER)
    pen = ImageDraw.Draw(out)
    pen.text((show.MARGIN, show.MARGIN), "The clip", show.INK, font=show._font(15))
    _paste(out, pictures, show.MARGIN, show.MARGIN + WORDS - 12)
    _headline(pen, item, found, missing, about, show.MARGIN + long + show.GAP, long)
    y = top
    for stage, mine in blocks:
        title = f"{stage.capitalize()}: {ABOUT[stage]}"
        pen.text((show.MARGIN, y + HEAD - 28), title, show.INK, font=show._font(16))
        y += HEAD
        for i, strip in enumerate(mine):
            x = show.MARGIN + i % COLUMNS * (long + show.GAP)
            _strip(out, pen, strip, pictures, x, y + i // COLUMNS * (SIDE + WORDS + show.GAP), long)
        y += -(-len(mine) // COLUMNS) * (SIDE + WORDS + show.GAP)
    return out


def _headline(
    pen: ImageDraw.ImageDraw, item: Item, found: Sequence[Strip], missing: Sequence[str], about: str, x: int, wide: int
) -> None:
    absent = f" These do not run on this model: {', '.join(missing)}." if missing else ""
    told = (
        (f"What {len(found)} video methods keep of a clip of the lab", 18, show.INK),
        (f"Asked: {item.question}", 14, show.INK),
        (
            f"{about} Dark cells are gone, or in the encoder merged; cells of one colour became one token.{absent}",
            12,
            show.FAINT,
        ),
    )
    y = float(show.MARGIN)
    for words, size, ink in told:
        font = show._font(size)
        for line in show._wrap(words, font, wide):
            pen.text((x, y), line, ink, font=font)
            y += show._height(font) + 4


def _strip(
    out: Image.Image, pen: ImageDraw.ImageDraw, strip: Strip, pictures: Sequence[Image.Image], x: int, y: int, wide: int
) -> None:
    given = f"{int(strip.kept.sum())} of {strip.kept.numel()}: {strip.plan or 'defaults'}"
    pen.text((x, y), strip.name, show.INK, font=show._font(13))
    pen.text((x, y + 17), show._cut(given, show._font(11), wide), show.FAINT, font=show._font(11))
    _paste(out, _drawn(strip, pictures), x, y + WORDS)


def _drawn(strip: Strip, pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """The pictures as one while they are drawn, so that a token has one colour in all of them."""
    row = Image.new("RGB", (len(pictures) * SIDE, SIDE))
    for i, picture in enumerate(pictures):
        row.paste(picture, (i * SIDE, 0))
    kept, part = (torch.cat(list(t), 1) for t in (strip.kept, strip.part))
    merged = bool(((part >= 0) & ~kept).any())
    row = show.draw_kept(row, kept, part if merged else None)
    return [row.crop((i * SIDE, 0, (i + 1) * SIDE, SIDE)) for i in range(len(pictures))]


def _paste(out: Image.Image, pictures: Sequence[Image.Image], x: int, y: int) -> None:
    for i, picture in enumerate(pictures):
        out.paste(picture, (x + i * (SIDE + GAP), y))


def _model(name: str | None) -> foveate.Loaded:
    try:
        return foveate.load(name or "lab/video")
    except foveate.errors.InputError:
        if name is not None:
            raise
        return foveate.load("tiny")


def main() -> None:
    """Command line of the gallery of videos."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", help="whose video tokens form a grid; lab/video where it is trained, else tiny")
    parser.add_argument("--keep", type=float, default=0.1, help="share of the tokens that methods are asked for")
    parser.add_argument("--out", type=Path, default=ROOT / "results", help="folder of the picture")
    args = parser.parse_args()
    loaded, item = _model(args.model), clip(168)
    found, missing = strips(loaded, item, args.keep)
    prompt = loaded.prompt(item.messages)
    about = (
        f"{loaded.name}: {len(prompt.visuals[0].where)} visual tokens, of which each method was asked for about "
        f"{args.keep:.0%} where it has an option for that; the line above a strip says how many there are at the end, "
        f"and the options. {loaded.note}"
    )
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "gallery_video.png"
    drawn = sheet(prompt, item, found, missing, about)
    # a palette is a third of the size, and nobody sees it at this scale
    drawn.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main()
