"""Trees of guesses whose nodes carry learned prompt tokens, sized so that they fit a number of inputs.

Chen et al., "Hardware-Aware Parallel Prompt Decoding for Memory-Efficient Acceleration of LLM Inference", 2024, arXiv
2405.18628. Prompt tokens behind a node guess the words after next; a node that is accepted with ``s`` of them leaves
guesses for ``s`` levels, so the next tree is the one for state ``s``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .trees import likely_paths

Path = tuple[int, ...]


@dataclass(frozen=True)
class PromptTree:
    """Paths of ranks, by (length, ranks), and how many prompt tokens stand behind each."""

    paths: tuple[Path, ...]
    prompts: tuple[int, ...]


def chance(path: Path, accuracies: Sequence[Sequence[float]]) -> float:
    """How often all guesses of a path are right."""
    out = 1.0
    for depth, rank in enumerate(path):
        out *= accuracies[depth][rank]
    return out


def prompt_trees(
    accuracies: Sequence[Sequence[float]], limit: int, first: int = 10, digits: int = 5, pause: bool = False
) -> list[PromptTree]:
    """The tree of each state, 1 to the number of prompt tokens P.

    Every tree holds at most ``limit`` nodes and prompt tokens together, the root and its own P not counted; each node
    keeps one prompt token at least. The tree of state 1 has ``first`` nodes; the sizes of the others are those, from
    limit // 4 to limit // 2, under which most tokens are accepted in the long run.

    Args:
        accuracies: for each level ahead, how often the guess of each rank is right.
        digits: chances are rounded to so many decimals first.
        pause: count a forward in which nothing was right as a state of its own, which accepts nothing (as published;
            really the root's prompt tokens leave guesses then too).

    Raises:
        ValueError: the limit leaves no room for ``first`` nodes with a prompt token each.
    """
    if limit < 2 * first:
        raise ValueError(f"a limit of {limit} inputs has no room for {first} nodes with a prompt token each")
    states = len(accuracies)

    @functools.cache
    def tree(state: int, size: int) -> tuple[tuple[Path, ...], tuple[float, ...], float]:
        paths = tuple(likely_paths([list(a) for a in accuracies[:state]], size))
        chances = {p: round(chance(p, accuracies), digits) for p in paths}
        ends = dict(chances)  # how often a path is right and nothing below it
        for p, c in chances.items():
            if len(p) > 1:
                ends[p[:-1]] -= c
        return paths, tuple(ends[p] for p in paths), sum(chances.values())

    def prompts(state: int, sizes: tuple[int, ...], worth: Sequence[float]) -> list[int]:
        paths, ends, _ = tree(state, sizes[state - 1])
        count = [states] * len(paths)
        while len(paths) + sum(count) > limit:
            change = [ends[i] * (worth[n - 2] - worth[n - 1]) if n > 1 else -float("inf") for i, n in enumerate(count)]
            count[max(range(len(count)), key=change.__getitem__)] -= 1
        return count

    def every(sizes: tuple[int, ...]) -> tuple[float, list[PromptTree]]:
        worth = [tree(s, sizes[s - 1])[2] for s in range(1, states + 1)]
        move = np.zeros((states, states))
        made = []
        for s in range(1, states + 1):
            paths, ends, _ = tree(s, sizes[s - 1])
            count = prompts(s, sizes, worth)
            made.append(PromptTree(paths, tuple(count)))
            for end, n in zip(ends, count):
                move[s - 1, n - 1] += end
            if not pause:
                move[s - 1, states - 1] += 1.0 - sum(ends)  # nothing was right: the root's own prompt tokens
        return float(_stationary(move, pause) @ np.array(worth)), made

    best, found = -float("inf"), None
    for sizes in _sizes(states - 1, limit // 4, limit // 2):
        value, made = every((first, *sizes))
        if value > best:
            best, found = value, made
    assert found is not None
    return found


def _stationary(move: np.ndarray[Any, Any], pause: bool) -> np.ndarray[Any, Any]:
    """How often each state is met in the long run. move (P, P): chances from state to state."""
    states = len(move)
    system = np.ones((states + 1, states + 1))
    system[:states, 0] = 0.0
    system[states - 1, 0] = 1.0 if pause else 0.0
    system[:states, 1:] = move.T - np.eye(states)
    if pause:
        return np.asarray(np.linalg.solve(system, np.append(np.zeros(states), 1.0))[1:])
    return np.asarray(np.linalg.lstsq(system[:, 1:], np.append(np.zeros(states), 1.0), rcond=None)[0])


def _sizes(count: int, low: int, high: int) -> list[tuple[int, ...]]:
    out: list[tuple[int, ...]] = [()]
    for _ in range(count):
        out = [(*s, n) for s in out for n in range(low, high + 1)]
    return out
