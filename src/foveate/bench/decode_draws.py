"""Whether rules of acceptance keep the target's distribution: two tokens out of four words, drawn many times."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..parts.trees import Tree
from ..parts.verify import accept, draw
from ..parts.verify_tree import follow_drafted, follow_drawn
from ..parts.without_replacement import beam_step, draw_several

V = 4
#: (p (V + 1, V) of the target and q of the draft after each word and, last, after the text; draws) -> first and second
#: tokens (draws,), the second -1 where only one was settled.
Rule = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


def chi_square(name: str, draws: int, seed: int) -> float:
    """Chi-square of ``draws`` pairs under a rule against the target's own chances, 15 degrees of freedom."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        p, q = (torch.randn(V + 1, V).softmax(-1) for _ in range(2))
        first, second = RULES[name](p, q, draws)
        again = draw(p[first], torch.rand(draws))
        seen = torch.bincount(first * V + torch.where(second < 0, again, second), minlength=V * V)
    want = (p[V][:, None] * p[:V]).flatten() * draws
    return float(((seen - want) ** 2 / want).sum())


def _chain(p: Tensor, q: Tensor, n: int) -> tuple[Tensor, Tensor]:
    one = draw(q[V].expand(n, V), torch.rand(n))
    two = draw(q[one], torch.rand(n))
    target = torch.stack([p[V].expand(n, V), p[one], p[two]], 1)
    made = accept(
        target, torch.stack([one, two], 1), torch.rand(n, 2), torch.rand(n), torch.stack([q[V].expand(n, V), q[one]], 1)
    )
    return made.tokens[:, 0], torch.where(made.accepted > 0, made.tokens[:, 1], -1)


def _tree(p: Tensor, tokens: Tensor, parents: list[int], drawn: Tensor | None) -> tuple[Tensor, Tensor]:
    n, tree = len(tokens), Tree.of(torch.tensor(parents))
    probs = torch.cat([p[V].expand(n, 1, V), p[tokens.clamp(min=0)]], 1)
    deep = int(tree.depth.max()) + 1
    if drawn is None:
        made = follow_drawn(tree, tokens, probs, torch.rand(n, deep))
    else:
        made = follow_drafted(tree, tokens, probs, drawn, torch.rand(n, len(parents)), torch.rand(n, deep))
    second = made.tokens[:, 1] if made.tokens.shape[1] > 1 else torch.full((n,), -1)
    return made.tokens[:, 0], torch.where(made.accepted > 0, second, -1)


def _guessed(p: Tensor, q: Tensor, n: int) -> tuple[Tensor, Tensor]:
    return _tree(p, torch.tensor([[0, 2, 1, 3, 0, 2]]).expand(n, -1), [-1, -1, 0, 0, 1, 1], None)


def _several(p: Tensor, q: Tensor, n: int) -> tuple[Tensor, Tensor]:
    one = draw_several(q[V].log().expand(n, V), 2)
    below = [draw_several(q[one[:, i]].log(), 2) for i in range(2)]
    drawn = torch.stack([q[V].expand(n, V)] * 2 + [q[one[:, i]] for i in (0, 0, 1, 1)], 1)
    return _tree(p, torch.cat([one, *below], 1), [-1, -1, 0, 0, 1, 1], drawn)


def _beams(p: Tensor, q: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Stochastic beams of three: shapes differ from draw to draw, so draws of one shape are judged together."""
    shapes: dict[tuple[int, ...], list[int]] = {}
    words: list[list[int]] = []
    zero = torch.zeros(1)
    for i in range(n):
        _, one, noisy, logp = beam_step(zero, zero, q[V].log()[None], 3)
        up, two, _, _ = beam_step(noisy, logp, q[one].log(), 3)
        words.append([*one.tolist(), *two.tolist()])
        shapes.setdefault(tuple(up.tolist()), []).append(i)
    first, second = torch.zeros(n, dtype=torch.long), torch.zeros(n, dtype=torch.long)
    every = torch.tensor(words)
    for up_, rows in shapes.items():
        tokens = every[rows]
        drawn = torch.stack([q[V].expand(len(rows), V)] * 3 + [q[tokens[:, u]] for u in up_], 1)
        first[rows], second[rows] = _tree(p, tokens, [-1, -1, -1, *up_], drawn)
    return first, second


RULES: dict[str, Rule] = {
    "speculative": _chain,
    "trees without probabilities": _guessed,
    "rsd, without replacement": _several,
    "rsd, stochastic beams": _beams,
}
