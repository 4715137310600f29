"""Queries and keys that layer methods are handed: attention rebuilt from them is that of the eager model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foveate
from foveate.errors import SignalError
from foveate.parts.score import text_rows
from foveate.sites.model import anatomy
from foveate.testing import FAMILIES
from foveate.testing.tiny_prompt import Tiny
from site_kit import make
from spies import Spy

FULL = [f for f in FAMILIES["vlm"] if f != "gemma3"]
LAYOUTS: list[dict[str, Any]] = [{}, {"batch": 2, "ragged": True}]


def shown(z: Tiny, needs: tuple[str, ...], at: int, before: str = "", **inputs: Any) -> list[Any]:
    """What a method of these needs sees before layer ``at``, one prompt row after the other."""
    spy = Spy("layers", needs, (at,))
    plan = [*foveate.Plan.of(before), spy]
    with torch.no_grad(), foveate.apply(z.model, plan):
        z.model(**(z.inputs | inputs))
    return spy.seen


def truth(z: Tiny, layer: int, **inputs: Any) -> Tensor:
    """(B, H, n, P + n) attention of one layer, as the eager model gives it."""
    with torch.no_grad():
        maps: tuple[Tensor, ...] = z.model(**(z.inputs | inputs), output_attentions=True).attentions
    return maps[layer]


def rows_of(z: Tiny) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For each row: its tokens, (n,) bool whether visual, and the words after the first visual one."""
    out = []
    for ids, mask in zip(z.inputs["input_ids"], z.inputs["attention_mask"]):
        own = mask.nonzero()[:, 0]
        visual = anatomy(z.model).visual(ids[None])[0]
        first = visual.nonzero()[0, 0]
        out.append((own, visual, own[~visual[own] & (own > first)]))
    return out


@pytest.mark.parametrize("layout", LAYOUTS, ids=["one", "ragged"])
@pytest.mark.parametrize(("when", "at"), [("last", 2), ("next", 2), ("next", 0)])
@pytest.mark.parametrize("family", FULL)
def test_attention_can_be_rebuilt(family: str, when: str, at: int, layout: dict[str, Any]) -> None:
    z = make(family, "eager", **layout)
    seen = shown(z, (f"{when}_heads", f"{when}_attention"), at)
    maps = truth(z, at - (when == "last"))
    assert len(seen) == len(maps)
    rows = rows_of(z)
    order = sorted(range(len(rows)), key=lambda r: int(rows[r][1].sum()))  # items are decided by length
    for t, row in zip(seen, order):
        own, visual, asks = rows[row]
        assert t.q.shape[2] == t.k.shape[2] == len(own)
        there = own[t.where[0]]  # line ends are left out
        assert bool(visual[there].all())
        assert torch.equal(own[t.asks[0]], asks)
        wanted = maps[row][:, asks][:, :, own]
        torch.testing.assert_close(text_rows(t.q, t.k, t.asks)[0], wanted, atol=1e-5, rtol=0)
        given = t.last_attention if when == "last" else t.next_attention
        rebuilt = text_rows(t.q, t.k, t.asks[:, -1:], t.where)[:, :, 0]
        torch.testing.assert_close(rebuilt, given, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl"])
def test_what_was_dropped_before_is_not_among_the_keys(family: str) -> None:
    z = make(family, "eager", batch=2, ragged=True)
    seen = shown(z, ("last_heads", "last_attention"), 2, "divprune(keep=0.5) + fastv(layer=1, keep=0.5)")
    for t, (own, visual, asks) in zip(seen, sorted(rows_of(z), key=lambda r: int(r[1].sum()))):
        assert t.k.shape[2] < len(own)
        assert t.asks.shape[1] == len(asks)
        rebuilt = text_rows(t.q, t.k, t.asks[:, -1:], t.where)[:, :, 0]
        torch.testing.assert_close(rebuilt, t.last_attention, atol=1e-5, rtol=0)
        assert int(visual[own].sum()) > t.n


@pytest.mark.parametrize("when", ["last", "next"])
@pytest.mark.parametrize("family", ["llava", "internvl", "llava_onevision"])
def test_a_second_turn_sees_the_first(family: str, when: str) -> None:
    z = make(family, "eager")
    words = torch.tensor([[1, 40, 41, 42, 43]])
    mask = torch.cat([torch.ones_like(words), z.inputs["attention_mask"]], 1)

    def cache() -> Any:
        with torch.no_grad():
            return z.model(input_ids=words, use_cache=True).past_key_values

    maps = truth(z, 1 if when == "last" else 2, attention_mask=mask, past_key_values=cache())
    (t,) = shown(z, (f"{when}_heads", f"{when}_attention"), 2, attention_mask=mask, past_key_values=cache())
    ((own, _, asks),) = rows_of(z)
    assert t.k.shape[2] == 5 + len(own)
    assert torch.equal(t.asks[0] - 5, asks)
    torch.testing.assert_close(text_rows(t.q, t.k, t.asks)[0], maps[0][:, asks], atol=1e-5, rtol=0)
    given = t.last_attention if when == "last" else t.next_attention
    rebuilt = text_rows(t.q, t.k, t.asks[:, -1:], t.where)[:, :, 0]
    torch.testing.assert_close(rebuilt, given, atol=1e-5, rtol=0)


@pytest.mark.parametrize("before", ["", "divprune(keep=4)"])
@pytest.mark.parametrize(
    ("when", "at", "window"), [("last", 1, 0), ("last", 2, None), ("next", 1, None), ("next", 2, 2)]
)
def test_windows_are_asked_of_the_layer_that_is_read(when: str, at: int, window: int | None, before: str) -> None:
    z = make("gemma3", "eager")  # layers 0 and 2 have a window of 16; the prompt is longer, also with 4 visual tokens
    needs = (f"{when}_heads", f"{when}_attention")
    if window is not None:
        with pytest.raises(SignalError, match=rf"layer {window} sees 16 of {z.inputs['input_ids'].shape[1]} tokens"):
            shown(z, needs, at, before)
        return
    (t,) = shown(z, needs, at, before)
    given = t.last_attention if when == "last" else t.next_attention
    rebuilt = text_rows(t.q, t.k, t.asks[:, -1:], t.where)[:, :, 0]
    torch.testing.assert_close(rebuilt, given, atol=1e-5, rtol=0)
