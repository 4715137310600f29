"""Every method of the stages encoder, inputs and layers on every family of VLM that can give its signals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate
from foveate.errors import FoveateError, SignalError
from foveate.grid import cell
from foveate.spec import get, methods
from foveate.testing import FAMILIES
from foveate.testing.maskout import mask_out, visible
from site_kit import generate, logits_of, make, new_tokens

STAGES = ("encoder", "inputs", "layers")
VIDEO = [(m, f) for m, c in methods().items() if c.stage in STAGES for f in FAMILIES["video"]]
GRID = [(m, f) for m, c in methods().items() if c.stage in STAGES for f in FAMILIES["vlm"]]


@pytest.mark.parametrize(("method", "family"), GRID)
def test_runs_or_says_what_is_missing(method: str, family: str) -> None:
    _check(method, family)


@pytest.mark.parametrize(("method", "family"), VIDEO)
def test_runs_on_videos_or_says_what_is_missing(method: str, family: str) -> None:
    _check(method, family, video=True)


def _check(method: str, family: str, **more: Any) -> None:
    """What is kept gives what the full sequence gives with the rest hidden, in a batch of two unequal rows."""
    z = make(family, batch=2, ragged=True, **more)
    if (missing := cell(z.model, get(method))) is not None:
        with pytest.raises(FoveateError, match=method), foveate.apply(z.model, method):
            pass
        assert missing
        return
    try:
        out, report = generate(z, method)
    except SignalError as error:  # the tiny prompt is longer than this model's window
        if family != "gemma3" or "choose another layer" not in str(error):
            raise
        return
    assert torch.isfinite(logits_of(out)).all()
    rows = [r for r in report.rows if r.method.startswith(method) and r.tokens_in]
    assert rows, f"{method} says nothing of what it did"
    assert all(r.tokens_out <= r.tokens_in for r in rows)
    if get(method).stage != "encoder" and all(k.reduction.selects for k in report.kept):
        seen = visible(z.model, report, out.past_key_values, z.inputs["input_ids"].shape)
        wanted = mask_out(z.model, z.inputs, new_tokens(z, out), seen)
        torch.testing.assert_close(logits_of(out), wanted, atol=2e-5, rtol=0)


def test_grid_is_filled() -> None:
    models: dict[str, Any] = {f: make(f).model for f in FAMILIES["vlm"]}
    empty = [(m, f, why) for m, f in GRID if (why := cell(models[f], get(m))) is not None]
    assert len(empty) <= 0.1 * len(GRID), empty
