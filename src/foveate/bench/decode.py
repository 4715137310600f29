"""The study of decoding: whether words stay the same, and tokens a second, by drafter and task, in one run.

Prompts come in blocks; within a block every drafter decodes all of them, one after the other, so that a slow minute of
the machine is shared. A drafter keeps what it learned inside a block.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..apply import apply
from ..errors import InputError
from ..lab.tasks import generate
from ..load import Loaded, load
from ..report import Report
from .grown import grow
from .results import goal, save

#: What decodes, by name: a plan, or arguments of transformers' own generate. "{draft}" is the draft model's path.
PLANS = {
    "prompt_lookup": "prompt_lookup",
    "token_recycling": "token_recycling",
    "aded": "aded",
    "swift": "swift",
    "del_exit": "del_exit",
    "rapid": "rapid",
    "speculative": "speculative(draft='{draft}')",
    "pearl": "pearl(draft='{draft}')",
    "rsd": "rsd(draft='{draft}')",
    "vispec": "vispec(draft='{draft}')",
    "flash_sd": "flash_sd(draft='{draft}')",
}
OWN = {"transformers prompt lookup": {"prompt_lookup_num_tokens": 10}}
BLOCK, FASTER, SLOWER = 20, 1.5, 0.95

_NAMES = (
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Felix",
    "Grace",
    "Henry",
    "Iris",
    "Jack",
    "Kate",
    "Leo",
    "Mia",
    "Noah",
    "Olive",
    "Paul",
    "Rose",
    "Sam",
    "Tess",
    "Will",
)
_THINGS = (
    "ball",
    "boat",
    "book",
    "box",
    "cake",
    "car",
    "cat",
    "cup",
    "dog",
    "doll",
    "drum",
    "fish",
    "hat",
    "key",
    "kite",
    "lamp",
    "leaf",
    "map",
    "pen",
    "ring",
    "rock",
    "shoe",
)
_DEEDS = (
    "found",
    "gave",
    "hid",
    "kept",
    "liked",
    "lost",
    "made",
    "saw",
    "sold",
    "took",
    "wanted",
    "washed",
)


def add(commands: Any) -> None:
    """The command ``decode`` of ``python -m foveate.bench``."""
    one = commands.add_parser("decode", help="identity of words and tokens a second, by drafter and task")
    one.add_argument("--out", type=Path, default=Path("results/decode.json"))
    one.add_argument("--model", required=True, help="a folder, a hub id or a built-in model, as for foveate.load")
    one.add_argument("--draft", default=None, help="a draft model; without one, drafters that need it are left out")
    one.add_argument("--grown", action="store_true", help="the same words at the cost of half a billion parameters")
    one.add_argument("--tasks", nargs="+", choices=["copy", "free", "image"], default=["copy", "free"])
    one.add_argument("--prompts", type=int, default=1000, help="of each task")
    one.add_argument("--new", type=int, default=64, help="tokens of each answer")
    one.add_argument("--only", nargs="+", choices=list(PLANS), default=list(PLANS))
    one.add_argument("--stores", nargs="*", default=[""], help="cache plans to stack each drafter on; '' is none")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--distribution", type=int, default=0, help="draws for the chi-square test of sampling (200000)")


def main(args: argparse.Namespace) -> None:
    """Run the command."""
    rows = study(args)
    goals = [*judged(rows, args.grown), *(_distribution(args.distribution, args.seed) if args.distribution else [])]
    save(args.out, args.seed, rows, goals, model=args.model, grown=args.grown, draft=args.draft, new=args.new)
    for r in rows:
        print(
            f"{r['task']:6s} {r['store']:16s} {r['drafter']:28s} {r['tokens_per_s']:8.1f} tokens/s {r['speedup']:.2f}x "
            f"{r['forwards_per_token']:.2f} forwards a token  {r['same']} of {r['prompts']} the same"
        )
    print(f"wrote {args.out}")


def study(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows by task, cache plan and drafter."""
    loaded = load(args.model)
    if args.grown:
        loaded = replace(loaded, model=grow(loaded.model))
    if args.prompts < 1 or args.new < 2:
        raise InputError(f"'prompts' must be at least 1 and 'new' at least 2. Got {args.prompts} and {args.new}.")
    draft = None if args.draft is None else load(args.draft).model
    plans = {n: PLANS[n] for n in args.only if draft is not None or "{draft}" not in PLANS[n]}
    if not loaded.vision:
        plans = {n: p for n, p in plans.items() if n not in ("vispec", "flash_sd")}
    rows = []
    for task in args.tasks:
        if task == "image" and not loaded.vision:
            raise InputError(f"the task 'image' needs a model that looks at images; {args.model} does not")
        inputs = list(prompts(loaded, task, args.prompts, args.seed))
        for store in args.stores:
            rows += _task(loaded.model, draft, plans, task, store, inputs, args.new)
    return rows


def _task(
    model: Any, draft: Any, plans: dict[str, str], task: str, store: str, inputs: list[dict[str, Tensor]], new: int
) -> list[dict[str, Any]]:
    settings = {"do_sample": False, "max_new_tokens": new} | ({} if task == "image" else {"min_new_tokens": new})
    own: dict[str, dict[str, Any]] = {"plain": {}} | ({} if store else OWN)
    if draft is not None and not store:
        own["transformers assisted"] = {"assistant_model": draft}
    total: dict[str, dict[str, float]] = {
        n: dict.fromkeys(("s", "same", "forwards", "rested"), 0.0) for n in (*own, *plans)
    }
    tokens = 0
    for start in range(0, len(inputs), BLOCK):
        block, want = inputs[start : start + BLOCK], []
        for name, sum_ in total.items():
            plan = _plan(plans[name], draft) if name in plans else []
            whole = [*([store] if store else []), *plan]
            with apply(model, whole) if whole else contextlib.nullcontext(Report()) as report:
                for i, ids in enumerate(block):
                    since = time.perf_counter()
                    out = model.generate(**ids, **settings, **own.get(name, {}))
                    sum_["s"] += time.perf_counter() - since
                    if name == "plain":
                        want.append(out)
                        tokens += out.shape[1] - ids["input_ids"].shape[1]
                    sum_["same"] += torch.equal(out, want[i])
            if plan:
                sum_["forwards"] += report.decode["target_forwards"] + len(block)
                sum_["rested"] += report.decode["rested"]
    return [
        {
            "task": task,
            "store": store,
            "drafter": name,
            "prompts": len(inputs),
            "tokens": tokens,
            "seconds": t["s"],
            "tokens_per_s": tokens / t["s"],
            "speedup": total["plain"]["s"] / t["s"],
            "forwards_per_token": t["forwards"] / tokens if name in plans else (1.0 if name == "plain" else 0.0),
            "rested": t["rested"],
            "same": int(t["same"]),
        }
        for name, t in total.items()
    ]


def _plan(text: str, draft: Any) -> list[Any]:
    """A plan with the loaded draft model in it."""
    from ..spec import get, parse

    if "{draft}" not in text:
        return parse(text)
    return [get(text.split("(")[0])(draft=draft)]


def prompts(loaded: Loaded, task: str, count: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Inputs of generate. copy: a list that begins a second time; free: the start of a story; image: lab scenes."""
    for i in range(count):
        rng = random.Random(f"{seed} {task} {i}")
        if task == "image":
            (item,) = generate(("describe", "attribute")[i % 2], seed * 10**6 + i, 1)
            yield dict(loaded.prompt(item.messages).inputs)
            continue
        lines = [
            f"{rng.choice(_NAMES)} {rng.choice(_DEEDS)} a {rng.choice(_THINGS)}."
            for _ in range(8 if task == "copy" else 2)
        ]
        text = " ".join([*lines, *(lines[:2] if task == "copy" else [f"One day, {rng.choice(_NAMES)}"])])
        made = loaded.builder.tokenizer(text, return_tensors="pt")
        yield {k: made[k].to(loaded.device) for k in ("input_ids", "attention_mask")}


def judged(rows: Sequence[dict[str, Any]], grown: bool = False) -> list[dict[str, Any]]:
    """What each task is held to."""
    out = []
    own = [r for r in rows if r["drafter"] in PLANS]
    for task, store in dict.fromkeys((r["task"], r["store"]) for r in own):
        here = [r for r in own if (r["task"], r["store"]) == (task, store)]
        where = f"{task}, {store or 'full cache'}{', in the shape of half a billion parameters' if grown else ''}"
        different = max(r["prompts"] - r["same"] for r in here)
        out.append(goal(f"prompts whose words changed, of the worst drafter ({where})", different, 0, different == 0))
        best = max(r["speedup"] for r in here)
        out.append(goal(f"best drafter against plain generate ({where})", best, FASTER, best >= FASTER))
        worst = min(r["speedup"] for r in here)
        out.append(goal(f"slowest drafter against plain generate ({where})", worst, SLOWER, worst >= SLOWER))
    return out


def _distribution(draws: int, seed: int) -> list[dict[str, Any]]:
    """Chi-square of two sampled tokens against their exact chances, for every rule that is to keep them."""
    from .decode_draws import RULES, chi_square

    return [
        goal(f"{name}: chi-square of {draws:,} draws, 15 degrees of freedom", value, 44.3, value < 44.3)
        for name in RULES
        for value in [chi_square(name, draws, seed)]
    ]
