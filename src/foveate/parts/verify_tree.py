"""Which branch of a tree of guesses the target follows. Rows never see each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .trees import Tree
from .verify import draw


class Followed(NamedTuple):
    """What came of a tree.

    Attributes:
        accepted: (B,) int64, how many guesses stay, one below the other.
        path: (B, longest + 1) int64, nodes from the root down; -1 after the last one that stays.
        tokens: (B, longest + 1) int64, the guesses that stay, then the target's own next token, then -1.
    """

    accepted: Tensor
    path: Tensor
    tokens: Tensor


def follow(tree: Tree, tokens: Tensor, say: Callable[[Tensor, int], Tensor]) -> Followed:
    """Go down while the target says what a child guessed. Of children that guess the same the first is taken.

    Exact for sampling too: what is said is drawn from the target, whatever was guessed.

    Args:
        tokens: (B, gamma) int64 guesses at nodes 1 and on; -1 is none.
        say: (node (B,), depth) -> (B,) what the target says there.
    """
    b, device = len(tokens), tokens.device
    guess = torch.cat([tokens.new_full((b, 1), -1), tokens], 1)
    here = torch.zeros(b, dtype=torch.long, device=device)
    going = torch.ones(b, dtype=torch.bool, device=device)
    path: list[Tensor] = [here]
    said: list[Tensor] = []
    while bool(going.any()):
        word = say(here, len(said))
        said.append(torch.where(going, word, -1))
        fits = (tree.parents == here[:, None]) & (guess == word[:, None]) & going[:, None]
        going = fits.any(1)
        here = torch.where(going, fits.to(torch.uint8).argmax(1), here)
        path.append(torch.where(going, here, -1))
    return _made(path[:-1], said)


def follow_greedy(tree: Tree, tokens: Tensor, best: Tensor) -> Followed:
    """As :func:`follow`; best (B, gamma + 1) int64: the target's choice after each node."""
    return follow(tree, tokens, lambda node, _: best.gather(1, node[:, None])[:, 0])


def follow_drawn(tree: Tree, tokens: Tensor, probs: Tensor, uniform: Tensor) -> Followed:
    """As :func:`follow`, sampling. probs (B, gamma + 1, V) of the target; uniform (B, deepest + 1) in [0, 1)."""
    return follow(tree, tokens, lambda node, d: draw(_at(probs, node), uniform[:, d]))


def follow_drafted(tree: Tree, tokens: Tensor, probs: Tensor, draft: Tensor, uniform: Tensor, last: Tensor) -> Followed:
    """Recursive rejection sampling: guesses that were drawn without replacement are tried one after the other.

    The first child x of a node stays with probability min(1, p(x) / q(x)). If it does not, p becomes what q left out,
    max(p - q, 0) normalised, x is taken out of q, and the next child is tried; after the last, the target draws from
    the p that is left. What is said is distributed exactly as if the target had drawn every token itself
    (Jeon et al., "Recursive Speculative Decoding", 2024, arXiv 2402.14160).

    Args:
        tokens: (B, gamma) int64 guesses; children of a node are in the order they were drawn.
        probs: (B, gamma + 1, V) of the target after each node.
        draft: (B, gamma, V) what each guess's siblings were drawn from, all of them (no replacement).
        uniform: (B, gamma) in [0, 1), one for each guess.
        last: (B, deepest + 1) in [0, 1), for the target's own token at each depth.
    """
    b, device = len(tokens), tokens.device
    rows = torch.arange(b, device=device)
    children = [(tree.parents == i).nonzero()[:, 0] for i in range(tree.q)]
    here = torch.zeros(b, dtype=torch.long, device=device)
    going = torch.ones(b, dtype=torch.bool, device=device)
    path: list[Tensor] = [here]
    said: list[Tensor] = []
    tiny = torch.finfo(torch.float32).tiny
    while bool(going.any()):
        p = _at(probs, here).double()
        deeper = torch.zeros_like(going)
        word, below = torch.full_like(here, -1), here.clone()
        for j in range(max(len(c) for c in children)):
            child = torch.tensor([int(c[j]) if j < len(c) else 0 for c in (children[i] for i in here.tolist())])
            child = child.to(device)
            guess = tokens[rows, (child - 1).clamp(min=0)]
            trying = going & ~deeper & (child > 0) & (guess >= 0)
            if not bool(trying.any()):
                break
            at = (child - 1).clamp(min=0)
            q = _without(draft[rows, at].double(), tokens, tree.parents[1:], at, tree.parents[child])
            chosen = guess.clamp(min=0)[:, None]
            ratio = p.gather(1, chosen)[:, 0] / q.gather(1, chosen)[:, 0]
            stays = trying & (uniform[rows, at].double() <= ratio) & (ratio > 0)
            deeper = deeper | stays
            word, below = torch.where(stays, guess, word), torch.where(stays, child, below)
            rest = (p - q).clamp(min=0)
            total = rest.sum(1, keepdim=True)
            gone = (trying & ~stays)[:, None] & (total > tiny)
            p = torch.where(gone, rest / total.clamp(min=tiny), p)
        own = draw(p, last[:, len(said)])
        said.append(torch.where(going, torch.where(deeper, word, own), -1))
        going = deeper
        here = torch.where(going, below, here)
        path.append(torch.where(going, here, -1))
    return _made(path[:-1], said)


def _without(q: Tensor, tokens: Tensor, above: Tensor, at: Tensor, parent: Tensor) -> Tensor:
    """q (B, V) after the siblings in front of guess at (B,) were taken out, normalised. above (gamma,): parents."""
    column = torch.arange(tokens.shape[1], device=tokens.device)
    elder = (above == parent[:, None]) & (column < at[:, None]) & (tokens >= 0)
    taken = torch.zeros_like(q).scatter_add(1, tokens.clamp(min=0), elder.to(q.dtype)) > 0
    left = q.masked_fill(taken, 0)
    return left / left.sum(1, keepdim=True).clamp(min=torch.finfo(q.dtype).tiny)


def _at(probs: Tensor, node: Tensor) -> Tensor:
    """probs (B, q, V), node (B,) -> (B, V)."""
    return probs[torch.arange(len(node), device=node.device), node]


def _made(path: list[Tensor], said: list[Tensor]) -> Followed:
    nodes = torch.stack(path, 1)
    return Followed((nodes >= 0).sum(1) - 1, nodes, torch.stack(said, 1))
