"""PruneVid: a whole clip before the LLM, or the selection inside it, group by group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.inputs.prunevid import PruneVid
from foveate.layers.prunevid_prune import PruneVidPrune


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return _clip(params, given["features"]) if "features" in given else _inside(params, given)


def _clip(params: Mapping[str, Any], x: Tensor) -> dict[str, Tensor]:
    """The code lists the still tokens of each scene, then those of each frame, clusters by strength."""
    f, p, _ = x.shape
    cell = torch.arange(f * p)
    frame, place = cell // p, cell % p
    method = PruneVid(
        tau=float(params["tau"]),
        scenes=float(params["temporal_segment_ratio"]),
        clusters=float(params["cluster_ratio"]),
        near=int(params["knn"]),
    )
    parts = method.parts(x.flatten(0, 1), torch.stack([frame, 0 * place, place], -1))
    keep = parts.map.keep[0]
    scene, moving = parts.segment[frame[keep]], ~parts.still[keep]
    key = ((scene * 2 + moving) * f + frame[keep] * moving) * p + parts.rank[keep]
    count = int(parts.segment[-1]) + 1
    return {
        "tokens": parts.map(x.flatten(0, 1)[None])[0, key.argsort()],
        "static_sizes": scene[~moving].bincount(minlength=count),
        "dynamic_sizes": scene[moving].bincount(minlength=count),
        "window_sizes": parts.segment.bincount(minlength=count),
        "frame_clusters": parts.label,
    }


def _inside(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Groups are the still tokens of a scene and the others of each of its frames; the code lists the best first."""
    sizes = []
    for still, moving, frames in zip(*(given[f"{k}_sizes"].tolist() for k in ("static", "dynamic", "window"))):
        sizes += [still] + [moving // frames] * frames
    group = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))[None]
    method = PruneVidPrune(keep=float(params["alpha"]), variant="code")
    score = method.score(given["attention"][None])
    keep = method.chosen(score, group)[0].nonzero()[:, 0]
    best = keep[score[0, keep].argsort(stable=True, descending=True)]
    return {"keep": keep, "order": best[group[0, best].argsort(stable=True)]}
