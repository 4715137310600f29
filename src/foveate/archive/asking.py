"""``foveate ask --store``: answers from what is stored, without decoding or encoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from torch.nn.functional import normalize

from ..ask import plan_of
from ..builtin import default_model
from ..errors import InputError
from ..load import Loaded, load
from ..prompt import Progress
from ..spec import Plan
from ..stream.memory import within
from ..stream.recall import Source, Sourced, answer_from
from ..stream.relevance import center, fits, words
from ..stream.seen import Seen
from ..stream.split import asks, split
from .recipe import Recipe, model_hash
from .row import Clip, Video
from .table import Archive

#: Clips that the vector search hands on to be looked at token by token.
CANDIDATES = 64


def ask_store(
    store: Archive | str | PathLike[str],
    question: str,
    *,
    model: Loaded | str | Path | None = None,
    plan: Any = None,
    videos: Sequence[str] = (),
    budget: int = 4096,
    by: str = "embeddings",
    max_new_tokens: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> Sourced:
    """Answer a question from indexed videos.

    The clips that fit the question best are found by vector, looked at token by token, and shown to the model in order
    of time, video by video, with the positions that they have in their videos.

    Args:
        store: what :func:`foveate.archive.index` filled.
        model: the model that filled it. plan: the plan it was filled with, if the store holds several; its stages after
            the inputs may be others.
        videos: names or paths of those to answer from; all of them by default.
        budget: most visual tokens in the prompt. by: how clips are compared with the question at the end; see
            :func:`foveate.stream.relevance.fits`.
        max_new_tokens, seed, progress: as for :func:`foveate.ask`.

    Raises:
        InputError: no such video, nothing indexed by this model and plan, or several plans to choose from.
        StoreError: the store or an entry that the answer needs is damaged.
    """
    if budget < 1:
        raise InputError(f"'budget' must be at least 1. Got {budget}.")
    if not isinstance(question, str) or not question.strip():
        raise InputError("the question is empty; ask something")
    archive = store if isinstance(store, Archive) else Archive(store)
    there = _named(archive, archive.videos(), videos)
    loaded = model if isinstance(model, Loaded) else load(default_model() if model is None else model)
    chosen = _chosen(archive, there, loaded, plan, question)
    picked = _picked(archive, chosen, loaded, question, budget, by)
    whole = plan_of((chosen[0].recipe.plan or "none") if plan is None else plan, family=loaded.family)
    late = split(whole, known=chosen[0].recipe.question is not None)[1]
    names = _labels(chosen)
    parts, told = [], []
    for key in sorted({c.key for c, _, _ in picked}, key=lambda k: names[k]):
        mine = sorted((p for p in picked if p[0].key == key), key=lambda p: p[0].number)
        parts.append((names[key], Seen.cat([seen for _, seen, _ in mine])))
    for clip, seen, score in sorted(picked, key=lambda p: (-p[2], names[p[0].key], p[0].number)):
        told.append(Source(names[clip.key], clip.start, clip.stop, score, seen.n))
    if len(parts) == 1:
        parts = [("", parts[0][1])]
    said = answer_from(loaded, parts, question, late, told, max_new_tokens=max_new_tokens, seed=seed, progress=progress)
    said.report.plan = str(whole)
    return said


def _named(archive: Archive, there: list[Video], names: Sequence[str]) -> list[Video]:
    if not there:
        raise InputError(f"the store {archive.where!r} holds no videos; fill it with: foveate index VIDEO --store DIR")
    if not names:
        return there
    out = []
    for name in names:
        found = [v for v in there if str(name) in (v.name, v.path)]
        if not found:
            known = ", ".join(sorted({v.name for v in there})[:8])
            raise InputError(f"the store {archive.where!r} has no video {str(name)!r}; it has {known}")
        out += found
    return out


def _chosen(archive: Archive, there: list[Video], loaded: Loaded, plan: Any, question: str) -> list[Video]:
    """Entries that this model made, with this plan, for any question or for this one; one of each content."""
    mine = model_hash(loaded)
    own = [v for v in there if v.recipe.model == mine]
    if not own:
        raise InputError(
            f"nothing in {archive.where!r} was indexed with {loaded.name} as it is now; another model, other weights "
            "or another preprocessing cannot read it, so index the videos with this one"
        )
    free = [v for v in own if v.recipe.question in (None, question)]
    if not free:
        asked = sorted({str(v.recipe.question) for v in own})
        raise InputError(f"these videos were indexed for other questions only: {'; '.join(asked[:4])}")
    if plan is not None:
        steps = plan_of(plan, family=loaded.family)
        free = [v for v in free if v.recipe.first == _first(steps, v.recipe)]
        if not free:
            plans = sorted({v.recipe.plan or "none" for v in own})
            raise InputError(f"nothing was indexed with the plan {str(steps)!r}; there is {'; '.join(plans)}")
    exact = {_beside(v): _width(v) for v in sorted(free, key=_width)}  # the most exact of each content
    free = [v for v in free if _width(v) == exact[_beside(v)]]
    ways = {(v.recipe.first, v.recipe.question, "" if plan is not None else v.recipe.plan) for v in free}
    if len(ways) > 1:
        plans = sorted({v.recipe.plan or "none" for v in free})
        raise InputError(f"the videos were indexed in {len(ways)} ways ({'; '.join(plans)}); say which with 'plan'")
    unique = {v.key: v for v in reversed(free)}
    return sorted(unique.values(), key=lambda v: (v.name, v.key))


def _width(v: Video) -> int:
    """Bits of a stored number, those that are as they were counting most."""
    return 64 if v.recipe.bits is None else v.recipe.bits


def _beside(v: Video) -> tuple[str, str, str]:
    """What entries share that differ in their bits at most (and in the name of the file)."""
    return v.media, v.path, replace(v.recipe, bits=None).text


def _first(plan: Plan, recipe: Recipe) -> tuple[tuple[str, str], ...]:
    """What of a plan runs while encoding, told as the entry's recipe tells it."""
    known = recipe.question is not None and any(asks(m) for m in plan.at("inputs"))
    return Recipe.of(recipe.model, plan, recipe.fps, recipe.clip, recipe.question if known else None).first


def _labels(chosen: Sequence[Video]) -> dict[str, str]:
    """How an answer calls each entry: by its name, or by its path where two share a name."""
    names = [v.name for v in chosen]
    return {v.key: v.name if names.count(v.name) == 1 else v.path for v in chosen}


def _picked(
    archive: Archive, chosen: Sequence[Video], loaded: Loaded, question: str, budget: int, by: str
) -> list[tuple[Clip, Seen, float]]:
    """The clips to answer from, with their tokens and scores."""
    if sum(v.tokens for v in chosen) <= budget:
        clips = archive.clips(chosen)
        return [(c, s, 1.0) for c, s in zip(clips, _read(archive, chosen, clips))]
    embeddings = loaded.model.get_input_embeddings().weight
    asked = normalize(words(loaded, question) - center(embeddings).to(loaded.device), dim=-1).mean(0)
    clips = archive.clips(chosen, asked.tolist(), CANDIDATES)
    seen = _read(archive, chosen, clips)
    scores = fits(loaded, seen, question, by)
    return [(clips[i], seen[i], scores[i]) for i in within(seen, scores, budget)]


def _read(archive: Archive, chosen: Sequence[Video], clips: Sequence[Clip]) -> list[Seen]:
    """The tokens of clips, in their order, each as its entry is kept."""
    kept = {v.key: v.recipe.bits for v in chosen}
    found: dict[Clip, Seen] = {}
    for bits in dict.fromkeys(kept.values()):
        mine = [c for c in clips if kept[c.key] == bits]
        found |= dict(zip(mine, archive.tokens(chosen[0].width, mine, bits)))
    return [found[c] for c in clips]
