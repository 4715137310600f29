"""What deciding costs: every method of the encoder, the inputs and the layers alone, next to the prefill it shortens.

A figure is the median time of one ``reduce`` and of applying the map to the features, at the method's defaults, on
made-up signals of the shapes that models give. The prefill is that of the 0.5 B decoder in bfloat16, without a vision
tower, which makes the share stricter. A method that acts in several layers pays once for each, on fewer tokens every
time; ``calls`` says how many there are in 24 layers, and what is timed is the first. Methods that read the grid, or
whose paper is about video, are also timed on a longer clip of coarser frames.

Times are processor times of one thread, which a busy machine leaves as they are; the time on the wall stands beside
them. On more threads a method whose steps wait for each other gains less than the prefill, so its share grows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ..spec import get, names
from ..tokens import Tokens
from .filmic import of_video
from .results import commit, goal, save
from .shapes import PROMPT, TEXT, qwen2_5_vl

STAGES = ("encoder", "inputs", "layers")
#: Visual tokens: one image, five crops of one, 32 and 128 frames of a clip; each with the side of one view.
SIZES = {576: 24, 2880: 24, 6272: 14, 8192: 8}
CLIPS = (6272, 8192)  # what methods are held to
LONG = 8192  # asked of methods that know of frames only
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYERS, WIDTH, HEADS, GROUPS, HEAD = 24, 1024, 16, 2, 64
BEFORE, AFTER = 16, 48  # text tokens around the visual ones in the LLM
BAR = 0.02
#: Seconds after which a method at one size gets no further repeat.
CAP = 1.5


def features(n: int, side: int, g: torch.Generator, width: int = WIDTH) -> Tensor:
    """Views of one scene: cells are alike where they show the same object, and from view to view. (1, n, width)."""
    cells = side * side
    objects = torch.randn(cells // 9 + 1, width, generator=g)
    scene = objects[torch.randint(len(objects), (cells,), generator=g)] + 0.3 * torch.randn(cells, width, generator=g)
    return (scene.repeat(n // cells, 1) + 0.5 * torch.randn(n, width, generator=g))[None]


def signal(name: str, n: int, side: int, g: torch.Generator) -> Tensor:
    """A signal of n tokens, (1, ..., n, ...) as :data:`foveate.tokens.SIGNALS` describes it."""
    cell = torch.arange(n)
    view = cell // (side * side)
    if name == "grid":
        return torch.stack([view, cell // side % side, cell % side], -1)[None]
    if name in ("crop", "times"):
        return (view if name == "crop" else view.float())[None]
    if name == "pixels":
        return torch.randint(256, (1, n, 3, 14, 14), generator=g).float()
    if name == "size":
        return torch.randint(1, 4, (1, n), generator=g).float()
    if name in ("metric", "keys", "image_embeds"):
        return features(n, side, g, {"metric": HEAD, "keys": WIDTH, "image_embeds": 768}[name])
    free = {"text": (1, AFTER, WIDTH), "text_embeds": (1, 2, 768), "cls_logits": (1, n)}
    if name in free:
        return torch.randn(free[name], generator=g)
    shapes = {
        **dict.fromkeys(("received_attention", "wide_attention"), (1, n)),
        **dict.fromkeys(("cls_layers", "received_layers"), (1, LAYERS, n)),
        "transitions": (1, 2 * LAYERS, n),
        **dict.fromkeys(("cls_attention", "last_attention", "next_attention"), (1, HEADS, n)),
    }
    return (2 * torch.randn(shapes[name], generator=g)).softmax(-1)


def heads(n: int, encoder: bool, g: torch.Generator) -> dict[str, Tensor]:
    """Queries and keys of the n tokens alone, or of an LLM's whole sequence around them."""
    length = n if encoder else BEFORE + n + AFTER
    q = torch.randn(1, HEADS, length, HEAD, generator=g) * HEAD**-0.5
    out = {"q": q, "k": torch.randn(1, HEADS if encoder else GROUPS, length, HEAD, generator=g)}
    out["where"] = torch.arange(n)[None] + (0 if encoder else BEFORE)
    return out if encoder else {**out, "asks": torch.arange(BEFORE + n, length)[None]}


def tokens(cls: type[Any], n: int, side: int, dtype: torch.dtype) -> Tokens:
    """What a method of this class needs, the first of its alternatives; in an encoder a class token comes first."""
    g = torch.Generator().manual_seed(n)
    p = int(cls.stage == "encoder")
    given: dict[str, Tensor] = {"x": features(n, side, g)}
    for name in (need.split("|")[0] for need in cls.card.needs):
        if name in ("last_heads", "next_heads"):
            given |= heads(n + p, bool(p), g)
        elif name != "features":
            given[name] = signal(name, n, side, g)
    for name in set(given) - {"q", "k", "where", "asks"} if p else ():
        axis = 1 if given[name].shape[1] == n else 2
        given[name] = torch.cat([given[name].narrow(axis, 0, 1), given[name]], axis)
    cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in given.items()}
    layer = next(iter(cls().at(LAYERS)), 0) if hasattr(cls, "at") else 0
    return Tokens(**cast, prefix=p, full=n + p, layer=layer, layers=LAYERS)


def seconds(run: Callable[[], Any], repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of ``run()``, of the processor and on the wall; the first run warms up.

    As many repeats as fit under :data:`CAP`; where the first run takes longer than that, it is the only one.
    """
    busy: list[float] = []
    wall: list[float] = []
    for repeat in range(repeats + 1):
        before = time.process_time(), time.perf_counter()
        run()
        took = time.process_time() - before[0], time.perf_counter() - before[1]
        if repeat or took[0] > CAP:
            busy.append(took[0])
            wall.append(took[1])
        if sum(busy) > CAP or sum(wall) > 2 * CAP:
            break
    return busy, wall


def prefills(sizes: Iterable[int], small: bool) -> dict[int, float]:
    """Seconds up to the first token's logits of n visual and :data:`PROMPT` text tokens in bfloat16, by n."""
    case = qwen2_5_vl(torch.bfloat16, small=small)
    out = {}
    for n in sorted(sizes):
        width = 64 if small else TEXT["hidden_size"]
        embeds = torch.randn(1, n + PROMPT, width, generator=torch.Generator().manual_seed(n)).bfloat16()
        busy, wall = seconds(partial(case.model, inputs_embeds=embeds, logits_to_keep=1, use_cache=True), 3)
        out[n] = median(busy)
        print(f"prefill of {n} tokens: {out[n]:.2f} s ({median(wall):.2f} on the wall)", flush=True)
    return out


def study(out: Path, sizes: list[int], repeats: int, only: list[str], small: bool) -> None:
    """Prefills, then every method at every size and dtype, largest first; written after each round of all methods."""
    commit()  # what is measured is what was checked out now
    torch.set_num_threads(1)
    classes = [c for c in map(get, names()) if c.stage in STAGES and (not only or c.name in only)]
    classes.sort(key=lambda c: (STAGES.index(c.stage), c.name))
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        whole = prefills(sizes, small)
        more = {"prefill_s": whole, "layers": LAYERS, "width": WIDTH}
        for n in sorted(sizes, reverse=True):
            for kind in DTYPES:
                rows += [measure(cls, n, kind, whole[n], repeats) for cls in classes if n != LONG or filmic(cls)]
                save(out, 0, rows, verdicts(rows), **more)


def filmic(cls: type[Any]) -> bool:
    """Whether a method reads the grid of tokens, or is about video."""
    return any("grid" in need.split("|") for need in cls.card.needs) or of_video(cls)


def shape(n: int) -> str:
    """Views and tokens of each, as rows are marked."""
    return f"{n // SIZES[n] ** 2} x {SIZES[n] ** 2}"


def measure(cls: type[Any], n: int, kind: str, whole: float, repeats: int) -> dict[str, Any]:
    """One method at one size and dtype, against the seconds of the prefill."""
    method, data = cls(), tokens(cls, n, SIZES[n], DTYPES[kind])
    kept: list[int] = []
    busy, wall = seconds(lambda: kept.append(method.reduce(data)(data.x).shape[1]), repeats)
    row = {"method": cls.name, "stage": cls.stage, "n": data.n, "kept": kept[0], "dtype": kind}
    row["calls"] = len(method.at(LAYERS)) if hasattr(cls, "at") else 1
    row |= {"size": n, "shape": shape(n), "runs": len(busy), "ms": 1e3 * median(busy), "wall_ms": 1e3 * median(wall)}
    row["share"] = median(busy) / whole
    shown = f"{row['ms']:8.1f} ms ({row['wall_ms']:.1f} on the wall) {100 * row['share']:6.2f}%"
    print(f"  {cls.stage:8s} {cls.name:24s} {shape(n):>8s} {kind:9s} {shown}", flush=True)
    return row


def verdicts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One goal for each method and length of clip, or at the largest size where no clip was timed, in bfloat16."""
    sizes = {r["size"] for r in rows}
    held = sizes & set(CLIPS) or {max(sizes)}
    out = []
    for r in rows:
        if r["size"] in held and r["dtype"] == "bfloat16":
            text = f"one decision as a share of the prefill, on one core ({r['method']}, {r['shape']} tokens, bfloat16)"
            out.append(goal(text, r["share"], BAR, r["share"] <= BAR))
    return out


def plot(path: Path) -> None:
    """Share of the prefill of each method, at the largest size that all have and on long clips, on a log scale."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    sizes = {r["size"] for r in rows}
    largest = max(sizes - {LONG} or sizes)
    rows.sort(key=lambda r: (STAGES.index(r["stage"]), r["share"]))
    order = list(dict.fromkeys(f"{r['stage']}: {r['method']}" for r in rows if r["size"] == largest))
    drawn = [(largest, kind, mark) for kind, mark in zip(DTYPES, "o.")]
    drawn += [(LONG, "bfloat16", "x")] if LONG in sizes - {largest} else []
    figure, axis = plt.subplots(figsize=(7, 0.6 + 0.17 * len(order)))
    for size, kind, mark in drawn:
        mine = [r for r in rows if (r["size"], r["dtype"]) == (size, kind)]
        at = [order.index(f"{r['stage']}: {r['method']}") for r in mine]
        look = {"label": f"{shape(size)}, {kind}", "fillstyle": "none" if mark == "o" else "full", "ms": 5}
        axis.plot([100 * r["share"] for r in mine], at, mark, **look)
    axis.axvline(100 * BAR, color="0.5", lw=0.8)
    axis.set_xscale("log")
    axis.set_yticks(range(len(order)), order, fontsize=7)
    axis.set_ylim(len(order) - 0.5, -0.5)
    axis.grid(axis="y", color="0.92")
    axis.set_axisbelow(True)
    axis.set_xlabel(f"one decision, % of the prefill of as many tokens, on one core (line: {100 * BAR:g}%)")
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path.with_suffix(".png"), dpi=120)
