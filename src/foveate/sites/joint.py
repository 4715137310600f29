"""Several answers written at once: runs of ``generate`` that began alone go on together, one forward for all of them.

Each prompt is read alone, by the model's own rules, and leaves a cache that may hold fewer entries than were seen. For
a step the caches lie in one, filled up on the left as a padded batch would be; a run joins and leaves between steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer
from transformers.utils import ModelOutput

from .rows import cache_of, compact, joined, plain, row

#: What a model is told of one new token, by the dimension of the batch counted from the end.
_ALONG = {"input_ids": -2, "position_ids": -2, "token_type_ids": -2, "mm_token_type_ids": -2}


class Run:
    """One prompt in the middle of being answered.

    Attributes:
        ids: (1, n) int64, what was read and written so far, the prompt's placeholders included.
        seen: tokens that the cache was shown.
        ends: ids that end an answer.
        delta: (1, 1) what rotary positions of Qwen's families are ahead of the count of tokens, or None.
        encoded: what the vision tower made of the media, by kind; empty where the model does not hand it over.
    """

    def __init__(self, model: Any, ids: Tensor, prepared: dict[str, Any]) -> None:
        self.model, self.ids, self.seen = model, ids, 0
        self._processors = prepared.pop("logits_processor")
        prepared.pop("stopping_criteria", None)
        self._config = prepared.pop("generation_config")
        self._kwargs = prepared
        ends = self._config.eos_token_id
        self.ends = frozenset([ends] if isinstance(ends, int) else ends or ())
        found = getattr(_around(model), "rope_deltas", None)
        self.delta: Tensor | None = None if found is None else found.clone()
        self.encoded: dict[str, Any] = dict(prepared.get("mm_encoder_outputs") or {})

    @property
    def cache(self) -> Any:
        """Its own cache while it runs alone; that of all while it runs with others."""
        return self._kwargs["past_key_values"]

    @cache.setter
    def cache(self, cache: Any) -> None:
        self._kwargs["past_key_values"] = cache

    def prefill(self) -> Tensor:
        """Read the prompt, or what is new of it; returns the logits of the next token, (V,) float32."""
        out = self.model._prefill(self.ids, self._config, self._kwargs, is_first_iteration=True)
        self.cache = out.past_key_values
        self.seen = int(self.cache.get_seq_length())
        self.encoded = dict(self.encoded or self._kwargs.get("mm_encoder_outputs") or {})
        self._kwargs.pop("mm_encoder_outputs", None)
        logits: Tensor = out.logits[0, -1]
        return logits.to(torch.float32, copy=True)

    def resume(self) -> None:
        """Take the prompt for read: its cache has seen all of it."""
        self.seen = int(self.cache.get_seq_length())
        self._kwargs.pop("mm_encoder_outputs", None)

    @property
    def plain(self) -> bool:
        """Whether its cache can be copied, cut and joined: nothing in it acts on its own while tokens are written."""
        return all(plain(x) for x in self.cache.layers)

    def scores(self, logits: Tensor) -> Tensor:
        """(V,) logits after the model's own rules (suppressed tokens, penalties) and those of sampling."""
        out: Tensor = self._processors(self.ids, logits[None].clone())[0] if len(self._processors) else logits
        return out

    def told(self, token: int) -> dict[str, Any]:
        """Take in a written token; returns what the model is told to read it."""
        self.ids = torch.cat([self.ids, self.ids.new_tensor([[token]])], 1)
        update = self.model._update_model_kwargs_for_generation
        self._kwargs = update(ModelOutput(), dict(self._kwargs))
        inputs = self.model.prepare_inputs_for_generation(self.ids, next_sequence_length=1, **self._kwargs)
        return {k: v for k, v in inputs.items() if v is not None}

    @property
    def form(self) -> dict[str, int]:
        """What the model is told beside the tokens, and in how many dimensions: the same for runs that join."""
        found = {name: self._kwargs.get(name) for name in _ALONG}
        return {name: t.ndim for name, t in found.items() if isinstance(t, Tensor)}


class Joint:
    """Runs that are read on together; one whose cache cannot be joined is alone here.

    Attributes:
        runs: in the order in which they joined.
    """

    def __init__(self, model: Any, run: Run) -> None:
        self.model, self.runs, self.cache = model, [run], run.cache

    def takes(self, run: Run) -> bool:
        """Whether another run can join: same kinds of layers, none that acts on its own while tokens are written."""
        mine = self.cache.layers
        if run.form != self.runs[0].form or not (run.plain and all(plain(x) for x in mine)):
            return False
        return [(type(a), getattr(a, "window", None)) for a in mine] == [
            (type(b), getattr(b, "window", None)) for b in run.cache.layers
        ]

    def add(self, run: Run) -> None:
        """Let a run join; :meth:`takes` says whether it can."""
        caches = [self._own(i) for i in range(len(self.runs))]
        self.runs.append(run)
        self._set([*caches, run.cache])

    def remove(self, run: Run) -> Any:
        """Let a run leave; returns its own cache, and frees it here."""
        caches = [self._own(i) for i in range(len(self.runs))]
        at = self.runs.index(run)
        del self.runs[at]
        run.cache = own = caches.pop(at)
        if caches:
            self._set(caches)
        else:
            self.cache = None
        return own

    def drop(self, gone: Sequence[Run]) -> None:
        """Let runs leave that nobody waits for: their entries are freed."""
        left = [(r, self._own(i)) for i, r in enumerate(self.runs) if r not in gone]
        for run in gone:
            run.cache = None
        self.runs = [r for r, _ in left]
        if left:
            self._set([c for _, c in left])
        else:
            self.cache = None

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Read one token of each run; returns the logits after it, (runs, V) float32."""
        told = [run.told(t) for run, t in zip(self.runs, tokens)]
        merged = dict(told[0])
        for name, dim in _ALONG.items():
            if isinstance(merged.get(name), Tensor):
                merged[name] = torch.cat(_alike([t[name] for t in told], self.runs), dim)
        merged.pop("attention_mask", None)
        merged["past_key_values"] = self.cache
        if (hidden := self._hidden()) is not None:
            merged["attention_mask"] = hidden
        out = self.model(**merged, return_dict=True)
        for run in self.runs:
            run.seen += 1
        logits: Tensor = out.logits[:, -1]
        return logits.to(torch.float32)

    def _hidden(self) -> Tensor | None:
        """(runs, n + 1) int64, 0 where rows were filled up; None where nothing was, or layers know it themselves."""
        seen = torch.tensor([r.seen for r in self.runs])
        if type(self.cache.layers[0]) is not DynamicLayer or bool((seen == seen[0]).all()):
            return None
        n = int(seen.max())
        mask = torch.arange(n + 1)[None] >= (n - seen)[:, None]
        return mask.long().to(self.runs[0].ids.device)

    def _own(self, i: int) -> Any:
        """The cache of one run, as views of the cache of all."""
        if len(self.runs) == 1:
            return self.cache
        n = max(r.seen for r in self.runs)
        return cache_of([row(x, i, self.runs[i].seen, n) for x in self.cache.layers])

    def _set(self, caches: Sequence[Any]) -> None:
        if len(caches) == 1:
            self.cache = cache_of([compact(x) for x in caches[0].layers])
        else:
            self.cache = cache_of([joined(rows) for rows in zip(*(c.layers for c in caches))])
        for run in self.runs:
            run.cache = self.cache


@torch.no_grad()
def begin(
    model: Any, inputs: dict[str, Any], *, cache: Any = None, delta: Tensor | None = None, **settings: Any
) -> Run:
    """Let ``model.generate`` prepare one prompt, and stop where it would write.

    Args:
        model: a transformers model, with its plan in place.
        inputs: of ``generate``, one row; of a prompt that goes on from a cache all ids, and no media.
        cache: what was read before, a prefix of the ids; it is changed.
        delta: :attr:`Run.delta` of the run that left the cache.
        settings: of ``generate``: max_new_tokens, do_sample, temperature and so on.
    """
    made: list[Run] = []

    def hold(model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        made.append(Run(model, input_ids, prepared))
        return input_ids

    if cache is not None:
        settings["past_key_values"] = cache
        if delta is not None:
            _around(model).rope_deltas = delta
    model.generate(**inputs, **settings, num_beams=1, use_cache=True, custom_generate=hold)
    return made[0]


def _around(model: Any) -> Any:
    """What holds the state of rotary positions between calls, in families that have one."""
    return getattr(model, "model", model)


def _alike(given: list[Tensor], runs: Sequence[Run]) -> list[Tensor]:
    """Positions on as many axes: a run that goes on from a prefix is told one for all, the others text and grid."""
    if given[0].ndim < 3 or (axes := max(len(t) for t in given)) == min(len(t) for t in given):
        return given
    out = []
    for t, run in zip(given, runs):
        if len(t) == 1:
            text = [torch.full_like(t, run.seen)] if axes == 4 else []
            t = torch.cat([*text, t.expand(axes - len(text), -1, -1)])
        out.append(t)
    return out
