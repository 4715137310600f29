"""What the target says to a draft, as far as every row agrees with its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..decode._drafter import Draft
from ..parts.trees import Tree
from ..parts.verify import accept, accept_greedy
from ..parts.verify_tree import follow_drafted, follow_drawn, follow_greedy


def scores_of(
    score: Callable[[Tensor, Tensor], Tensor], ids: Tensor, drafted: Tensor, tree: Tree | None, logits: Tensor
) -> Tensor:
    """Logits (B, gamma + 1, V) after ids (B, n) and each of drafted (B, gamma), as the processors leave them."""
    guess, out = drafted.clamp(min=0), []
    for i in range(logits.shape[1]):
        said = guess[:, :i] if tree is None else guess[:, tree.ancestors[i, 1:].nonzero()[:, 0]]
        out.append(score(torch.cat([ids, said], 1), logits[:, i]))
    return torch.stack(out, 1)


def judge(scores: Tensor, draft: Draft, tree: Tree | None, going: Tensor, sample: bool) -> tuple[Tensor, Tensor]:
    """Tokens (B, agreed + 1) that the target says, and path (B, agreed + 1), where in the draft they stand.

    ``agreed`` is how many leading guesses every row keeps of those ``going`` (B,) on. Cutting all rows at the shortest
    agreement keeps the sampled distribution: where a row is cut depends on nothing that follows, and what follows is
    drawn anew. Column 0 of the path is the last settled token.
    """
    accepted, path, tokens = _chain(scores, draft, sample) if tree is None else _tree(scores, draft, tree, sample)
    agreed = int(torch.where(going, accepted, draft.tokens.shape[1]).min())
    agreed = min(agreed, path.shape[1] - 1)  # no row goes on
    return tokens[:, : agreed + 1], path[:, : agreed + 1].clamp(min=0)


def _chain(scores: Tensor, draft: Draft, sample: bool) -> tuple[Tensor, Tensor, Tensor]:
    if sample:
        uniform = torch.rand(*draft.tokens.shape[:1], scores.shape[1], device=scores.device)
        if draft.rule is not None:
            verdict = draft.rule(scores, draft.tokens, uniform[:, :-1], uniform[:, -1])
        else:
            p = scores.softmax(-1)
            verdict = accept(p, draft.tokens, uniform[:, :-1], uniform[:, -1], draft.probs, draft.weight)
    else:
        verdict = accept_greedy(scores.argmax(-1), draft.tokens, draft.sure)
    path = torch.arange(scores.shape[1], device=scores.device).expand(len(scores), -1)
    return verdict.accepted, path, verdict.tokens


def _tree(scores: Tensor, draft: Draft, tree: Tree, sample: bool) -> tuple[Tensor, Tensor, Tensor]:
    if not sample:
        return follow_greedy(tree, draft.tokens, scores.argmax(-1))
    deep = int(tree.depth.max()) + 1
    if draft.probs is None:
        return follow_drawn(tree, draft.tokens, scores.softmax(-1), torch.rand(len(scores), deep, device=scores.device))
    uniform = torch.rand(len(scores), tree.q - 1 + deep, device=scores.device)
    cut = tree.q - 1
    return follow_drafted(tree, draft.tokens, scores.softmax(-1), draft.probs, uniform[:, :cut], uniform[:, cut:])
