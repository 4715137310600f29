"""What a run leaves to read: its history as JSON, its curves as a picture, and the card of the model."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

Records = Sequence[dict[str, Any]]


def write_log(path: Path, data: dict[str, Any]) -> None:
    """JSON with a line for each record of the history."""
    lines = ",\n    ".join(json.dumps(r) for r in data["history"])
    rest = json.dumps({k: v for k, v in data.items() if k != "history"}, indent=2)
    path.write_text(f'{rest[:-2]},\n  "history": [\n    {lines}\n  ]\n}}\n', encoding="utf-8")


def draw_curves(path: Path, history: Records) -> None:
    """Loss and what is right, for each stage, over the pictures seen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stages = [s for s in ("dense", "joint") if any(r["stage"] == s for r in history)]
    figure = Figure(figsize=(6.4 * max(1, len(stages)), 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, max(1, len(stages)), squeeze=False)
    for column, stage in enumerate(stages):
        of = [r for r in history if r["stage"] == stage]
        x = [r["pictures"] for r in of]
        loss, share = axes[0][column], axes[1][column]
        loss.plot(x, [r["loss"] for r in of], lw=1, color="black")
        loss.set(title=f"{stage} stage", ylabel="loss", yscale="log")
        for name in sorted({k for r in of for k in r["right"]}):
            points = [(r["pictures"], r["right"][name]) for r in of if name in r["right"]]
            share.plot(*zip(*points), lw=1, label=name)
        share.set(xlabel="pictures and clips", ylabel="right, while training", ylim=(0, 1))
        share.legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=110)


def compute(device: torch.device) -> str:
    """The machine, in words."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores of a {platform.machine()} CPU"


def card(kind: str, parameters: int, spent: dict[str, dict[str, float]], machine: str, result: dict[str, Any]) -> str:
    """The model card in Markdown. result: of an evaluation, as plain data."""
    what = {
        "image": "LLaVA's architecture: a CLIP-style tower with a class token, a projector of two layers, and a Llama "
        "decoder with grouped-query attention. An image is 144 visual tokens.",
        "video": "Qwen2.5-VL's architecture: images and videos of any size, windowed attention in the tower, merged "
        "groups of 2 x 2 patches and of 2 frames, M-RoPE.",
    }[kind]
    stages = "\n".join(
        f"| {name} | {s['seconds'] / 60:.1f} | {s['steps']:,} | {s['pictures']:,} |" for name, s in spent.items()
    )
    rows = "\n".join(
        f"| {name} | {t['accuracy']:.3f} | {t['low']:.3f} to {t['high']:.3f} | {t['prior']:.3f} | {t['n']} |"
        for name, t in result["tasks"].items()
    )
    drawn = "coloured shapes, letters, signs, bar charts" + (", and clips of them" if kind == "video" else "")
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# lab/{kind}

A model of {parameters / 1e6:.1f} million parameters on which methods that drop, merge or evict tokens can be judged in
minutes on a laptop. {what}

Made by `foveate lab train {kind}`; load it with `foveate.load("lab/{kind}")`, or the Auto classes of transformers.

## Data

Drawn while training, each scene once: {drawn} over drawn
textures, with questions and answers in a closed vocabulary. No photograph, no text of people, no other model's output.
Scenes of the split "test" share neither seeds nor backgrounds with those trained on.

## Compute

{machine}.

| stage | minutes | steps | pictures and clips |
|---|---|---|---|
{stages}

In the dense stage the tower alone learns to tell colour, shape, letter, row and column of every cell, by linear heads
that are dropped later; in the joint stage everything learns to answer.

## Accuracy

{result["n"]} items of the split "test", seed {result["seed"]}, difficulty {result["difficulty"]}, with 95% intervals;
"prior" is what always giving the most frequent answer would reach. All together: {result["accuracy"]:.3f}.

| task | accuracy | 95% interval | prior | items |
|---|---|---|---|---|
{rows}

## Limits

It knows the lab's questions and words and nothing else: other wordings, photographs of real things and free text are
beyond it. Use it to compare methods with each other and with the full model, not to answer questions about the world.
"""
