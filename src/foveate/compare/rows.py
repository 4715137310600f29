"""From answers to rows: one for each plan on each task, and one for all tasks together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from ..bench.paired import difference, mcnemar, mean, named, rounded, share
from ..tune.claim import middle
from ..tune.questions import Question

FULL = "none"
ALL = "all"

Entry = Mapping[str, Any]


def rows_of(
    questions: Mapping[str, Sequence[Question]], found: Mapping[str, Mapping[str, Sequence[Entry]]]
) -> list[dict[str, Any]]:
    """Rows of one model, plan after plan.

    questions: by task. found: plan ("none" for the full model, which must be among them) -> task -> answers to these
    questions, in their order.
    """
    tasks = {name: (name,) for name in questions} | ({ALL: tuple(questions)} if len(questions) > 1 else {})
    out = []
    for plan, answers in found.items():
        for task, names in tasks.items():
            asked = [q for name in names for q in questions[name]]
            mine = [e for name in names for e in answers[name]]
            full = None if plan == FULL else [e for name in names for e in found[FULL][name]]
            if asked:
                out.append({"plan": plan, "task": task, **row(asked, mine, full)})
    return out


def row(questions: Sequence[Question], mine: Sequence[Entry], full: Sequence[Entry] | None) -> dict[str, Any]:
    """The figures of one plan on some questions.

    Args:
        mine: its answers. full: the full model's, to the same questions; None where these are the full model's own.

    Returns:
        n; accuracy with its 95% interval (low, high); "loss" against the full model with its interval, "p" of
        McNemar's exact test, and the items on which the plan was "better" and "worse"; "loyalty", how much its answers
        are the full model's; "evidence", the share of the tokens showing the answer that are left; "visual" tokens of a
        prompt, and "left" after inputs and layers; "sites", the share left at each; medians of "first_token" and
        "per_token" seconds; "first_token_of_full" with its interval, over questions that both were asked in one run by
        one process; "peak" and "kv" bytes, "flops", and the last two as shares of the full model's. Scores are taken
        anew from the words. What was not measured is None.
    """
    scores = _scores(questions, mine)
    out: dict[str, Any] = {"n": len(mine), **share(scores)}
    if full is not None:
        theirs = _scores(questions, full)
        p, better, worse = mcnemar(scores, theirs)
        loyal = [_alike(q, m["said"], f["said"]) for q, m, f in zip(questions, mine, full)]
        out |= named("loss", difference(theirs, scores))
        out |= {"p": p, "better": better, "worse": worse, **rounded({"loyalty": mean(loyal)})}
    evidence = [e["evidence"] for e in mine if e["evidence"] is not None]
    out["evidence"] = round(mean(evidence), 4) if evidence else None
    out |= rounded({"visual": mean([e["visual"] for e in mine]), "left": mean([e["left"] for e in mine])})
    out["sites"] = sites(mine)
    out["first_token"] = median(e["first"] for e in mine)
    later = [(e["seconds"] - e["first"]) / (e["tokens"] - 1) for e in mine if e["tokens"] > 1]
    out["per_token"] = median(later) if later else None
    peaks = [e["peak"] for e in mine if e["peak"] is not None]
    out["peak"] = max(peaks) if peaks else None
    out |= {name: mean([e[name] for e in mine]) for name in ("kv", "flops")}
    if full is not None:
        out |= {f"{name}_of_full": _of(out[name], mean([e[name] for e in full])) for name in ("kv", "flops")}
        out |= _first_tokens(mine, full)
    return out


def sites(answers: Sequence[Entry]) -> dict[str, float]:
    """Share of tokens left at each place: stage -> share, with the layer where a stage acts at several.

    Methods at one place follow each other, so their shares multiply. A cache has entries in every layer: one share.
    """
    counts: dict[tuple[str, str], list[int]] = {}
    for answer in answers:
        for stage, layer, method, before, after in answer["sites"]:
            place = stage if layer is None or stage == "cache" else f"{stage} {layer}"
            count = counts.setdefault((place, method), [0, 0])
            count[0], count[1] = count[0] + before, count[1] + after
    out: dict[str, float] = {}
    for (place, _), (before, after) in counts.items():
        if before:
            out[place] = out.get(place, 1.0) * after / before
    return rounded(out)


def _scores(questions: Sequence[Question], answers: Sequence[Entry]) -> list[float]:
    return [q.score(a["said"]) for q, a in zip(questions, answers, strict=True)]


def _alike(question: Question, mine: str, full: str) -> float:
    """How much two answers say the same, by the question's own rule."""
    return 1.0 if mine == full else replace(question, answers=(full,), match="exact").score(mine)


def _of(value: float, full: float) -> float | None:
    return round(value / full, 4) if full else None


def _first_tokens(mine: Sequence[Entry], full: Sequence[Entry]) -> dict[str, float | None]:
    pairs = zip(mine, full, strict=True)
    ratio = [m["first"] / f["first"] for m, f in pairs if (m["run"], m["worker"]) == (f["run"], f["worker"])]
    found = middle(ratio) if ratio else (math.inf,) * 3
    names = ("first_token_of_full", "first_token_low", "first_token_high")
    return {name: round(v, 4) if math.isfinite(v) else None for name, v in zip(names, found)}
