"""A long prompt goes through the decoder in pieces: each attends to what the cache still holds of those before it.

Sarathi (Agrawal et al., 2023, https://arxiv.org/abs/2308.16369) cuts prefills so that no step is long. With cache
methods that evict after every piece (:mod:`foveate.sites.pieces`), memory follows their budget instead of the prompt.
What happens before the decoder (the vision tower, methods of stages encoder and inputs) sees the whole prompt.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError, PlanError, UnsupportedCallError, UnsupportedModelError
from ..spec import Plan
from ..stores.held import HeldLayer
from .call import Call, Piece
from .funnel import Funnel
from .model import Anatomy

#: Outputs that list every token of a call in every layer, and so cannot be put together from pieces.
_WHOLE = ("output_hidden_states", "output_attentions")


def check(parts: Anatomy, steps: Plan, chunk: int | None, reach: int | None = None) -> None:
    """Refuse what cannot be read in pieces.

    Raises:
        OptionError: ``chunk`` is no whole number of at least 1, or ``reach`` none of at least 0.
        PlanError: the model has no decoder, or a method must see all tokens of the prompt side by side.
        UnsupportedModelError: ``reach`` with FlashAttention.
    """
    if reach is not None:
        _check_reach(parts, chunk, reach)
    if chunk is None:
        return
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise OptionError(f"'chunk' must be a whole number of at least 1, in tokens. Got {chunk!r}.")
    if parts.decoder is None:
        raise PlanError(
            f"chunk={chunk} reads a prompt in pieces, and {parts.name} has no language model that reads one"
        )
    if again := [m for m in steps.at("cache") if "recalled" in {need.split("|")[0] for need in m.card.needs}]:
        raise PlanError(
            f"{again[0].name} has the model read the whole prompt twice before it evicts, so chunk={chunk} would bound "
            "nothing; use another cache method, or leave chunk out"
        )
    if sparse := [m for m in steps.at("cache") if hasattr(m, "picks")]:
        raise PlanError(
            f"{sparse[0].name} chooses what each part of a whole prompt attends to, and with chunk={chunk} it comes in "
            "pieces; leave out one of them (reach=... makes pieces sparse)"
        )
    if inside := steps.at("layers"):
        raise PlanError(
            f"{inside[0].name} chooses among all visual tokens inside the layers, and with chunk={chunk} no layer sees "
            "them side by side; use a method of stage inputs or cache, or leave chunk out"
        )


def _check_reach(parts: Anatomy, chunk: int | None, reach: int) -> None:
    if isinstance(reach, bool) or not isinstance(reach, int) or reach < 0:
        raise OptionError(f"'reach' must be a whole number of at least 0, in pieces. Got {reach!r}.")
    if chunk is None:
        raise OptionError(f"reach={reach} counts pieces of a prompt; give their length too, chunk=...")
    kind = getattr(getattr(parts.decoder, "config", None), "_attn_implementation", None) or "eager"
    if "flash" in kind:
        raise UnsupportedModelError(
            f"reach={reach} hides tokens from some queries only, which FlashAttention does not take; load with "
            "attn_implementation='sdpa'"
        )


class Chunks:
    """In place of the decoder's ``forward``: calls of more than ``size`` tokens run as several."""

    def __init__(self, anatomy: Anatomy, funnel: Funnel, size: int) -> None:
        self.anatomy, self.funnel, self.size = anatomy, funnel, size

    def place(self, stack: ExitStack) -> None:
        """Put it on; an instance attribute, which is gone when the stack closes."""
        decoder = self.anatomy.decoder
        own = vars(decoder).get("forward")
        plain = decoder.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            call = self.funnel.current.get()
            if call is None or call.m <= self.size:
                return plain(*args, **kwargs)
            return self._run(plain, call, args, kwargs)

        vars(decoder)["forward"] = forward
        if own is None:
            stack.callback(vars(decoder).pop, "forward")
        else:
            stack.callback(vars(decoder).__setitem__, "forward", own)

    def _run(self, plain: Any, call: Call, args: Any, kwargs: dict[str, Any]) -> Any:
        kwargs = dict(zip(("input_ids",), args)) | kwargs
        self._refuse(call, args, kwargs)
        cache, mask = kwargs["past_key_values"], kwargs.get("attention_mask")
        start = seen = self._held(cache)[0].seen
        if kwargs.get("position_ids") is None:
            kwargs["position_ids"] = torch.arange(start, start + call.m, device=call.where.device)[None]
        states, out, at = [], None, 0
        left: dict[int, tuple[int, int]] = {}
        visual = self._visual(call) if call.first else None
        numbers = None if visual is None else torch.full_like(visual, -1, dtype=torch.int32)
        index = 0
        while at < call.m:
            stop = self._stop(mask, at, call.m)
            # where tokens were dropped, a piece stands for those as well: up to where its last token stood
            stood = call.index[:, at:stop].masked_fill(~call.kept[:, at:stop], -1)
            upto = start + (call.n if stop == call.m else max(stop, int(stood.max()) + 1))
            part = Piece(call.first, stop == call.m, call, left, visual, index, numbers)
            piece = self._piece(call, at, stop, upto - seen, part)
            if numbers is not None:
                _number(numbers, piece, index)
            self.funnel.current.call = piece
            held = self._held(cache)  # heads that came to hold different numbers made a layer another object
            for layer in held:
                layer.expect(piece.where, piece.n, piece.padded)
            given = self._slice(kwargs, call, at, stop)
            given["attention_mask"] = self._mask(mask, piece, held, at, stop, call.m)
            out = plain(**given)
            states.append(out[0])
            at, seen, index = stop, upto, index + 1
        self.funnel.current.call = call
        whole = torch.cat(states, 1)
        if isinstance(out, tuple):
            return (whole, *out[1:])
        assert out is not None
        out.last_hidden_state = whole
        return out

    @staticmethod
    def _held(cache: Any) -> list[HeldLayer]:
        return [layer for layer in cache.layers if isinstance(layer, HeldLayer)]

    @staticmethod
    def _visual(call: Call) -> Tensor:
        """(B, n) bool: which positions of a prompt hold visual tokens."""
        table = torch.zeros(call.b, call.n + 1, dtype=torch.bool, device=call.where.device)
        at = call.where.masked_fill(~call.kept, call.n).long()
        return table.scatter(1, at, call.visual & call.kept)[:, : call.n]

    def _refuse(self, call: Call, args: Any, kwargs: dict[str, Any]) -> None:
        if call.cache is None:
            raise UnsupportedCallError(
                f"pieces of {self.size} tokens find those before them in the KV cache, but this call runs with "
                "use_cache=False; call with the cache, or leave chunk out"
            )
        config = self.anatomy.decoder.config
        for name in _WHOLE:
            if kwargs.get(name, getattr(config, name, False)):
                raise UnsupportedCallError(
                    f"{name} lists all tokens of a call layer by layer, and this one runs in pieces of {self.size}; "
                    f"leave out {name}, or chunk"
                )
        if len(args) > 1:
            raise UnsupportedCallError("a decoder that runs in pieces takes keyword arguments only")

    def _stop(self, mask: Any, at: int, m: int) -> int:
        """Where the piece from token ``at`` ends: never inside tokens that see later ones (an image, in Gemma 3)."""
        stop = min(at + self.size, m)
        if isinstance(mask, dict):
            return max(self._stop(one, at, m) for one in mask.values())
        if not isinstance(mask, Tensor) or mask.ndim != 4:
            return stop
        new = mask[:, :, :, mask.shape[-1] - m :]
        seen = new if new.dtype == torch.bool else new == 0
        while stop < m and bool((later := seen[:, :, at:stop, stop:].any((0, 1, 2))).any()):
            stop += int(later.nonzero()[-1]) + 1
        return stop

    @staticmethod
    def _piece(call: Call, at: int, stop: int, n: int, piece: Piece) -> Call:
        """What is known about the tokens from ``at`` to ``stop`` of a call, which stand for ``n`` of those it had."""
        kept = call.kept[:, at:stop]
        return replace(
            call,
            n=n,
            first=call.first and at == 0,
            index=torch.arange(stop - at, device=kept.device).expand(call.b, -1),
            kept=kept,
            visual=call.visual[:, at:stop],
            where=call.where[:, at:stop],
            ends=None if call.ends is None else call.ends[:, at:stop],
            whole=call.whole,
            lengths=[],
            attention={},
            heads={},
            transitions=[],
            piece=piece,
        )

    def _mask(self, mask: Any, piece: Call, held: list[HeldLayer], at: int, stop: int, m: int) -> Any:
        def cut(t: Any) -> Any:
            if not isinstance(t, Tensor) or t.ndim != 4:
                return t
            past = t.shape[-1] - m
            rows = t[:, :, at:stop] if t.shape[2] == m else t
            return torch.cat([rows[..., :past], rows[..., past + at : past + stop]], -1)

        if isinstance(mask, dict):
            return {kind: cut(t) for kind, t in mask.items()}
        if isinstance(mask, Tensor) and mask.ndim == 4:
            return cut(mask)
        return self.funnel.flat_mask(piece, held)

    @staticmethod
    def _slice(kwargs: dict[str, Any], call: Call, at: int, stop: int) -> dict[str, Any]:
        """The decoder's arguments for the tokens from ``at`` to ``stop`` of call.m."""
        b, m = call.b, call.m
        made = dict(kwargs)
        for name in ("input_ids", "inputs_embeds", "visual_pos_masks", "cache_position", "token_type_ids"):
            if isinstance(t := kwargs.get(name), Tensor) and t.shape[: min(2, t.ndim)] in ((b, m), (1, m), (m,)):
                made[name] = t[at:stop] if t.ndim == 1 else t[:, at:stop]
        made["position_ids"] = kwargs["position_ids"][..., at:stop]
        if (deep := kwargs.get("deepstack_visual_embeds")) is not None:
            mask = kwargs["visual_pos_masks"]
            number = (mask.flatten().cumsum(0) - 1).view_as(mask)  # of each token among the features
            mine = number[:, at:stop][made["visual_pos_masks"]]
            made["deepstack_visual_embeds"] = [d[mine] for d in deep]
        return made


def _number(numbers: Tensor, piece: Call, index: int) -> None:
    """Write down, in numbers (B, positions), that a piece's visual tokens are in piece ``index``."""
    rows, columns = (piece.visual & piece.kept).nonzero(as_tuple=True)
    numbers[rows, piece.where[rows, columns].long()] = index
