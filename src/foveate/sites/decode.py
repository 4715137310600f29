"""The decode site: inside the block ``model.generate`` decodes with a drafter; what it says stays the same.

``generate`` prepares everything as always (processors, criteria, cache, positions); only its last step, the decoding
loop, is ours, handed over through its ``custom_generate`` argument.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.generation import StoppingCriteriaList, StopStringCriteria

from ..decode._drafter import Draft, Drafter, Outcome, Turn
from ..errors import UnsupportedCallError, UnsupportedModelError
from ..parts.verify import accept, accept_greedy
from ..report import Report
from .second import find, reading
from .steps import Steps, check_rewinds
from .tally import Tally
from .transcript import Transcript


def place(model: Any, method: Any, stack: contextlib.ExitStack, report: Report) -> None:
    """Let ``model.generate`` decode with the method's drafts until the stack is closed; fills ``report.decode``.

    Raises:
        UnsupportedModelError: when the model does not generate token after token, or the method's draft model has
            another vocabulary.
        PlanError: when the method's draft model is missing.
    """
    if not hasattr(model, "prepare_inputs_for_generation") or model.config.is_encoder_decoder:
        raise UnsupportedModelError(
            f"{method.name} needs a decoder-only model that generates. Got {type(model).__name__}."
        )
    second, tally = find(model, method), Tally(report, str(method))
    own, plain = vars(model).get("generate"), model.generate

    @functools.wraps(plain)
    def generate(*args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(plain).bind(*args, **kwargs).arguments
        given = {**bound, **bound.pop("kwargs", {})}
        _refuse_arguments(method, given)

        def custom_loop(model: Any, input_ids: Tensor, **prepared: Any) -> Any:
            return _decode(model, input_ids, prepared, method, second, given, tally)

        return plain(**_with_stop_strings(given), custom_generate=custom_loop)

    def restore() -> None:
        if own is None:
            del model.generate
        else:
            model.generate = own

    model.generate = generate
    stack.callback(restore)


def _decode(
    model: Any, ids: Tensor, prepared: dict[str, Any], method: Any, second: Any, given: dict[str, Any], tally: Tally
) -> Any:
    """The decoding loop: draft, read the draft in one forward, keep what the target says too, step back, repeat.

    ids (B, n). ``prepared``: what generate hands to a decoding loop; ``given``: what the user handed to generate.
    """
    processors, stopping = prepared.pop("logits_processor"), prepared.pop("stopping_criteria")
    config = prepared.pop("generation_config")
    _refuse_call(method, config, prepared)
    sample = bool(config.do_sample)
    tally.begin()

    def score(before: Tensor, logits: Tensor) -> Tensor:
        out: Tensor = processors(before, logits.clone()) if len(processors) else logits
        return out

    target, text = Steps(model, ids, config, prepared), Transcript(ids, stopping, config, given.get("streamer"))
    read, draft, logits = ids[:, -1:], Draft(ids[:, :0]), target.prefill()[:, None]
    check_rewinds(model, target.cache)
    reader = None if second is None else reading(second, given, config, images=_alike(model, second))
    drafter: Drafter = method.begin(Turn(sample, score, reader))
    allowed = _allowed(model, logits)
    row, first = tally.report.row("decode", str(method)), True
    with target.rewinding(), model._optimize_model_for_decode():
        while True:
            # what the target says, as far as every row agrees with its draft and one token further
            scores = _scores(score, text.ids, draft.tokens, logits) if len(processors) else logits
            tokens, agreed = _judge(scores, draft, text, sample)
            rows, drafted = text.rows, _count(draft.tokens, text)
            settled = text.settle(tokens, scores, logits)
            kept = min(settled, agreed)
            tally.settled(first, rows, drafted, kept * rows, settled * rows)
            # the last settled token is not read yet, and drafted tokens past it are unread again
            target.forget(draft.tokens.shape[1] - (settled - 1))
            if text.rows == 0:
                break
            drafter.learn(Outcome(text.ids, read, logits, kept))
            with tally.report.clock(row, ids.device):
                draft = _draft(drafter, text, allowed)
            read, first = torch.cat([text.ids[:, -1:], draft.tokens.clamp(min=0)], 1), False
            logits = target.read(read)
    tally.end()
    return text.result(target.cache)


def _scores(score: Callable[[Tensor, Tensor], Tensor], ids: Tensor, drafted: Tensor, logits: Tensor) -> Tensor:
    """Logits (B, gamma + 1, V) after ids (B, n) and each of drafted (B, gamma), as the processors leave them."""
    whole, n = torch.cat([ids, drafted.clamp(min=0)], 1), ids.shape[1]
    return torch.stack([score(whole[:, : n + i], logits[:, i]) for i in range(logits.shape[1])], 1)


def _judge(scores: Tensor, draft: Draft, text: Transcript, sample: bool) -> tuple[Tensor, int]:
    """Tokens (B, agreed + 1) that the target says, and how many leading ones every unfinished row had drafted.

    Cutting all rows at the shortest agreement keeps the sampled distribution: where a row is cut depends on nothing
    that follows, and what follows is drawn anew.
    """
    if sample:
        uniform = torch.rand(*draft.tokens.shape[:1], scores.shape[1], device=scores.device)
        p = scores.softmax(-1)
        verdict = accept(p, draft.tokens, uniform[:, :-1], uniform[:, -1], draft.probs, draft.weight)
    else:
        verdict = accept_greedy(scores.argmax(-1), draft.tokens)
    agreed = int(torch.where(text.going, verdict.accepted, draft.tokens.shape[1]).min())
    return verdict.tokens[:, : agreed + 1], agreed


def _draft(drafter: Drafter, text: Transcript, allowed: Tensor) -> Draft:
    """The next draft, as long as there is room for it and for the target's own token."""
    if text.room < 2:
        return Draft(text.ids[:, :0])
    draft = drafter.draft(text.ids, text.room - 1)
    if draft.probs is None:  # copied tokens may be placeholders of images; what was drawn is left as it is
        known = draft.tokens.clamp(0, len(allowed) - 1)
        fits = (known == draft.tokens) & allowed[known]
        draft = Draft(torch.where(fits, draft.tokens, -1), None, draft.weight)
    return draft if text.all_going else Draft(text.padded(draft.tokens), draft.probs, draft.weight)


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
