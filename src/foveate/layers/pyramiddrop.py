"""PyramidDrop: drop more and more image tokens as the LLM gets deeper.

Xing et al., "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction",
CVPR 2025.
https://arxiv.org/abs/2410.17247

The layers are cut into stages. Before the first layer of each further stage, image tokens are ranked by the attention
that the last instruction token pays them in that layer, and a growing share of the original tokens is dropped.

Departure from the authors' code: kept tokens stay at their original positions (the code counts positions anew after
every stage, which moves the text towards the image).
"""

from __future__ import annotations

from ..errors import OptionError, SignalError
from ..method import Many, Range, method, option
from ..parts.budget import floor_budget
from ..parts.select import top
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction",
    url="https://arxiv.org/abs/2410.17247",
    needs=("next_attention",),
    cost="queries and keys of one layer and one attention row, at each stage",
    vectors=("pyramiddrop",),
)
class PyramidDrop:
    """Staged selection inside the LLM."""

    layers: tuple[int, ...] | None = option(
        None, Many(Range(0, kind=int)), "drop before these layers (0-based); default: at 1/4, 1/2 and 3/4 of the depth"
    )
    keeps: tuple[float, ...] = option(
        (0.5, 0.25, 0.125), Many(Range(0, 1, open_low=True)), "shares of the original visual tokens left by the drops"
    )

    def __post_init__(self) -> None:
        if self.layers is not None and len(self.layers) != len(self.keeps):
            raise OptionError(
                f"'layers' and 'keeps' of pyramiddrop must be equally long. Got {self.layers!r} and {self.keeps!r}."
            )

    def at(self, layers: int) -> tuple[int, ...]:
        """Before the first layer of every stage but the first."""
        return tuple(dict.fromkeys(self._starts(layers)))

    def _starts(self, layers: int) -> tuple[int, ...]:
        stages = len(self.keeps) + 1
        return self.layers or tuple(layers * s // stages for s in range(1, stages))

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.next_attention (B, H, n) at tokens.layer -> selection of a share of tokens.full."""
        if tokens.next_attention is None:
            raise SignalError("pyramiddrop needs next_attention (B, H, n); it is None")
        starts = self._starts(tokens.layers)  # in a shallow model stages may share a layer: the last counts
        keep = [k for start, k in zip(starts, self.keeps) if start == tokens.layer][-1]
        m = floor_budget(keep, tokens.n, tokens.full)
        return Reduction.take(top(tokens.next_attention.float().mean(1), m), tokens.n)
