"""The server under load: throughput with a plan against the full model, and a long run in which nothing may go wrong.

A server runs in a process of its own. First every concurrency is measured with and without the plan, in turns, nothing
reused; then clients ask mixed questions about images, videos and texts for minutes, and every answer is compared with
the one that was given when nothing else ran.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

from ..errors import InputError
from .clients import TASKS, Client, Process, Question, made
from .results import goal, save

LEVELS = (1, 2, 4, 8, 16, 32)
FLAT, AHEAD = 0.05, 1.5  # memory may differ by so much; throughput for video at 8 must be so many times the full one's


def add(what: Any) -> None:
    """The command's options."""
    one = what.add_parser("serve", help="the server under load, with a plan and without")
    one.add_argument("--out", type=Path, default=Path("results/serve.json"))
    one.add_argument("--model", default="lab/image")
    one.add_argument("--plan", default="foveal(keep=0.25)")
    one.add_argument("--clients", type=int, default=32)
    one.add_argument("--minutes", type=float, default=10.0, help="of the long run")
    one.add_argument("--seconds", type=float, default=20.0, help="of each measurement of throughput")
    one.add_argument("--frames", type=int, default=16, help="of each video")
    one.add_argument("--new-tokens", type=int, default=16, help="most of an answer")
    one.add_argument("--levels", type=int, nargs="+", default=list(LEVELS), help="clients at a time, for throughput")
    one.add_argument("--kinds", nargs="+", choices=["image", "video"], default=["image", "video"])
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--small", action="store_true", help="the untrained model, two clients, seconds: a dry run")


def main(args: argparse.Namespace) -> None:
    """Run the study and write its results."""
    if args.small:
        args.model, args.clients, args.minutes, args.seconds = "tiny", 2, 0.1, 1.0
        args.levels, args.frames, args.new_tokens = [2], 8, 4
    if args.clients < 1 or min(args.levels) < 1:
        raise InputError(f"there must be at least one client. Got {args.clients} and {args.levels}.")
    rows, goals = asyncio.run(study(args))
    told = {"model": args.model, "plan": args.plan, "new_tokens": args.new_tokens, "clients": args.clients}
    save(args.out, args.seed, rows, goals, **told)
    print(f"wrote {args.out}")


async def study(args: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and goals of both parts."""
    questions = {kind: made(kind, args.seed, 1 if args.small else 4) for kind in TASKS}
    with Process(args.model, max(args.clients, *args.levels), args.frames) as server:
        rows, goals = [], []
        client = Client(server.url, args)
        try:
            await client.ready(server)
            for kind in args.kinds:
                found = await throughput(client, kind, questions[kind], args)
                rows += found
                goals += throughput_goals(kind, found)
            row = await soak(client, server, [q for kind in questions.values() for q in kind], args)
        finally:
            await client.close()
    return [*rows, row], [*goals, *soak_goals(row)]


async def throughput(
    client: Client, kind: str, questions: list[Question], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row for each concurrency and plan; both plans are measured in turns, forth and back."""
    rows = []
    for plan in ("none", args.plan):  # whatever is prepared once is prepared now
        await client.ask(questions[0], plan, False)
    for level in args.levels:
        measured: dict[str, list[dict[str, Any]]] = {"none": [], args.plan: []}
        for plan in ("none", args.plan, args.plan, "none"):
            measured[plan].append(await measure(client, questions, plan, level, args.seconds / 2))
        for plan, found in measured.items():
            done, seconds = sum(f["answers"] for f in found), sum(f["seconds"] for f in found)
            rows.append(
                {
                    "part": "throughput",
                    "kind": kind,
                    "plan": plan,
                    "clients": level,
                    "answers": done,
                    "errors": sum(f["errors"] for f in found),
                    "answers_per_second": done / seconds,
                    "tokens_per_second": sum(f["tokens"] for f in found) / seconds,
                    "first_token_seconds": statistics.median([x for f in found for x in f["first"]] or [0.0]),
                    "runs": [f["answers"] / f["seconds"] for f in found],
                }
            )
            print(f"{kind} {level} {plan}: {rows[-1]['answers_per_second']:.2f} answers/s", flush=True)
    return rows


async def measure(client: Client, questions: list[Question], plan: str, level: int, seconds: float) -> dict[str, Any]:
    """So many clients ask one question after the other; those on their way at the end are waited for and counted."""
    begun = time.monotonic()
    out: dict[str, Any] = {"answers": 0, "errors": 0, "tokens": 0, "first": []}

    async def one(number: int) -> None:
        at = number
        while time.monotonic() - begun < seconds:
            said = await client.ask(questions[at % len(questions)], plan, False)
            at += level
            if "error" in said:
                out["errors"] += 1
                continue
            out["answers"] += 1
            out["tokens"] += said["tokens"]
            out["first"].append(said["first"])

    await asyncio.gather(*(one(i) for i in range(level)))
    return {**out, "seconds": time.monotonic() - begun}


def throughput_goals(kind: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The plan is never slower than the full model, and for video at 8 clients much faster."""
    full = {r["clients"]: r["answers_per_second"] for r in rows if r["plan"] == "none"}
    cut = {r["clients"]: r["answers_per_second"] for r in rows if r["plan"] != "none"}
    ratio = {n: cut[n] / full[n] for n in full if full[n] > 0}
    if not ratio:
        return []
    least = min(ratio.values())
    text = (
        f"answers a second with the plan over those of the full model, {kind}, the least over 1 to {max(ratio)} clients"
    )
    out = [goal(text, least, 1.0, least >= 1)]
    if kind == "video" and 8 in ratio:
        out.append(goal("the same for video at 8 clients", ratio[8], AHEAD, ratio[8] >= AHEAD))
    return out


async def soak(client: Client, server: Process, questions: list[Question], args: argparse.Namespace) -> dict[str, Any]:
    """Mixed questions from all clients for minutes, next to what each was answered when nothing else ran."""
    plans = ("none", args.plan)
    jobs = [(q, p) for q in questions for p in plans]
    alone = [(await client.ask(q, p, False)).get("text") for q, p in jobs]
    begun, seconds = time.monotonic(), args.minutes * 60
    errors: dict[str, int] = {}
    other: list[dict[str, Any]] = []
    memory: list[tuple[float, int]] = []
    done = 0

    async def one(number: int) -> None:
        nonlocal done
        at = 7 * number
        while time.monotonic() - begun < seconds:
            job = at % len(jobs)
            said = await client.ask(*jobs[job], True)
            at += 5
            if "error" in said:
                errors[said["error"]] = errors.get(said["error"], 0) + 1
            elif said["text"] != alone[job]:
                other.append(
                    {"kind": jobs[job][0].kind, "plan": jobs[job][1], "alone": alone[job], "now": said["text"]}
                )
            done += 1

    async def watch() -> None:
        while time.monotonic() - begun < seconds:
            memory.append((time.monotonic() - begun, server.nbytes))
            await asyncio.sleep(min(2.0, seconds / 20))

    await asyncio.gather(watch(), *(one(i) for i in range(args.clients)))
    early = [m for t, m in memory if 0.2 * seconds <= t < 0.4 * seconds]
    late = [m for t, m in memory if t >= 0.8 * seconds]
    return {
        "part": "long run",
        "clients": args.clients,
        "minutes": (time.monotonic() - begun) / 60,
        "answers": done,
        "errors": errors,
        "different": len(other),
        "examples": other[:5],
        "memory_early": statistics.median(early) if early else None,
        "memory_late": statistics.median(late) if late else None,
        "memory": [[round(t, 1), m] for t, m in memory][:: max(1, len(memory) // 100)],
    }


def soak_goals(row: dict[str, Any]) -> list[dict[str, Any]]:
    """No error, no other answer, memory flat."""
    where = f"{row['clients']} clients, {row['minutes']:.1f} minutes, images, videos and texts"
    wrong = sum(row["errors"].values())
    out = [
        goal(f"errors: {where}", wrong, 0, wrong == 0),
        goal(f"answers other than those asked alone: {where}", row["different"], 0, row["different"] == 0),
    ]
    if row["memory_early"] and row["memory_late"]:
        grown = row["memory_late"] / row["memory_early"] - 1
        out.append(goal(f"the server's memory grows by less than this share: {where}", grown, FLAT, grown <= FLAT))
    return out
