"""Time to first token: full model, plan, and the oracle that is fed as many tokens without any selection.

Every repeat runs the full model, then each plan next to its oracle, in turned order every other time, so that a drift
of the machine hits all alike; figures are medians of ratios taken within a repeat.
"""

from __future__ import annotations

import gc
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ..apply import apply
from ..parts.budget import budget
from ..spec import Plan
from .results import commit, goal, save
from .shapes import PROMPT, SHAPES, VIDEO, Case

KEEPS = (0.5, 0.25, 0.1)
#: Plans whose cache is weighed after prefill.
HELD = (
    "snapkv(keep=0.3)",
    "streaming_llm(keep=0.2)",
    "fastv(layer=2, keep=0.5)",
    "pyramiddrop",
    "divprune(keep=0.25) + snapkv(keep=0.3)",
)


def timed(run: Any) -> tuple[float, Any]:
    """Wall seconds of ``run()`` and what it returned."""
    gc.collect()
    start = time.perf_counter()
    out = run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, out


def first_token(case: Case, inputs: dict[str, Any]) -> Any:
    """One prefill up to the logits of the first new token."""
    return case.model(**inputs, logits_to_keep=1).logits.argmax(-1)


def oracle(case: Case, inputs: dict[str, Any], m: int) -> Any:
    """The same tower, then the bare decoder on a prompt with m visual tokens: what a free selection would give."""
    features = case.video_features(inputs)[:m]
    embeds = case.oracle_inputs(inputs, features)
    return case.model(inputs_embeds=embeds, logits_to_keep=1, use_cache=True).logits.argmax(-1)


def measure(
    case: Case,
    name: str,
    n: int,
    plans: dict[float, str],
    repeats: int,
    rows: list[dict[str, Any]],
    guard: bool = False,
) -> None:
    """Fill ``rows`` with one entry for each keep ratio."""
    inputs = case.inputs(n)
    visual = int((inputs["input_ids"] == VIDEO).sum())
    full: list[float] = []
    cells: dict[float, dict[str, Any]] = {
        k: {"model": name, "plan": p, "guard": guard, "visual_tokens": visual, "keep": k} for k, p in plans.items()
    }
    for cell in cells.values():
        cell.update({"full_s": full, "plan_s": [], "oracle_s": [], "select_ms": []})
    for repeat in range(-1, repeats):  # the first round warms up
        seconds, _ = timed(lambda: first_token(case, inputs))
        full += [seconds] * (repeat >= 0)
        for keep, cell in cells.items():
            m = budget(keep, visual)
            turned = not guard and repeat % 2 == 1  # every other round the oracle goes first
            free = timed(lambda m=m: oracle(case, inputs, m))[0] if turned else 0.0
            with apply(case.model, cell["plan"], guard=guard) as report:
                took, _ = timed(lambda: first_token(case, inputs))
            if report.declined:
                cell["declined"], m = report.declined[0], visual
            if not turned:
                free, _ = timed(lambda m=m: oracle(case, inputs, m))
            if repeat < 0:
                continue
            cell["plan_s"].append(took)
            cell["oracle_s"].append(free)
            cell["select_ms"].append(sum(r["ms"] for r in report.as_dict()["sites"]))
            cell["kv_bytes"], cell["kv_bytes_full"] = report.kv_bytes, report.kv_bytes_full
            per_token = report.kv_bytes_full / (visual + PROMPT)
            cell["kv_bytes_asked"] = round(per_token * (m + PROMPT))
            cell["flops"], cell["flops_full"] = report.flops, report.flops_full
        print(f"  {name} {visual} tokens, round {repeat + 1}/{repeats}: full {seconds:.2f} s", flush=True)
    for cell in cells.values():
        cell["full_s"] = list(full)
        cell["speedup"] = median(f / t for f, t in zip(full, cell["plan_s"]))
        cell["oracle_speedup"] = median(f / t for f, t in zip(full, cell["oracle_s"]))
        cell["share_of_oracle"] = median(o / t for o, t in zip(cell["oracle_s"], cell["plan_s"]))
        cell["select_share"] = median(s / 1e3 / f for s, f in zip(cell["select_ms"], full))
        rows.append(cell)
        shown = f"x{cell['speedup']:.2f}, oracle x{cell['oracle_speedup']:.2f}, share {cell['share_of_oracle']:.3f}"
        print(f"    keep {cell['keep']}: {shown}, selection {100 * cell['select_share']:.2f}%", flush=True)


def study(out: Path, method: str, sizes: tuple[int, ...], repeats: int, small: bool) -> None:
    """The whole study, written after every size so that an interruption loses little."""
    commit()  # what is measured is what was checked out now
    rows: list[dict[str, Any]] = []
    kept: list[dict[str, Any]] = []
    dtype = torch.bfloat16
    with torch.no_grad():
        for name, make in SHAPES.items():
            case = make(dtype, small=small)
            for n in sizes:
                measure(case, name, n, {k: f"{method}(keep={k})" for k in KEEPS}, repeats, rows)
                save(out, 0, rows, verdicts(rows, max(sizes), kept), dtype="bfloat16", method=method, held=kept)
            held(case, name, min(sizes), HELD, kept)
            measure(case, name, 256, {0.9: f"{method}(keep=0.9)"}, max(5, repeats), rows, guard=True)
            save(out, 0, rows, verdicts(rows, max(sizes), kept), dtype="bfloat16", method=method, held=kept)
            del case


def held(case: Case, name: str, n: int, plans: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    """Bytes that the cache's storages hold after prefill, against what the plan's budgets ask for."""
    inputs = case.inputs(n)
    visual = int((inputs["input_ids"] == VIDEO).sum())
    for plan in plans:
        with apply(case.model, plan):
            cache = case.model(**inputs, logits_to_keep=1).past_key_values
        tensors = [t for layer in cache.layers for t in (layer.keys, layer.values)]
        got = sum(t.untyped_storage().nbytes() for t in tensors)
        each = sum(t.shape[1] * t.shape[3] * t.element_size() for t in tensors) / len(cache.layers)
        want = round(each * sum(asked(plan, visual, PROMPT, len(cache.layers))))
        rows.append({"model": name, "plan": plan, "visual_tokens": visual, "kv_bytes": got, "kv_bytes_asked": want})
        print(f"    {name}, {plan}: {got:,} bytes held, {want:,} asked", flush=True)


def asked(plan: str, visual: int, text: int, layers: int) -> list[float]:
    """Entries that each layer should hold after prefill, from the budgets written in the plan."""
    lengths = [float(visual)] * layers
    share = 1.0
    for m in Plan.of(plan):
        if m.stage == "inputs":
            lengths = [float(budget(m.keep, visual))] * layers
        elif m.stage == "layers":
            keeps = getattr(m, "keeps", None) or (m.keep,)
            for at, keep in zip(m.at(layers), keeps):
                lengths[at:] = [lengths[0] * keep] * (layers - at)
        elif m.stage == "cache":
            share *= m.keep
    return [share * (n + text) for n in lengths]


def verdicts(rows: list[dict[str, Any]], largest: int, kept: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The goals of this study."""
    out = []
    plain = [r for r in rows if not r["guard"]]
    for r in plain:
        where = f"{r['model']}, {r['visual_tokens']} visual tokens, {r['plan']}"
        share = r["share_of_oracle"]
        out.append(goal(f"time to first token: share of the oracle's speed-up ({where})", share, 0.97, share >= 0.97))
        if r["visual_tokens"] > 0.9 * largest:
            part = r["select_share"]
            out.append(goal(f"selection as a share of the full prefill ({where})", part, 0.02, part <= 0.02))
    for r in [*plain, *kept]:
        where = f"{r['model']}, {r['visual_tokens']} visual tokens, {r['plan']}"
        off = abs(r["kv_bytes"] / r["kv_bytes_asked"] - 1)
        out.append(goal(f"KV bytes held against asked, relative difference ({where})", off, 0.02, off <= 0.02))
    for r in rows:
        if r["guard"]:
            where = f"{r['model']}, {r['visual_tokens']} visual tokens, {r['plan']}, guard on"
            text = f"not slower than the full model, 2% of noise allowed ({where})"
            out.append(goal(text, r["speedup"], 0.98, r["speedup"] >= 0.98))
    return out


def plot(path: Path) -> None:
    """Speed-up against keep ratio, with the oracle, one panel for each model and size."""
    import json

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [r for r in json.loads(path.read_text(encoding="utf-8"))["rows"] if not r["guard"]]
    panels = sorted({(r["model"], r["visual_tokens"]) for r in rows})
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 3.2), sharey=True, squeeze=False)
    for axis, (model, n) in zip(axes[0], panels):
        mine = [r for r in rows if (r["model"], r["visual_tokens"]) == (model, n)]
        x = range(len(mine))
        axis.bar([i - 0.2 for i in x], [r["speedup"] for r in mine], 0.4, label="foveate")
        axis.bar([i + 0.2 for i in x], [r["oracle_speedup"] for r in mine], 0.4, label="oracle", color="0.75")
        axis.axhline(1, color="0.5", lw=0.8)
        axis.set_xticks(list(x), [f"keep {r['keep']}" for r in mine])
        axis.set_title(f"{model}, {n:,} tokens", fontsize=9)
    axes[0][0].set_ylabel("time to first token: speed-up")
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path.with_suffix(".png"), dpi=120)
