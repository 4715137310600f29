"""What a method inside the LLM may look at: attention rows, queries and keys, transitions, the encoder's signals."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import SignalError, UnsupportedCallError
from ..parts.score import attention_rows
from ..parts.transition import transition
from ..tokens import Tokens
from . import items, signals
from .call import Call, Heads, pick
from .model import Anatomy, attention_of, mlp_of, norms_of
from .tap import Seen, Watch, probe

if TYPE_CHECKING:
    from .funnel import Funnel

#: Signals that are read from the LLM's attention.
TAPPED = ("last_attention", "next_attention", "last_heads", "next_heads")
_UNEVEN = "{} reads the attention of a later turn, and heads of the cache hold different numbers of earlier entries"


class LastRow(Watch):
    """Keeps the attention of the last token of each row in one layer, for the method that acts before the next."""

    def __init__(self, funnel: Funnel, layer: int, method: Any) -> None:
        self.funnel, self.layer, self.method = funnel, layer, method

    def after(self, seen: Seen) -> None:
        call = self.funnel.current.get()
        if call is not None and call.n > 1:
            report = self.funnel.inputs.report
            with report.clock(report.row("layers", str(self.method), self.layer + 1), seen.q.device):
                call.attention[self.layer] = last_row(seen, call)


class LastHeads(Watch):
    """Keeps the queries and keys of one layer, for the methods that act before the next."""

    def __init__(self, funnel: Funnel, layer: int) -> None:
        self.funnel, self.layer = funnel, layer

    def after(self, seen: Seen) -> None:
        call = self.funnel.current.get()
        if call is not None and call.n > 1 and bool(call.visual.any()):
            call.heads[self.layer] = heads_of(seen, call)


def heads_of(seen: Seen, call: Call, held: Tensor | None = None) -> Heads:
    """What a method may look at of one attention call. held (B, P): positions of what came before, -1 at padding."""
    past = seen.k.shape[2] - call.m
    visible = torch.ones(call.b, past, dtype=torch.bool, device=seen.k.device) if held is None else held >= 0
    if past and isinstance(seen.mask, Tensor) and seen.mask.ndim == 4:
        if bool((seen.mask != seen.mask[:, :1]).any()):
            raise UnsupportedCallError(_UNEVEN.format("the method"))
        row = seen.mask[:, 0, -1, :past].expand(call.b, -1)
        visible = row if row.dtype == torch.bool else row == 0
    return Heads(seen.q * seen.scaling, seen.k[:, :, past:], seen.k[:, :, :past], visible)


def last_row(seen: Seen, call: Call, window: int | None = None, held: Tensor | None = None) -> Tensor:
    """Attention of each row's last real token on the call's own tokens, (B, H, m).

    window, and held as in :func:`heads_of`: where no mask tells them.
    """
    last = call.kept.long().cumsum(1).argmax(1)  # right padding, too
    q = pick(seen.q, last[:, None], dim=2)
    if isinstance(seen.mask, Tensor) and seen.mask.ndim == 4:
        mask = seen.mask.expand(call.b, *seen.mask.shape[1:])
        mask = pick(mask, last[:, None], dim=2)
    else:
        before = seen.k.shape[2] - call.m
        past = torch.ones(call.b, before, dtype=torch.bool, device=q.device) if held is None else held >= 0
        own = call.kept & (torch.arange(call.m, device=q.device) <= last[:, None])
        if window is not None:
            own = own & (call.where.gather(1, last[:, None]) - call.where < window)
            past = past if held is None else past & (call.where.gather(1, last[:, None]) - held < window)
        mask = torch.cat([past, own], 1)[:, None, None]
    return attention_rows(q, seen.k, seen.scaling, mask)[:, :, 0, seen.k.shape[2] - call.m :]


def transitions(layers: Sequence[nn.Module], funnel: Funnel, stack: ExitStack) -> None:
    """Hooks on attention and MLP of these layers: how much each changed every token."""

    def hook(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        call = funnel.current.get()
        if call is None or call.n < 2 or not bool(call.visual.any()):
            return
        given = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        made = out[0] if isinstance(out, tuple) else out
        call.transitions.append(transition(given, made, call.kept))

    for layer in layers:
        for module in (attention_of(layer), mlp_of(layer)):
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)


def attention(
    m: Any,
    i: int,
    layer: nn.Module,
    x: Tensor,
    call: Call,
    positions: Any,
    windows: Sequence[int | None],
    rows: dict[str, Tensor],
) -> Heads | None:
    """Fill in the attention rows that a method asks for before layer i, and return queries and keys if it does."""
    needs = {*m.card.needs}
    for name, read in (("last_heads", i - 1), ("next_heads", i)):
        if name in needs and (window := windows[read]) is not None and (span := _span(call)) > window:
            raise SignalError(
                f"{m.name} reads attention over the whole prompt, and layer {read} sees {window} of {span} tokens; "
                "choose another layer"
            )
    if "last_attention" in needs:
        rows["last_attention"] = call.attention[i - 1]
    if "last_heads" in needs:
        return call.heads[i - 1]
    if not needs & {"next_attention", "next_heads"}:
        return None
    hidden = norms_of(layer)[0](x)
    seen = probe(attention_of(layer), hidden, position_embeddings=positions)
    held, past = call.held(i), None
    if held is not None and held.ragged:
        raise UnsupportedCallError(_UNEVEN.format(m.name))
    if held is not None and held.where is not None:  # of earlier turns; the probe knows no cache
        seen, past = seen._replace(k=torch.cat([held.keys, seen.k], 2)), held.where[:, 0]
    if "next_attention" in needs:
        rows["next_attention"] = last_row(seen, call, windows[i], past)
    return heads_of(seen, call, past) if "next_heads" in needs else None


def _span(call: Call) -> int:
    """How many places the longest row covers from its first token to its last, those dropped on the way included."""
    last = call.where.amax(1)
    first = call.where.masked_fill(~call.kept, torch.iinfo(torch.int64).max).amin(1) if call.first else 0 * last
    return int((last - first).max()) + 1


def alone(m: Any) -> bool:
    """Whether items must be decided one by one, as their texts differ in length."""
    return bool({"last_heads", "next_heads", "text"} & names(m))


def tokens(
    anatomy: Anatomy,
    m: Any,
    i: int,
    batch: list[items.Item],
    call: Call,
    x: Tensor,
    rows: dict[str, Tensor],
    heads: Heads | None,
) -> Tokens:
    """The tokens of some items before layer i, x (B, m, D), with the signals that a method needs."""
    made = {k: torch.stack([a[it.row][:, it.where] for it in batch]) for k, a in rows.items()}
    places = [(it.row, call.index[it.row, it.where]) for it in batch]
    read = {n: signals.read(anatomy, n, places, call.columns) for n in names(m) & {*signals.VISION}}
    made |= {n: v for n, v in read.items() if v is not None}
    if "transitions" in m.card.needs:
        every = torch.stack(call.transitions, 1)  # (B, S, m)
        made["transitions"] = torch.stack([every[it.row][:, it.where] for it in batch])
    if "text" in names(m) and call.prompt is not None:  # in the LLM both live in the space of its embeddings
        made["image_embeds"] = torch.stack([call.prompt[row, at] for row, at in places])
    if alone(m):
        made |= asked(call, batch[0], heads)
    inside = torch.stack([x[it.row, it.where] for it in batch])
    return Tokens(inside, 0, batch[0].full, i, len(anatomy.layers), **made)


def names(m: Any) -> set[str]:
    """Every signal that a method may use."""
    return {n for need in m.card.needs for n in need.split("|")}


def asked(call: Call, it: items.Item, heads: Heads | None) -> dict[str, Any]:
    """The text after the first visual token of an item's row, and queries and keys over all its tokens."""
    row = it.row
    real = call.kept[row]
    own = real.nonzero()[:, 0]  # tokens of the row, in order
    first = call.visual[row].nonzero()[:, 0][:1]
    words = own[call.words[row][own] & (own > first)]
    words = words if len(words) else own[-1:]
    assert call.prompt is not None
    made: dict[str, Any] = {"text": call.prompt[row, call.index[row, words]][None]}
    if heads is None:
        return made
    past = heads.past[row][:, heads.visible[row]]  # (g, P, d)
    p = past.shape[1]
    q = heads.q[row][:, own]
    place = own.new_zeros(call.m).scatter(0, own, torch.arange(len(own), device=own.device) + p)
    made |= {
        "q": torch.cat([q.new_zeros(q.shape[0], p, q.shape[2]), q], 1)[None],
        "k": torch.cat([past, heads.k[row][:, own]], 1)[None],
        "where": place[it.where][None],
        "asks": place[words][None],
    }
    return made
