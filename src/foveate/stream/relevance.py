"""How well remembered stretches fit a question: by embeddings, or by letting the model try to answer from each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..errors import InputError
from ..load import Loaded
from ..sites.model import anatomy
from .prompts import recalled
from .recall import recall, remembered
from .seen import Seen

#: Ways to tell what a question needs.
WAYS = ("embeddings", "model")


def words(loaded: Loaded, question: str) -> Tensor:
    """Input embeddings of the question's tokens, (t, D)."""
    ids = loaded.builder.tokenizer(question, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        out: Tensor = loaded.model.get_input_embeddings()(ids.to(loaded.device))[0]
    return out.float()


def fits(loaded: Loaded, clips: Sequence[Seen], question: str, way: str = "embeddings") -> list[float]:
    """A score for each clip, higher where it fits the question better.

    way: "embeddings" compares every word with every token, both less the mean of their kind: the mean over words of the
        best cosine. It costs next to nothing, and works as far as the model's visual tokens lie near its words.
        "model" answers from each clip alone and takes the certainty of the first word (minus its entropy, in nats):
        one small prefill for each clip.

    Raises:
        InputError: an unknown way.
    """
    if way not in WAYS:
        raise InputError(f"'by' must be one of {', '.join(WAYS)}. Got {way!r}.")
    if way == "model":
        return [certainty(loaded, c, question) for c in clips]
    if not clips:
        return []
    text = words(loaded, question)
    mean = torch.cat([c.x.float() for c in clips]).mean(0).to(text.device)
    asked = normalize(text - text.mean(0) if len(text) > 1 else text, dim=-1)
    out = []
    for c in clips:
        x = normalize(c.x.float().to(text.device) - mean, dim=-1)
        out.append(float((asked @ x.T).amax(1).mean()))
    return out


@torch.inference_mode()
def certainty(loaded: Loaded, seen: Seen, question: str) -> float:
    """Minus the entropy of the first word of the answer that the model gives from this stretch alone."""
    part = seen.moved(loaded.device, loaded.model.dtype)
    prompt = recalled(loaded, [("", part)], question)
    with recall(anatomy(loaded.model), [part]):
        more: dict[str, Any] = {"mm_encoder_outputs": remembered([part]), "use_cache": False}
        logits = loaded.model(**prompt.inputs, **more).logits[0, -1].float()
    logs = logits.log_softmax(-1)
    return float((logs.exp() * logs).nan_to_num(0.0).sum())


def center(weight: Tensor, rows: int = 16384) -> Tensor:
    """The mean of a vocabulary's embeddings (V, D) -> (D,) float32, taken in pieces."""
    total = sum((part.sum(0, dtype=torch.float64) for part in weight.detach().split(rows)), torch.zeros(1))
    return (total / len(weight)).float()
