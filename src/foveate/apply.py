"""``foveate.apply``: put a plan on a Hugging Face model, and take it away again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from .errors import PlanError, SignalError, UnsupportedModelError
from .families import plan_on
from .report import Report
from .sites import chunked, chunks, decode, encoder
from .sites import entries as cached
from .sites.cache import CacheSite
from .sites.costs import Costs, costs_for
from .sites.encoder import EncoderSite
from .sites.funnel import Funnel
from .sites.inputs import Inputs
from .sites.layers import LayerSite
from .sites.looks import TAPPED
from .sites.model import Anatomy, anatomy, attention_of
from .sites.near import Near
from .sites.packing import follow_packing
from .sites.reads import LAYERED
from .sites.signals import VISION, given
from .sites.tap import Watch, install, undo_capture
from .spec import Plan, methods
from .tokens import SIGNALS


@contextmanager
def apply(
    model: Any,
    plan: str | Path | Any | Iterable[Any],
    *,
    guard: bool | Costs = False,
    together: bool = False,
    chunk: int | None = None,
    reach: int | None = None,
) -> Iterator[Report]:
    """Inside the block ``model`` runs with ``plan``; outside it is exactly what it was.

    Args:
        model: a transformers model, as loaded.
        plan: text such as ``"divprune(keep=0.1) + snapkv(keep=0.3)"``, a path to a YAML file, or method objects;
            ``"auto"`` for the one of the model's family (``families/auto.yaml``).
        guard: decline, with a note in the report, a reduction that would cost more time than it saves. Off by default,
            so that a plan does what it says. True counts with what ``foveate doctor --calibrate`` measured here, or in
            FLOPs where it did not run; a :class:`foveate.sites.costs.Costs` counts with that.
        together: the images of a prompt show one scene (several views, a sequence): methods of stage inputs see the
            tokens of all of them at once, each image a view of the grid, and share one budget.
        chunk: prompts of more than so many tokens go through the decoder in pieces of that length, and cache methods
            evict after each of them; None reads a prompt at once. See :mod:`foveate.sites.pieces`.
        reach: visual tokens attend to those of their own piece and of so many pieces before it, and to all words; None:
            to everything before them. It changes the answer; see :mod:`foveate.sites.near`.

    Yields:
        The live :class:`foveate.report.Report`.

    Raises:
        PlanError: before anything runs, when the plan cannot work on this model.
        UnsupportedModelError: when the model's family is not supported.
    """
    parts = anatomy(model)
    steps = plan_on(plan, str(model.config.model_type))
    if _busy(parts):
        raise PlanError(f"this {parts.name} already runs inside foveate.apply; put both plans into one")
    want = check(parts, steps)
    chunked.check(parts, steps, chunk, reach)
    report = Report(plan=str(steps))
    with ExitStack() as stack:
        _place(parts, steps, want, report, costs_for(guard, model), stack, together, chunk, reach)
        yield report


def _place(
    parts: Anatomy,
    steps: Plan,
    want: frozenset[str],
    report: Report,
    guard: Costs | None,
    stack: ExitStack,
    together: bool = False,
    chunk: int | None = None,
    reach: int | None = None,
) -> None:
    undo_capture(parts.model, stack)
    tower: EncoderSite | None = None
    if parts.encoder is not None and (want or steps.at("encoder")):
        tower = EncoderSite(parts, steps.at("encoder"), want, report, guard)
        if watchers := tower.place(stack):
            install(parts.encoder, watchers, stack)
        if want and parts.family.pool == "pack":
            follow_packing(parts, lambda: tower.tower.note if tower is not None else None, stack)
    acts = chunk is not None or any(steps.at(s) for s in ("encoder", "inputs", "layers", "cache"))
    if parts.decoder is not None and acts:
        inputs = Inputs(parts, steps.at("inputs"), report, guard, together)
        funnel = Funnel(parts, inputs, tower.tower if tower is not None else None)
        layers = LayerSite(parts, steps.at("layers"), report, funnel)
        funnel.place(stack)
        chunks.refuse(parts.model, stack)
        if chunk is not None:
            chunked.Chunks(parts, funnel, chunk).place(stack)
        watching: dict[nn.Module, list[Watch]] = layers.place(stack)
        if steps.at("cache"):
            for module, more in CacheSite(parts, steps.at("cache"), report, funnel).place(stack).items():
                watching.setdefault(module, []).extend(more)
        if reach is not None:
            for i, layer in enumerate(parts.layers):
                watching.setdefault(attention_of(layer), []).insert(0, Near(funnel, i, reach))
        if watching or layers.taps:
            install(parts.decoder, watching, stack)
    for m in steps.at("decode"):
        decode.place(parts.model, m, stack, report, under=apply)


def _busy(parts: Anatomy) -> bool:
    ours = (Funnel, EncoderSite)
    modules = [m for m in (parts.decoder, parts.encoder) if m is not None]
    return any(isinstance(getattr(h, "__self__", None), ours) for m in modules for h in m._forward_pre_hooks.values())


def check(parts: Anatomy, steps: Plan) -> frozenset[str]:
    """Refuse what cannot work; returns the encoder signals that the plan needs.

    Raises:
        PlanError, SignalError, UnsupportedModelError: saying why, and what would work.
    """
    want: set[str] = set()
    for part in (parts.encoder, parts.decoder):
        kind = getattr(getattr(part, "config", None), "_attn_implementation", None) or "eager"
        if steps and kind not in ("sdpa", "eager") and "flash" not in kind:
            raise UnsupportedModelError(
                f"{parts.name} uses {kind} attention, whose masks cannot be fitted to shortened prompts; "
                "load it with attn_implementation='sdpa' (or 'eager', or a FlashAttention)"
            )
    for m in steps:
        _check_stage(parts, m)
        for need in m.card.needs:
            found = [n for n in need.split("|") if n in _given(parts, m.stage)]
            if not found:
                raise SignalError(_no_signal(parts, m, need))
            if m.stage != "encoder":
                want |= {found[0]} & {*VISION}
        if m.stage in ("inputs", "layers") and parts.family.pool == "pack":
            want.add("grid")  # line ends are told from the picture's tokens
    if (deep := want & {*LAYERED}) and steps.at("encoder"):
        raise PlanError(f"{', '.join(sorted(deep))} of every block cannot be read while the encoder is shortened")
    return frozenset(want)


def _check_stage(parts: Anatomy, m: Any) -> None:
    if m.stage == "encoder" and parts.encoder is None:
        raise PlanError(f"{m.name} acts in the vision encoder, and {parts.name} has none")
    if m.stage in ("inputs", "layers") and not parts.visual_ids:
        raise PlanError(f"{m.name} drops visual tokens, and {parts.name} takes none; {_instead(parts)}")
    if m.stage in ("cache", "decode") and parts.decoder is None:
        raise PlanError(f"{m.name} needs a language model, and {parts.name} is a vision encoder; {_instead(parts)}")
    if m.stage in ("media", "text"):
        raise PlanError(
            f"{m.name} acts before the model runs (stage {m.stage}); foveate.ask applies it, not foveate.apply"
        )


def _instead(parts: Anatomy) -> str:
    stages = {"vlm": "all stages", "vit": "methods of stage encoder", "lm": "methods of stages cache and decode"}
    return f"{stages[parts.family.kind]} would work"


def _given(parts: Anatomy, stage: str) -> set[str]:
    """Signals that a stage of this model can give."""
    if stage == "encoder":
        return encoder.given(parts)
    if stage == "inputs":
        return {"features", "text", "size", *given(parts)}
    if stage == "layers":
        return {"features", "size", "text", "transitions", *TAPPED, *given(parts)} - {"times"}
    return cached.given(parts)


def _no_signal(parts: Anatomy, m: Any, need: str) -> str:
    missing = need.replace("|", " or ")
    about = SIGNALS[need.split("|")[0]].split(",")[0]
    given = _given(parts, m.stage)
    works = [
        n for n, c in methods().items() if c.stage == m.stage and all(set(x.split("|")) & given for x in c.card.needs)
    ]
    return (
        f"{m.name} needs {missing} ({about}), which {parts.name} cannot give at stage {m.stage}; try {', '.join(works)}"
    )
