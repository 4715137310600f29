"""What a cache method may look at, read from a layer's attention and from the layer itself; only what is asked for."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import SignalError
from ..parts.score import attention_rows
from ..stores.held import HeldLayer
from ..tokens import Entries
from .call import Call
from .model import Anatomy, attention_of
from .tap import Seen

#: Queries whose attention is computed at a time where all of them are summed up.
CHUNK = 256


class Recent(NamedTuple):
    """Queries q (B, H, w, d) after RoPE and the positions at (B, w) of their tokens, -1 at padding."""

    q: Tensor
    at: Tensor

    @classmethod
    def of(cls, seen: Seen, call: Call) -> Recent:
        """Of one call."""
        return cls(seen.q, call.where)

    def last(self, w: int) -> Recent:
        """The last w, with memory of their own."""
        return Recent(self.q[:, :, -w:].clone(), self.at[:, -w:])

    def then(self, new: Recent, w: int) -> Recent:
        """The last w of these that were not taken back since, and of later ones."""
        if len(self.at) != len(new.at):
            return new.last(w)
        old = self.at < new.at.clamp(min=0).amin(1, keepdim=True)
        stay = int(old.sum(1).min())
        return Recent(torch.cat([self.q[:, :, :stay], new.q], 2), torch.cat([self.at[:, :stay], new.at], 1)).last(w)


class Sources:
    """Hooks on the decoder and its layers that catch what signals are made of."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.tables: dict[int, Any] = {}  # by layer: (cos, sin), (B or 1, m, d) each
        self.following: Tensor | None = None

    def place(self, needs: set[str], stack: ExitStack) -> None:
        """Put on the hooks that these signals need."""
        if not needs & {"raw_queries", "rotary"}:
            return
        decoder = self.anatomy.decoder
        stack.callback(decoder.register_forward_pre_hook(self._positions, with_kwargs=True).remove)
        stack.callback(decoder.register_forward_hook(self._done).remove)
        for i, layer in enumerate(self.anatomy.layers):
            stack.callback(layer.register_forward_pre_hook(self._table(i), with_kwargs=True).remove)

    def _positions(self, module: Any, args: Any, kwargs: Any) -> None:
        at = kwargs.get("position_ids")
        at = at[-3:].amax(0) if at is not None and at.ndim == 3 else at
        self.following = None if at is None else at.amax(1) + 1

    def _done(self, module: Any, args: Any, out: Any) -> None:
        self.tables, self.following = {}, None

    def _table(self, i: int) -> Any:
        def hook(layer: nn.Module, args: Any, kwargs: Any) -> None:
            self.tables[i] = kwargs.get("position_embeddings")

        return hook

    def raw(self, layer: int, q: Tensor) -> Tensor:
        """q (B, H, m, d) before RoPE."""
        table = self.tables.get(layer)
        if table is None or table[0].ndim != 3:
            raise SignalError(f"{self.anatomy.name} does not tell its layers how RoPE turns them (signal raw_queries)")
        cos, sin = (t[:, None].float() for t in table)
        width = cos.shape[-1]
        turned, rest = q[..., :width].float(), q[..., width:]
        half = turned.roll(width // 2, -1) * _signs(width, q.device)
        # the tables may be scaled (long contexts), so it takes a division to undo them
        return torch.cat([((turned * cos + half * sin) / (cos**2 + sin**2)).to(q.dtype), rest], -1)

    def rotary(self, layer: int, b: int) -> Tensor:
        """(B, d/2) angles from one position to the next."""
        rate = frequencies(self.anatomy, layer)
        if rate is None:
            raise SignalError(f"{self.anatomy.name} has no rotary embedding that could be read (signal rotary)")
        return rate.float().expand(b, -1)

    def output(self, layer: int, b: int, heads: int) -> Tensor:
        """(B, H, d, D): what each query head's output is multiplied by."""
        weight: Tensor = output_of(self.anatomy, layer).weight
        return weight.view(weight.shape[0], heads, -1).permute(1, 2, 0).expand(b, -1, -1, -1)


def _signs(width: int, device: torch.device) -> Tensor:
    """rotate_half backwards: the second half comes first with a plus, the first one second with a minus."""
    return torch.cat([torch.ones(width // 2, device=device), -torch.ones(width // 2, device=device)])


def frequencies(anatomy: Anatomy, layer: int) -> Tensor | None:
    """The decoder's inverse frequencies (d/2,) at a layer, or None."""
    module = getattr(anatomy.decoder, "rotary_emb", None)
    kinds = getattr(anatomy.decoder.config, "layer_types", None)
    names = [f"{kinds[layer]}_inv_freq", "inv_freq"] if kinds else ["inv_freq"]
    return next((r for name in names if (r := getattr(module, name, None)) is not None), None)


def output_of(anatomy: Anatomy, layer: int) -> Any:
    """The output projection of a layer's attention, or None."""
    return getattr(attention_of(anatomy.layers[layer]), "o_proj", None)


def given(anatomy: Anatomy) -> set[str]:
    """Signals of stage cache that a model can give."""
    found = {"queries", "received", "recalled"}
    if frequencies(anatomy, 0) is not None:
        found |= {"rotary", "raw_queries"}
    if (projection := output_of(anatomy, 0)) is not None and projection.weight.ndim == 2:
        found.add("output")
    return found


def entries(
    m: Any,
    layer: int,
    held: HeldLayer,
    recent: Recent,
    scaling: float,
    sources: Sources,
    call: Call,
    late: bool = False,
) -> Entries:
    """One layer as a method sees it. ``late``: while tokens are generated, when statistics go on from what was kept."""
    keys, values, where = held.dense()
    needs = {n for need in m.card.needs for n in need.split("|")[:1]}
    b, heads = recent.q.shape[:2]
    window = min(getattr(m, "window", recent.q.shape[2]), recent.q.shape[2])
    visual = call.visual if not late and call.visual.shape[1] == held.held and not held.ragged else None
    made: dict[str, Any] = {}
    if "queries" in needs:
        made["queries"] = recent.q[:, :, recent.q.shape[2] - window :]
    if "received" in needs:
        tally = held.dense_tally()
        made["received"] = received(recent, keys, where, scaling) if tally is None else tally
    if "raw_queries" in needs:
        made["raw_queries"] = sources.raw(layer, recent.q[:, :, -call.m :])
    if "rotary" in needs:
        made["rotary"], made["following"] = sources.rotary(layer, b), sources.following
    if "output" in needs:
        made["output"] = sources.output(layer, b, heads)
    return Entries(
        keys=keys,
        values=values,
        scaling=scaling,
        valid=(where >= 0).any(1) if held.padded or held.ragged else None,
        visual=visual,
        held=where >= 0 if held.ragged else None,
        layer=layer,
        layers=len(sources.anatomy.layers),
        **made,
    )


def before(what: Entries, tail: int) -> Entries:
    """The entries without the last ones."""
    n = what.n - tail
    fields: dict[str, Any] = {name: getattr(what, name)[:, :, :n] for name in ("keys", "values")}
    for name in ("received", "held"):
        if (t := getattr(what, name)) is not None:
            fields[name] = t[:, :, :n]
    return replace(what, **fields, valid=None if what.valid is None else what.valid[:, :n])


def received(recent: Recent, keys: Tensor, where: Tensor, scaling: float) -> Tensor:
    """Attention that entries get from queries, summed: (B, H, n) float32. keys (B, g, n, d), where (B, 1 or g, n)."""
    b, h, w = recent.q.shape[:3]
    n = keys.shape[2]
    total = torch.zeros(b, h, n, device=keys.device)
    aligned = w == n and where.shape[1] == 1  # column by column the same tokens: later ones are not even computed
    for at in range(0, w, CHUNK):
        stop = min(n, at + CHUNK) if aligned else n
        place = where[:, :, None, :stop]
        mask = (place >= 0) & (place <= recent.at[:, None, at : at + CHUNK, None])
        mask = mask.repeat_interleave(h // mask.shape[1], 1) if mask.shape[1] > 1 else mask
        rows = attention_rows(recent.q[:, :, at : at + CHUNK], keys[:, :, :stop], scaling, mask)
        total[..., :stop] += rows.nan_to_num_(0.0).sum(2)  # padding asks for nothing
    return total
