"""The signal ``recalled``: a model reads its prompt once more, and what its queries then look at is written down.

The prompt's own embeddings (of the tokens that are left, pictures included) are fed again behind the cache, a stretch
at a time, after ``ask`` where the method has such token ids ("Repeat the previous text:"). After each stretch the cache
is rolled back, so nothing of it stays.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import SignalError, UnsupportedCallError
from ..parts.replay import recalled
from ..stores.held import HeldLayer
from .call import Call, pick
from .tap import Seen

if TYPE_CHECKING:
    from .cache import CacheSite


#: What a cache layer is made of.
_STATE = ("keys", "values", "where", "seen", "padded", "gaps", "incoming", "advance", "tally")


class Replay:
    """Feeds a prompt again.

    Attributes:
        running: while it does: watchers of attention hand over what they see.
    """

    def __init__(self, site: CacheSite) -> None:
        self.site = site
        self.running = False
        self.prompt: Tensor | None = None  # (B, m, D)
        self.next: Tensor | None = None  # (B,) the position after the prompt's last
        self.places: Tensor | None = None  # (B, m) where its tokens stand in the sequence, -1 at padding
        self.scores: dict[int, Tensor] = {}
        self.sinks = 0
        self.axes = 1
        self._part: tuple[Tensor, slice, int] | None = None

    def place(self, stack: ExitStack) -> None:
        """Put on the hook that sees the prompt enter the decoder (after the funnel's)."""
        stack.callback(self.site.anatomy.decoder.register_forward_pre_hook(self._see, with_kwargs=True).remove)
        stack.callback(self._forget)

    def _forget(self) -> None:
        self.prompt = self.next = self.places = self._part = None

    def _see(self, module: Any, args: Any, kwargs: Any) -> None:
        call = self.site.funnel.current.get()
        if self.running or call is None or not call.first:
            return
        x, at = kwargs.get("inputs_embeds"), kwargs.get("position_ids")
        if x is None:
            x = module.get_input_embeddings()(kwargs.get("input_ids", args[0] if args else None))
        self.prompt, self.axes, self.places = x, 1, call.where
        if at is None:
            self.next = call.where.amax(1) + 1
        else:
            self.axes = at.shape[0] if at.ndim == 3 else 1
            self.next = (at[-3:].amax(0) if at.ndim == 3 else at).expand(call.b, -1).amax(1) + 1

    def run(self, m: Any, layers: list[int], call: Call) -> list[Tensor]:
        """The strongest attention that each entry of these layers gets, (B, g, n) each, -inf at padding."""
        cache = call.cache
        for i, held in enumerate(cache.layers):
            if type(held) is not HeldLayer or (i in layers and held.where is not None and held.where.shape[1] > 1):
                raise UnsupportedCallError(
                    f"{m.name} must see every head's entries as the prompt left them; put it before other cache methods"
                )
        if self.prompt is None or self.places is None:
            raise SignalError(f"{m.name} reads the prompt again, and this call did not show it to the decoder")
        order = (self.places < 0).to(torch.uint8).argsort(dim=1, stable=True)  # stretches begin with a row's own text
        self.prompt, self.places = pick(self.prompt, order), self.places.gather(1, order)
        self.scores = {i: _empty(cache.layers[i]) for i in layers}
        self.sinks = int(getattr(m, "sinks", 0))
        ask = self._ask(m)
        step = int(getattr(m, "stretch", 2048))
        funnel, sources = self.site.funnel, self.site.sources
        here = funnel.current
        kept = (here.call, here.ids, here.media, here.notes, sources.tables, sources.following)
        self.running = True
        try:
            for start in range(0, self.prompt.shape[1], step):
                stop = min(start + step, self.prompt.shape[1])
                self._stretch(call, ask, slice(start, stop))
        finally:
            self.running = False
            here.call, here.ids, here.media, here.notes, sources.tables, sources.following = kept
        return [self.scores.pop(i) for i in layers]

    def _ask(self, m: Any) -> Tensor | None:
        """(1, a, D) embeddings of the words that ask for a repetition."""
        ids = getattr(m, "ask", None)
        if not ids or self.prompt is None:
            return None
        rows: Tensor = self.site.anatomy.decoder.get_input_embeddings()(torch.tensor([ids], device=self.prompt.device))
        return rows

    def _stretch(self, call: Call, ask: Tensor | None, part: slice) -> None:
        """One stretch of the prompt; leaves the cache as it was."""
        assert self.prompt is not None and self.next is not None and self.places is not None  # noqa: PT018
        b, cache = call.b, call.cache
        x, real = self.prompt[:, part], self.places[:, part] >= 0
        if ask is not None:
            x = torch.cat([ask.expand(b, -1, -1).to(x.dtype), x], 1)
            real = torch.cat([real.new_ones(b, ask.shape[1]), real], 1)
        r = x.shape[1]
        at = self.next[:, None] + real.cumsum(1) - 1
        at = at.clamp(min=0).expand(self.axes, b, r) if self.axes > 1 else at.clamp(min=0)
        # updates make new tensors, so the old ones are all that it takes to go back
        before = [{name: getattr(layer, name) for name in _STATE} for layer in cache.layers]
        here = self.site.funnel.current
        here.ids, here.media, here.notes = real.new_zeros(b, r, dtype=torch.long), False, ()
        self._part = (real, part, r)
        try:
            with torch.no_grad():
                self.site.anatomy.decoder(
                    inputs_embeds=x, attention_mask=real.long(), position_ids=at, past_key_values=cache, use_cache=True
                )
        finally:
            for layer, state in zip(cache.layers, before):
                for name, value in state.items():
                    setattr(layer, name, value)

    def look(self, layer: int, held: HeldLayer, seen: Seen) -> None:
        """Attention of a stretch's queries ran in one layer."""
        if layer not in self.scores or self._part is None or self.places is None or held.where is None:
            return
        real, part, r = self._part
        n = held.held - r
        where, out = held.where[:, 0, :n], self.scores[layer]
        for b in range(len(real)):
            lively = real[b].nonzero()[:, 0]
            places = self.places[b, part]
            mine = torch.isin(where[b], places[places >= 0]).nonzero()[:, 0]
            if not len(mine) or not len(lively):
                continue
            sinks = (where[b] >= 0).nonzero()[:, 0][: self.sinks]
            columns = torch.cat([sinks, mine])
            q, k = seen.q[b : b + 1, :, lively], seen.k[b : b + 1]
            got = recalled(q, k[:, :, n:][:, :, lively], k[:, :, :n][:, :, columns], seen.scaling, len(sinks))
            out[b, :, mine] = got[0]


def _empty(held: HeldLayer) -> Tensor:
    return torch.full(held.keys.shape[:3], -torch.inf, device=held.keys.device)
