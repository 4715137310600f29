"""Models of 7 and 8 billion weights on a GPU: the full model, a plan, and the oracle that is given as many tokens.

Every cell is one number of visual tokens in one number of rows: time to first token, tokens a second after it, and
peak memory of each of the three. The oracle is the full model on the prompt with only as many visual tokens, whichever
they are: what a selection that costs nothing would give. Cells go from cheap to dear; one that is not expected to end
in the time that is left, or whose memory does not suffice, is left out and says so.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ..apply import apply
from ..errors import InputError, UnsupportedCallError
from ..memory import is_memory
from ..spec import Plan
from .gpu_shapes import SIZED, Sized
from .results import commit, goal, save
from .shapes import VIDEO

SIZES, ROWS = (2048, 8192, 16384, 32768, 65536), (1, 4, 16)
SIDES = ("full", "plan", "oracle")
SHARE = 0.97  # of the oracle's speed, at least
ROOM = 1.15  # times the weights that must be free for a model to be tried


def add(what: Any) -> None:
    """The command's options."""
    one = what.add_parser("gpu", help="models of 7B and 8B on a GPU, 2k to 64k visual tokens, 1 to 16 rows")
    one.add_argument("--out", type=Path, default=Path("results/gpu.json"))
    one.add_argument("--device", default="cuda")
    one.add_argument("--shape", choices=["full", "tiny"], default="full", help="tiny: a dry run, also on a CPU")
    one.add_argument("--models", nargs="+", choices=list(SIZED), default=list(SIZED))
    one.add_argument("--plan", default="foveal(keep=0.25)", help="with a method of stage inputs")
    one.add_argument("--sizes", type=int, nargs="+", help="visual tokens of a row, about")
    one.add_argument("--rows", type=int, nargs="+", help="of a batch")
    one.add_argument("--new-tokens", type=int, default=16)
    one.add_argument("--repeats", type=int, default=3, help="of a cell, at most")
    one.add_argument("--minutes", type=float, default=9.0, help="of the whole command, at most")


def main(args: argparse.Namespace) -> None:
    """Run the study and write its results."""
    commit()  # what is measured is what was checked out now
    until = time.monotonic() + 60 * args.minutes
    device = torch.device(args.device)
    tiny = args.shape == "tiny"
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device; for a dry run: --shape tiny --device cpu")
    if device.type != "cuda" and not tiny:
        raise InputError(f"models of this size want a GPU. Got --device {args.device}; for a dry run: --shape tiny")
    if not Plan.of(args.plan).at("inputs"):
        raise InputError(f"the plan needs a method of stage inputs, to know what the oracle keeps. Got {args.plan!r}.")
    if args.new_tokens < 2:
        raise InputError(f"--new-tokens must be at least 2, or no token comes after the first. Got {args.new_tokens}.")
    sizes, rows = args.sizes or ((256, 512) if tiny else SIZES), args.rows or ((1, 2) if tiny else ROWS)
    found: list[dict[str, Any]] = []
    for i, name in enumerate(args.models):
        left = (until - time.monotonic()) / (len(args.models) - i)
        found += study(name, device, tiny, cells(sizes, rows), time.monotonic() + left, args)
        took = args.minutes * 60 - (until - time.monotonic())
        more = {"plan": args.plan, "shape": args.shape, "seconds": took, "new_tokens": args.new_tokens}
        save(args.out, 0, found, verdicts(found, took, 60 * args.minutes), dtype="bfloat16", **more)
    print(f"wrote {args.out}")


def cells(sizes: Any, rows: Any) -> list[tuple[int, int]]:
    """(visual tokens of a row, rows), from cheap to dear."""
    return sorted(((n, b) for n in sizes for b in rows), key=lambda c: (c[0] * c[1], c[0]))


def expected(last: tuple[int, int, float], cell: tuple[int, int]) -> float:
    """Seconds of a cell after one that took so long: as its tokens, and as their square where rows are longer."""
    n, b, seconds = last
    return seconds * (cell[0] * cell[1]) / (n * b) * max(1.0, cell[0] / n)


def study(
    name: str, device: torch.device, tiny: bool, todo: list[tuple[int, int]], until: float, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """All cells of one model: what was measured, or why it was not."""
    tidy(device)  # of the model before, whose memory counts as taken until it is given back
    why = no_room(name, device, tiny)
    if why is None and until <= time.monotonic():
        why = "no time was left"
    sized = None if why is not None else SIZED[name](device, tiny)
    out: list[dict[str, Any]] = []
    last: tuple[int, int, float] | None = None
    without: dict[str, int] = {}  # side -> tokens in all rows for which its memory did not suffice
    for n, b in todo:
        row: dict[str, Any] = {"model": name, "tokens": n, "rows": b}
        out.append(row)
        left = until - time.monotonic()
        if sized is None or why is not None:
            row["skipped"] = why
        elif last is not None and expected(last, (n, b)) > left:
            row["skipped"] = f"expected to take {expected(last, (n, b)):.0f} s, and {max(0, left):.0f} s were left"
        elif last is None and left <= 0:
            row["skipped"] = "no time was left"
        else:
            warm = last is None
            each = 0.0 if last is None else expected(last, (n, b))
            repeats = args.repeats if each == 0 else max(1, min(args.repeats, int(0.3 * left / each)))
            seconds = cell(sized, device, row, args, repeats, warm, without)
            last = (n, b, seconds) if seconds > 0 else last
        print(f"  {name}, {n} tokens x {b}: {told(row)}", flush=True)
    return out


def no_room(name: str, device: torch.device, tiny: bool) -> str | None:
    """Why the weights cannot lie on the device, or None."""
    if device.type != "cuda":
        return None
    weights = sum(p.numel() for p in SIZED[name](torch.device("meta"), tiny).model.parameters()) * 2
    free = torch.cuda.mem_get_info(device)[0]
    if free > ROOM * weights:
        return None
    return f"its weights are {weights / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"


def cell(
    sized: Sized,
    device: torch.device,
    row: dict[str, Any],
    args: argparse.Namespace,
    repeats: int,
    warm: bool,
    without: dict[str, int],
) -> float:
    """Measure one cell into its row; returns the seconds of one round, 0 where nothing could be measured."""
    total, rounds = row["tokens"] * row["rows"], []
    taken: dict[str, list[Taken]] = {side: [] for side in SIDES}
    row["out_of_memory"] = []
    for repeat in range(-1 if warm else 0, repeats):
        begun = time.monotonic()
        for side in SIDES:
            if total >= without.get(side, total + 1):
                row["out_of_memory"] = sorted({*row["out_of_memory"], side})
                continue
            if side == "oracle" and "kept" not in row:
                continue
            try:
                got = run(sized, device, side, row, args)
            except (RuntimeError, MemoryError) as error:
                if not is_memory(error):
                    raise
                got = None
            if got is None:  # only now, when the error holds no tensors any more
                without[side] = total
                tidy(device)
            elif repeat >= 0:
                taken[side].append(got)
        rounds.append(time.monotonic() - begun)
    for side, found in taken.items():
        row[side] = None if not found else summed(found)
    full, plan, oracle = (taken[side] for side in SIDES)
    if full and plan:
        row["speedup"] = median(f.first / p.first for f, p in zip(full, plan))
        row["decoding_speedup"] = median(p.rate / f.rate for f, p in zip(full, plan))
        if row["full"]["peak_bytes"]:
            row["peak_share"] = row["plan"]["peak_bytes"] / row["full"]["peak_bytes"]
    if oracle and plan:
        row["share_of_oracle"] = median(o.first / p.first for o, p in zip(oracle, plan))
    return min(rounds) if any(taken.values()) else 0.0


class Taken:
    """One run: seconds to the first token, tokens a second after it in all rows, bytes at the peak (None on a CPU)."""

    def __init__(self, first: float, rate: float, peak: int | None) -> None:
        self.first, self.rate, self.peak = first, rate, peak


def summed(found: list[Taken]) -> dict[str, Any]:
    """Medians and every value."""
    peaks = [t.peak for t in found if t.peak is not None]
    return {
        "first_token_s": median(t.first for t in found),
        "tokens_per_s": median(t.rate for t in found),
        "peak_bytes": max(peaks) if peaks else None,
        "runs": [[t.first, t.rate] for t in found],
    }


def run(sized: Sized, device: torch.device, side: str, row: dict[str, Any], args: argparse.Namespace) -> Taken:
    """Answer once, greedily: the full model, with the plan, or the oracle (tower, and then the kept tokens alone)."""
    inputs = sized.inputs(row["tokens"], row["rows"])
    row["visual_tokens"] = int((inputs["input_ids"][0] == VIDEO).sum())
    tidy(device)
    if side == "full":
        return answered(sized, device, lambda: inputs, args.new_tokens, row["rows"])
    if side == "oracle":
        if (state := getattr(sized.model, "model", None)) is not None and hasattr(state, "rope_deltas"):
            state.rope_deltas = None  # of the run before, which had another length

        def shortened() -> dict[str, Tensor]:
            embeds = sized.kept_only(inputs, row["kept"])
            return {"inputs_embeds": embeds, "attention_mask": embeds.new_ones(embeds.shape[:2], dtype=torch.long)}

        return answered(sized, device, shortened, args.new_tokens, row["rows"])
    with apply(sized.model, args.plan) as report:
        out = answered(sized, device, lambda: inputs, args.new_tokens, row["rows"])
    made = next(r for r in report.ordered() if r.stage == "inputs")
    row["kept"], ragged = divmod(made.tokens_out, row["rows"])
    if ragged:
        raise UnsupportedCallError(f"{args.plan!r} keeps other numbers of tokens in each row; the oracle wants one")
    row["kv_bytes"], row["kv_bytes_full"] = report.kv_bytes, report.kv_bytes_full
    row["selection_ms"] = sum(r["ms"] for r in report.as_dict()["sites"])
    return out


def answered(sized: Sized, device: torch.device, inputs: Callable[[], dict[str, Tensor]], new: int, rows: int) -> Taken:
    """Time ``generate``, with what makes its inputs."""
    cuda = device.type == "cuda"
    times: list[float] = []

    def note(ids: Tensor, scores: Tensor) -> Tensor:
        """A logits processor: called with what the model says of every new token."""
        if cuda:
            torch.cuda.synchronize(device)
        times.append(time.perf_counter())
        return scores

    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    begun = time.perf_counter()
    with torch.no_grad():
        sized.model.generate(
            **inputs(), max_new_tokens=new, do_sample=False, num_beams=1, logits_processor=[note], pad_token_id=0
        )
    peak = int(torch.cuda.max_memory_allocated(device)) if cuda else None
    return Taken(times[0] - begun, rows * (len(times) - 1) / (times[-1] - times[0]), peak)


def tidy(device: torch.device) -> None:
    """Give back what nothing refers to any more, so that runs do not pay for each other."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def told(row: dict[str, Any]) -> str:
    """A row in one line."""
    if "skipped" in row:
        return f"left out: {row['skipped']}"
    parts = [f"{s} {row[s]['first_token_s']:.3f} s" if row[s] else f"{s} out of memory" for s in SIDES if s in row]
    share = f", {row['share_of_oracle']:.3f} of the oracle" if "share_of_oracle" in row else ""
    return ", ".join(parts) + share


def verdicts(rows: list[dict[str, Any]], seconds: float, most: float) -> list[dict[str, Any]]:
    """The goals of this study, those of one model together: the worst cell stands for all."""
    out = [goal("seconds that the whole command took", seconds, most, seconds <= most)]
    for name in dict.fromkeys(r["model"] for r in rows):
        mine = [r for r in rows if r["model"] == name]
        some = sum("skipped" not in r for r in mine)
        out.append(goal(f"cells measured of {len(mine)}, {name}", some, 1, some >= 1))
        for key, text, bar, above in (
            ("share_of_oracle", "time to first token: share of the oracle's speed, the worst cell", SHARE, True),
            ("speedup", "time to first token: full model over plan, the worst cell", 1.0, True),
            ("decoding_speedup", "tokens a second: plan over full model, the worst cell", 1.0, True),
            ("peak_share", "peak memory: plan over full model, the worst cell", 1.0, False),
        ):
            values = [r[key] for r in mine if key in r]
            if values:
                worst = min(values) if above else max(values)
                out.append(goal(f"{text}, {name}", worst, bar, worst >= bar if above else worst <= bar))
    return out
