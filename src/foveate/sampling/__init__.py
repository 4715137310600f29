"""Sampling and search for models that write token after token, as transformers takes them.

Logits processors for ``model.generate(logits_processor=[...])``: :class:`TopH`, :class:`CaptionGuidance`. A criterion
for ``stopping_criteria=[...]``: :class:`FirstFinish`. A decoding loop for ``custom_generate=...``:
:class:`DiverseBeam`. Functions of their own: :func:`first_finish`, :func:`superpose`, :func:`exact_extract`.
"""

from .diverse_beam import DiverseBeam
from .exact_extract import exact_extract
from .first_finish import FirstFinish, first_finish
from .guidance import CaptionGuidance
from .ngrams import NGrams
from .superposed import superpose
from .top_h import TopH

__all__ = [
    "CaptionGuidance",
    "DiverseBeam",
    "FirstFinish",
    "NGrams",
    "TopH",
    "exact_extract",
    "first_finish",
    "superpose",
]
