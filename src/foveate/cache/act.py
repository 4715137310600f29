"""ACT: attention sinks in the middle of a prompt are turned down, and what they lose goes to the other tokens.

Yu et al., "Unveiling and Harnessing Hidden Attention Sinks: Enhancing Large Language Models without Training through
Attention Calibration", ICML 2024.
https://arxiv.org/abs/2406.15765

Besides the first token some later ones draw far more attention than their share, and not for the good of the answer. A
token whose mean attention in a head exceeds ``factor`` times the even share is a sink there; attention to it is
multiplied by ``scale`` in every row, and the rest of the row grows in proportion, within the softmax. The first such
token of a head is left alone, and so are the first and last ``skip`` layers.

The paper finds out on a calibration set which heads gain and calibrates those; list them as ``heads`` (layer x number
of query heads + head), or all of the layers in between are. It acts while the prompt is read; tokens that are generated
attend as ever. Nothing is dropped and no byte saved: it costs a second attention map of the prompt, held whole. Not
with FlashAttention, which takes no such bias.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..method import Many, Range, method, option
from ..parts.calibrate import damping, sinks_of
from ..reduction import Reduction
from ..tokens import Entries


@method(
    title="Unveiling and Harnessing Hidden Attention Sinks: Enhancing Large Language Models without Training through "
    "Attention Calibration",
    url="https://arxiv.org/abs/2406.15765",
    systems=("S203",),
    needs=(),
    cost="a second attention map of the prompt, float32",
)
class ACT:
    """Calibrated attention; keeps all entries."""

    factor: float = option(5.0, Range(0), "a sink draws more than so many times the even share")
    scale: float = option(0.4, Range(0, 1, open_low=True), "what remains of the attention to a sink")
    skip: int = option(2, Range(0, kind=int), "first and last layers that are left alone")
    heads: tuple[int, ...] | None = option(None, Many(Range(0, kind=int)), "query heads to calibrate, of all layers")

    def acts(self, layer: int, layers: int) -> bool:
        """Whether anything changes in a layer."""
        return self.scale < 1 and (self.heads is not None or self.skip <= layer < layers - self.skip)

    def bias(self, rows: Tensor, layer: int) -> Tensor:
        """rows (B, H, q, n), the attention of a prompt's queries -> (B, H, q, n), to be added to its logits."""
        sinks = sinks_of(rows, self.factor)
        if self.heads is not None:
            number = torch.arange(rows.shape[1], device=rows.device) + layer * rows.shape[1]
            mine = torch.isin(number, torch.tensor(self.heads, device=rows.device))
            sinks = sinks & mine[:, None]
        return damping(rows, sinks, self.scale)

    def reduce(self, entries: Entries) -> Reduction:
        """Rows are batch x KV head: (B * g, n) -> all of them."""
        b, g, n = entries.keys.shape[:3]
        return Reduction.identity(b * g, n, entries.keys.device)
