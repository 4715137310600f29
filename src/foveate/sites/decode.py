"""The decode site: inside the block ``model.generate`` decodes with a drafter; what it says stays the same.

``generate`` prepares everything as always (processors, criteria, cache, positions); only its last step, the decoding
loop, is ours, handed over through its ``custom_generate`` argument.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.generation import StoppingCriteriaList, StopStringCriteria

from ..decode._drafter import Draft, Drafter, Lens, Outcome, Skimmer, Turn
from ..errors import UnsupportedCallError, UnsupportedModelError
from ..parts.trees import Tree, first_branch
from ..report import Report
from .branches import Branches, obstacle
from .judge import judge, scores_of
from .model import anatomy
from .pace import Pace
from .second import Under, find, reading
from .skim import Features, LayerLens, Skimming, leaving_out
from .steps import Steps, check_rewinds
from .tally import Tally
from .transcript import Transcript


def place(
    model: Any,
    method: Any,
    stack: contextlib.ExitStack,
    report: Report,
    paced: bool = True,
    under: Under | None = None,
) -> None:
    """Let ``model.generate`` decode with the method's drafts until the stack is closed; fills ``report.decode``.

    paced: drafts that do not pay are switched off for a while (see :class:`foveate.sites.pace.Pace`).

    Raises:
        UnsupportedModelError: when the model does not generate token after token, or the method's draft model has
            another vocabulary.
        PlanError: when the method's draft model is missing.
    """
    if not hasattr(model, "prepare_inputs_for_generation") or model.config.is_encoder_decoder:
        raise UnsupportedModelError(
            f"{method.name} needs a decoder-only model that generates. Got {type(model).__name__}."
        )
    second, tally, pace = find(model, method), Tally(report, str(method)), Pace(paced)
    branches = Branches.place(model, stack) if getattr(method, "trees", False) else None
    own, plain = vars(model).get("generate"), model.generate

    @functools.wraps(plain)
    def generate(*args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(plain).bind(*args, **kwargs).arguments
        given = {**bound, **bound.pop("kwargs", {})}
        _refuse_arguments(method, given)

        def custom_loop(model: Any, input_ids: Tensor, **prepared: Any) -> Any:
            return _decode(model, input_ids, prepared, method, (second, under), given, tally, pace, branches)

        return plain(**_with_stop_strings(given), custom_generate=custom_loop)

    def restore() -> None:
        if own is None:
            del model.generate
        else:
            model.generate = own

    model.generate = generate
    stack.callback(restore)


def _decode(
    model: Any,
    ids: Tensor,
    prepared: dict[str, Any],
    method: Any,
    helper: tuple[Any, Under | None],
    given: dict[str, Any],
    tally: Tally,
    pace: Pace,
    branches: Branches | None,
) -> Any:
    """The decoding loop: draft, read the draft in one forward, keep what the target says too, step back, repeat.

    ids (B, n). ``helper``: the second model or None, and what places its plan. ``prepared``: what generate hands to a
    decoding loop; ``given``: what the user handed to generate.
    """
    processors, stopping = prepared.pop("logits_processor"), prepared.pop("stopping_criteria")
    config = prepared.pop("generation_config")
    _refuse_call(method, config, prepared)
    sample = bool(config.do_sample)
    tally.begin()
    pace.begin(sample, ids.shape[1])

    def score(before: Tensor, logits: Tensor) -> Tensor:
        out: Tensor = processors(before, logits.clone()) if len(processors) else logits
        return out

    target = Steps(model, ids, config, prepared, branches)
    text = Transcript(ids, stopping, config, given.get("streamer"))
    with contextlib.ExitStack() as stack:
        features = Features(model, stack) if getattr(method, "features", False) else None
        read, draft, logits = ids[:, -1:], Draft(ids[:, :0]), target.prefill()[:, None]
        check_rewinds(model, target.cache)
        reader, (second, under) = None, helper
        if second is not None:
            reader = reading(model, second, method, given, config, _alike(model, second), stack, under)
        chains = obstacle(branches, target.cache, target.positions) if getattr(method, "trees", False) else None
        tally.chains = chains

        def skim() -> Skimmer:
            return Skimming(anatomy(model), target)

        def lens() -> Lens:
            return LayerLens(anatomy(model), stack)

        words = None if features is None else features.words
        turn = Turn(sample, score, reader, chains is None, logits.shape[-1], skim, lens, ids, words, pace.memory)
        drafter: Drafter = method.begin(turn)
        allowed = _allowed(model, logits)
        row, first, tree, since = tally.report.row("decode", str(method)), True, None, time.perf_counter()
        stack.enter_context(target.rewinding())
        stack.enter_context(model._optimize_model_for_decode())
        if hasattr(method, "reserved"):
            stack.enter_context(_reserved(model, method))
        while True:
            # what the target says, as far as every row agrees with its draft and one token further
            scores = scores_of(score, text.ids, draft.tokens, tree, logits) if len(processors) else logits
            tokens, path = judge(scores, draft, tree, text.going, sample)
            agreed = path.shape[1] - 1
            rows, drafted = text.rows, _count(draft.tokens, text)
            settled = text.settle(tokens, _along(scores, path), _along(logits, path))
            kept = min(settled, agreed)
            tally.settled(first, rows, drafted, kept * rows, settled * rows)
            # the last settled token is not read yet, and drafted tokens past it are unread again
            if tree is None:
                target.forget(draft.tokens.shape[1] - (settled - 1))
            else:
                target.follow(path[:, :settled], tree.q)
            if text.rows == 0:
                break
            hidden = None if features is None else features.seen
            drafter.learn(Outcome(text.ids, read, logits, kept, path[:, : kept + 1], hidden))
            now = time.perf_counter()
            if not first:
                pace.took(draft.tokens.shape[1], settled, now - since)
            since = now
            with tally.report.clock(row, ids.device):
                draft = _draft(drafter, text, allowed, chains is None) if pace.drafts() else Draft(text.ids[:, :0])
            tree = None if draft.parents is None else Tree.of(draft.parents)
            read, first = torch.cat([text.ids[:, -1:], draft.tokens.clamp(min=0)], 1), False
            logits = target.read(read, tree, _soft(draft))
    tally.end(pace)
    return text.result(target.cache)


def _soft(draft: Draft) -> tuple[Tensor, Tensor] | None:
    """Which nodes of a tree are read as learned embeddings, the root included, and these."""
    if draft.soft is None or draft.embeddings is None or not bool((draft.soft >= 0).any()):
        return None
    return torch.nn.functional.pad(draft.soft, (1, 0), value=-1), draft.embeddings


def _along(t: Tensor, path: Tensor) -> Tensor:
    """What t (B, q, V) holds at the nodes of path (B, k): (B, k, V)."""
    return t.gather(1, path[..., None].expand(-1, -1, t.shape[-1]))


def _reserved(model: Any, method: Any) -> contextlib.AbstractContextManager[None]:
    """Only the layers that a method reserves run."""
    parts = anatomy(model)
    run = set(method.reserved(len(parts.layers)))
    skip = {(i, part) for i in range(len(parts.layers)) if i not in run for part in ("attention", "mlp")}
    return leaving_out(parts, frozenset(skip))


def _draft(drafter: Drafter, text: Transcript, allowed: Tensor, trees: bool) -> Draft:
    """The next draft, as long as there is room for it and for the target's own token."""
    if text.room < 2:
        return Draft(text.ids[:, :0])
    draft = drafter.draft(text.ids, text.room - 1)
    if not draft.tokens.shape[1]:
        return Draft(text.ids[:, :0])
    if draft.parents is not None:
        draft = _pruned(draft, text.room - 1, trees)
    tokens = draft.tokens
    if draft.probs is None:  # copied tokens may be placeholders of images; what was drawn is left as it is
        known = tokens.clamp(0, len(allowed) - 1)
        tokens = torch.where((known == tokens) & allowed[known], tokens, -1)
    return replace(draft, tokens=text.padded(tokens))


def _pruned(draft: Draft, room: int, trees: bool) -> Draft:
    """A tree without what lies deeper than there is room for; its branch of first children where trees cannot be."""
    assert draft.parents is not None
    if trees:
        depth = Tree.of(draft.parents).depth[1:]
        if int(depth.max()) <= room:
            return draft
        keep = (depth <= room).nonzero()[:, 0]
        number = (depth <= room).long().cumsum(0) - 1
        above = draft.parents[keep]
        parents = torch.where(above >= 0, number[above.clamp(min=0)], -1)
    else:
        keep, parents = first_branch(draft.parents)[:room], None
    probs = None if draft.probs is None else draft.probs[:, keep]
    soft = None if draft.soft is None or parents is None else draft.soft[keep]
    return replace(draft, tokens=draft.tokens[:, keep], probs=probs, parents=parents, soft=soft)


def _allowed(model: Any, logits: Tensor) -> Tensor:
    """(V,) bool: tokens worth guessing, which placeholders of media are not."""
    allowed = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
    for name in ("image_token_id", "image_token_index", "video_token_id", "video_token_index", "audio_token_id"):
        at = getattr(model.config, name, None)
        if isinstance(at, int) and 0 <= at < len(allowed):
            allowed[at] = False
    return allowed


def _count(drafted: Tensor, text: Transcript) -> int:
    """Guesses in the rows still going on."""
    return int((drafted[text.going] >= 0).sum()) if drafted.shape[1] else 0


def _alike(model: Any, second: Any) -> bool:
    """Whether the second model takes the same pixels as the first."""
    return bool(model.config.model_type == second.config.model_type)


def _with_stop_strings(given: dict[str, Any]) -> dict[str, Any]:
    """Stop strings become a criterion here: generate loses the tokenizer when it is given a decoding loop."""
    config, tokenizer = given.get("generation_config"), given.get("tokenizer")
    strings = given.get("stop_strings") or getattr(config, "stop_strings", None)
    if strings is None or tokenizer is None:
        return given
    criterion = StopStringCriteria(stop_strings=strings, tokenizer=tokenizer)
    given = {k: v for k, v in given.items() if k != "stop_strings"}
    if config is not None:
        given["generation_config"] = copy.deepcopy(config)
        given["generation_config"].stop_strings = None
    return given | {"stopping_criteria": StoppingCriteriaList([*(given.get("stopping_criteria") or ()), criterion])}


def _refuse_arguments(method: Any, given: dict[str, Any]) -> None:
    """Arguments of generate that name another way to decode."""
    for name in ("custom_generate", "assistant_model", "prompt_lookup_num_tokens", "synced_gpus"):
        if given.get(name):
            raise UnsupportedCallError(
                f"{method.name} decides how this model decodes, so generate cannot take {name!r} too; "
                f"call generate without it, or leave {method.name} out of the plan"
            )


#: settings of generate that this loop does not serve: name, the values it does serve, and what to do.
_SERVED: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("num_beams", (None, 1), "beams are not drafted; use num_beams=1"),
    ("use_cache", (True,), "drafts are taken back from the cache; use use_cache=True"),
    ("output_attentions", (None, False), "forwards read several tokens; ask the model itself for attentions"),
    ("output_hidden_states", (None, False), "forwards read several tokens; ask the model itself for hidden states"),
    ("guidance_scale", (None, 1, 1.0), "guidance runs the model token after token"),
    ("penalty_alpha", (None, 0, 0.0), "contrastive search is another decoding loop"),
    ("dola_layers", (None,), "DoLa is another decoding loop"),
    ("prompt_lookup_num_tokens", (None,), "one method drafts; use the plan's prompt_lookup(tokens=...)"),
    ("assistant_early_exit", (None,), "one method drafts"),
    ("constraints", (None,), "constraints need beams"),
    ("force_words_ids", (None,), "forced words need beams"),
)


def _refuse_call(method: Any, config: Any, prepared: dict[str, Any]) -> None:
    """Settings that this loop does not serve, before anything runs."""
    for name, served, why in _SERVED:
        value = getattr(config, name, None)
        if value not in served and not (name == "use_cache" and value is None):
            raise UnsupportedCallError(f"{method.name} cannot decode with {name}={value!r}: {why}")
    cache = prepared.get("past_key_values")
    if cache is None or cache.is_compileable:
        raise UnsupportedCallError(
            f"{method.name} needs a cache that grows and can be cropped. Got {type(cache).__name__}; call generate "
            "without cache_implementation='static'"
        )
