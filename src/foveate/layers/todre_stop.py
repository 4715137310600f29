"""ToDRE, inside the LLM: drop all visual tokens as soon as the prompt has stopped looking at them.

Li et al., "ToDRE: Visual Token Pruning via Diversity and Task Awareness for Efficient Large Vision-Language Models",
2025.
https://arxiv.org/abs/2505.18757

In deep layers the information of the image has moved into the text, and attention to visual tokens fades. Before each
layer from half depth on, the attention of the prompt's last token on all visual tokens together (mean over heads, in
the layer before) is compared with a threshold; once it is lower, every visual token leaves. The choice of diverse
tokens before the LLM is the method ``todre``; "todre + todre_stop" is the whole.

No code was found; threshold and first layer are ours. Rows of a batch decide for themselves, and so does each image.
"""

from __future__ import annotations

from ..method import Range, method, option
from ..reduction import Reduction
from ..tokens import Tokens


@method(
    title="ToDRE: Visual Token Pruning via Diversity and Task Awareness for Efficient Large Vision-Language Models",
    url="https://arxiv.org/abs/2505.18757",
    systems=("S010",),
    needs=("last_attention",),
    cost="one attention row for each head of each layer that is checked",
    exempt={"few_tokens": "a threshold decides whether any token is left"},
)
class ToDREStop:
    """Withdrawal of all visual tokens, when attention says so."""

    threshold: float = option(0.05, Range(0, 1), "attention on all visual tokens together below which they leave")
    start: float = option(0.5, Range(0, 1), "depth from which layers are checked, as a share")
    every: int = option(1, Range(1, kind=int), "check before every so many layers")

    def at(self, layers: int) -> tuple[int, ...]:
        """Before every layer that is checked."""
        return tuple(range(max(1, int(self.start * layers)), layers, self.every))

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.last_attention (B, H, n) -> all tokens or none."""
        seen = tokens.need("last_attention").float().mean(1).sum(-1)
        stays = (seen >= self.threshold)[:, None].expand(-1, tokens.n)
        if bool(stays.all()):
            return Reduction.identity(tokens.x.shape[0], tokens.n, tokens.x.device)
        return Reduction.from_mask(stays.contiguous())
