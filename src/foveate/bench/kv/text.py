"""Perplexity and copying of a small real language model on real English text, against the bytes its cache holds.

A passage is prefilled and the cache shortened or packed; what follows is then read in one forward, word by word as the
text has it. Perplexity: the passage goes on. Copying: the passage comes once more, and a prediction counts if it is the
right token; "bytes" 0 is what the model predicts of a passage that it has not seen.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ...apply import apply
from ...load import load
from ..desk import FULL, weights
from ..kept_lines import in_a_line
from ..paired import difference, mean, named, rounded
from . import ladder
from .fill import held_bytes
from .once import Once

#: Environment variables that name the folder of the model and a text file, where no option does.
MODEL, TEXT = "FOVEATE_BENCH_LM", "FOVEATE_BENCH_TEXT"
PASSAGE, AFTER, COPIED = 384, 96, 192


def places(model: str | None, text: str | None) -> tuple[Path | None, Path | None, str]:
    """The model's folder and the text, and what is missing, in words, or nothing."""
    found = [Path(given) if given else None for given in (model or os.environ.get(MODEL), text or os.environ.get(TEXT))]
    folder, file = found
    for path, name, option, variable in (
        (folder, "a folder with a small language model", "--weights", MODEL),
        (file, "a text file", "--text", TEXT),
    ):
        if path is None:
            return folder, file, f"needs {name}: {option} PATH, or the environment variable {variable}"
        if not path.exists():
            return folder, file, f"there is no {path}, which {option} or {variable} names"
    return folder, file, ""


def passages(tokenizer: Any, path: Path, count: int, n: int) -> Tensor:
    """(count, n) ids of passages at even distances in a text, each behind the token that begins a text."""
    words = " ".join(path.read_text(encoding="utf-8").split())
    room = len(words) // (count + 2)  # the first and last stretch are contents and licence
    rows = []
    for k in range(count):
        ids = tokenizer(words[(k + 1) * room : (k + 1) * room + 8 * n], add_special_tokens=False)["input_ids"]
        rows.append([tokenizer.bos_token_id, *ids[1:n]])  # the first token may be half a word
    return torch.tensor(rows)


def rows(
    folder: Path, text: Path, count: int, keeps: tuple[float, ...], only: tuple[str, ...], kept: Path
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One row for each plan, the full cache first; and what was left out, with the reason."""
    loaded, once = load(str(folder), dtype="bfloat16"), Once(kept, "text")
    ids = passages(loaded.builder.tokenizer, text, count, PASSAGE + AFTER)
    about = ["text", weights(loaded), count, int(ids.sum())]
    left: dict[str, str] = {}

    def get(plan: str) -> dict[str, Any]:
        got: dict[str, Any] = once.get(about, plan, lambda: _measured(loaded.model, ids, plan))
        return got

    full = get("")
    out = [_row(FULL, FULL, "", None, full, None), _row("blind", "no cache", "", None, _blind(loaded.model, ids), full)]
    for kind, plan, keep in ladder.plans(PASSAGE, keeps, only):
        try:
            got = get(plan)
        except Exception as error:  # one method's fault must not end the study; it is named in the results
            left[plan] = in_a_line(error)
            continue
        out.append(_row(kind, plan.split("(")[0] if " + " not in plan else plan, plan, keep, got, full))
        row = out[-1]
        print(f"  {plan}: {row['perplexity']:.2f}, copies {row['copied']:.3f}, {row['bytes']:.1%}", flush=True)
    return out, left


@torch.inference_mode()
def _measured(model: Any, ids: Tensor, plan: str) -> dict[str, Any]:
    loss, _, held = _read(model, ids[:, :PASSAGE], ids[:, PASSAGE:], plan)
    again = ids[:, 1 : COPIED + 1]
    _, right, _ = _read(model, ids[:, : COPIED + 1], again, plan)
    return {"nll": loss.mean(1).tolist(), "copied": right.float().mean(1).tolist(), "bytes": held}


def _read(model: Any, before: Tensor, after: Tensor, plan: str) -> tuple[Tensor, Tensor, float]:
    """Losses and hits (B, n - 1) of the tokens after the first, and the share of bytes held after the prefill."""
    full = held_bytes(model(input_ids=before, use_cache=True, logits_to_keep=1).past_key_values)
    with apply(model, plan):
        cache = model(input_ids=before, use_cache=True, logits_to_keep=1).past_key_values
        held = held_bytes(cache) / full
        logits = model(input_ids=after, past_key_values=cache, use_cache=True).logits[:, :-1].float()
    loss = cross_entropy(logits.flatten(0, 1), after[:, 1:].flatten(), reduction="none").view(len(after), -1)
    return loss, logits.argmax(-1) == after[:, 1:], held


@torch.inference_mode()
def _blind(model: Any, ids: Tensor) -> dict[str, Any]:
    """The same text with nothing before it."""
    out: dict[str, Any] = {"bytes": 0.0}
    for name, some in (("nll", ids[:, PASSAGE:]), ("copied", ids[:, 1 : COPIED + 1])):
        logits = model(input_ids=some).logits[:, :-1].float()
        loss = cross_entropy(logits.flatten(0, 1), some[:, 1:].flatten(), reduction="none").view(len(some), -1)
        hits = (logits.argmax(-1) == some[:, 1:]).float()
        out[name] = (loss if name == "nll" else hits).mean(1).tolist()
    return out


def _row(
    kind: str, method: str, plan: str, keep: float | None, got: dict[str, Any], full: dict[str, Any] | None
) -> dict[str, Any]:
    row: dict[str, Any] = {"part": "text", "kind": kind, "method": method, "plan": plan, "keep": keep}
    row |= rounded({"bytes": got["bytes"], "perplexity": math.exp(mean(got["nll"])), "copied": mean(got["copied"])})
    if full is not None:
        row |= named("nll_more", _gap(got["nll"], full["nll"]))
        row |= named("copied_less", difference(full["copied"], got["copied"]))
    return row


def _gap(mine: Sequence[float], full: Sequence[float]) -> tuple[float, float, float]:
    """Mean of paired differences with its 95% interval."""
    gaps = torch.tensor(mine) - torch.tensor(full)
    half = 1.96 * float(gaps.std()) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
    return float(gaps.mean()), float(gaps.mean()) - half, float(gaps.mean()) + half
