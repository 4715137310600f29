"""DELTA on a model: selection layers read everything, the others what was picked, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import foveate
from foveate.cache.delta import DELTA
from foveate.errors import OptionError
from foveate.stores.paged import Paged, Picks
from site_kit import generate, logits_of, make

PLAN = "delta(keep={}, page=4, recent=1, first=1, groups=1)"


def test_pages_are_picked_and_read_exactly() -> None:
    keys, values = torch.randn(2, 2, 30, 8), torch.randn(2, 2, 30, 8)
    q, k, v = torch.randn(2, 4, 1, 8), torch.randn(2, 2, 1, 8), torch.randn(2, 2, 1, 8)
    picks = Picks()
    selects, reads = (Paged(keys, values, picks, first, 4, 12, 1) for first in (True, False))
    full = selects.attend(q, k, v, 0.3)
    wide = [torch.cat(pair, 2).repeat_interleave(2, 1) for pair in ((keys, k), (values, v))]
    torch.testing.assert_close(full, (q @ wide[0].mT * 0.3).softmax(-1) @ wide[1], atol=1e-5, rtol=0)
    out = reads.attend(q, k, v, 0.3)
    assert picks.pages is not None
    assert picks.pages.shape == (2, 3)
    assert bool((picks.pages[:, -1] == 7).all()), "the newest page"
    for b in range(2):
        at = [i for p in picks.pages[b].tolist() for i in range(4 * p, min(30, 4 * p + 4))] + [30]
        a, c = (t[b : b + 1, :, at] for t in wide)
        one = (q[b : b + 1] @ a.mT * 0.3).softmax(-1) @ c
        torch.testing.assert_close(out[b : b + 1], one, atol=1e-5, rtol=0)
    assert reads.reads == 3 * 4 - 2


@pytest.mark.parametrize("name", ["llama", "qwen2_5_vl"])
def test_reading_every_page_says_what_the_model_says(name: str) -> None:
    z = make(name)
    bare, _ = generate(z)
    out, _ = generate(z, PLAN.format(1.0))
    torch.testing.assert_close(logits_of(out), logits_of(bare), atol=2e-5, rtol=0)


def test_layers_after_the_selection_read_less_and_keep_all() -> None:
    z = make("llama")
    out, _ = generate(z, PLAN.format(8))
    n = z.inputs["input_ids"].shape[1]
    layers = out.past_key_values.layers
    assert all(layer.held == n + 3 for layer in layers)
    assert not hasattr(layers[0], "compact")
    assert layers[1].compact.reads == n + 2
    assert all(0 < layer.compact.reads <= 8 for layer in layers[2:])


def test_it_is_saved_with_what_its_layers_share(tmp_path: Path) -> None:
    z = make("llama")
    token = torch.tensor([[7]])
    with torch.no_grad(), foveate.apply(z.model, PLAN.format(8)):
        cache = z.model(**z.inputs).past_key_values
        loaded = foveate.load_cache(foveate.save_cache(cache, tmp_path))
        a, b = (z.model(input_ids=token, past_key_values=c).logits for c in (cache, loaded))
    assert torch.equal(a, b)
    assert loaded.layers[1].compact.picks is loaded.layers[2].compact.picks


def test_which_layers_select() -> None:
    assert DELTA().selecting(32) == [2, 12, 22]
    assert DELTA(first=1, groups=4).selecting(3) == [1, 2]
    assert DELTA(select=(9, 4)).selecting(12) == [4, 9]
    with pytest.raises(OptionError, match="names layer 12"):
        DELTA(select=(12,)).selecting(12)
