"""Trees of guesses: their shape, which branch is followed, and reading them in one forward on real models."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from decode_kit import GREEDY, Oracle, placed
from foveate.apply import apply
from foveate.decode.token_recycling import TokenRecycling
from foveate.parts.trees import Tree, first_branch, from_paths, likely_paths, side_by_side
from foveate.parts.verify_tree import follow_drafted, follow_drawn, follow_greedy
from foveate.testing import tiny

FAMILIES = ("llama", "qwen2", "mistral", "gemma3_text", "llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3")
SHAPE = torch.tensor([-1, -1, 0, 1, 1, 4])


def test_the_shape_of_a_tree() -> None:
    tree = Tree.of(SHAPE)
    assert tree.depth.tolist() == [0, 1, 1, 2, 2, 2, 3]
    assert tree.ancestors[6].nonzero()[:, 0].tolist() == [0, 2, 5, 6]
    assert tree.path(torch.tensor([6, 3])).tolist() == [[0, 2, 5, 6], [0, 1, 3, -1]]
    assert first_branch(SHAPE).tolist() == [0, 2]
    long = Tree.of(torch.arange(-1, 40))
    assert torch.equal(long.ancestors, torch.ones(42, 42).tril().bool())
    assert Tree.of(torch.zeros(0, dtype=torch.long)).q == 1


def test_trees_from_paths() -> None:
    assert from_paths([[0, 1], [0, 0], [2]]) == ([0, 2, 0, 1], [-1, -1, 0, 0])
    chances = [[0.6, 0.3], [0.5, 0.1]]
    assert likely_paths(chances, 4) == [(0,), (1,), (0, 0), (1, 0)]
    every = sorted(itertools.product(range(2), repeat=1)) + sorted(itertools.product(range(2), repeat=2))
    assert likely_paths(chances, 99) == every


def test_rows_with_trees_of_their_own() -> None:
    rows = [(torch.tensor([5, 6]), torch.tensor([-1, 0])), (torch.tensor([7]), torch.tensor([-1]))]
    tokens, parents = side_by_side(rows)
    assert tokens.tolist() == [[5, 6, -1], [-1, -1, 7]]
    assert parents.tolist() == [-1, 0, -1]
    same = side_by_side([rows[0], rows[0]])
    assert same[0].tolist() == [[5, 6], [5, 6]]


def test_greedy_follows_the_branch_that_agrees() -> None:
    tree = Tree.of(SHAPE)
    tokens = torch.tensor([[3, 4, 9, 5, 6, 7], [3, 4, 9, 5, 6, 7], [3, 4, 9, 5, 6, -1]])
    best = torch.tensor([[4, 0, 6, 0, 0, 7, 8], [3, 1, 6, 0, 0, 7, 8], [4, 0, 6, 0, 0, 7, 8]])
    made = follow_greedy(tree, tokens, best)
    assert made.accepted.tolist() == [3, 1, 2]
    assert made.tokens.tolist() == [[4, 6, 7, 8], [3, 1, -1, -1], [4, 6, 7, -1]]
    assert made.path.tolist() == [[0, 2, 5, 6], [0, 1, -1, -1], [0, 2, 5, -1]]


@pytest.mark.parametrize("drafted", [False, True])
def test_sampling_along_a_tree_keeps_the_distribution(drafted: bool) -> None:
    """The joint of two tokens over many rows; guesses are fixed, or drawn without replacement from q."""
    torch.manual_seed(0)
    rows, v = 40_000, 4
    p = torch.randn(v + 1, v).softmax(-1)  # after the text, and after each word
    tree = Tree.of(torch.tensor([-1, -1, 0, 0, 1, 1]))
    q = torch.randn(v + 1, v).softmax(-1)
    if drafted:
        first = torch.multinomial(q[v].expand(rows, v), 2)
        below = [torch.multinomial(q[first[:, i]], 2) for i in range(2)]
        tokens = torch.cat([first, *below], 1)
    else:
        tokens = torch.tensor([[0, 2, 1, 3, 0, 2]]).expand(rows, -1)
    probs = torch.cat([p[v].expand(rows, 1, v), p[tokens]], 1)
    deep = int(tree.depth.max()) + 1
    if drafted:
        draft = torch.stack([q[v].expand(rows, v)] * 2 + [q[first[:, i]] for i in (0, 0, 1, 1)], 1)
        made = follow_drafted(tree, tokens, probs, draft, torch.rand(rows, 6), torch.rand(rows, deep))
        assert 0.2 < made.accepted.float().mean() / 2 < 0.99
    else:
        made = follow_drawn(tree, tokens, probs, torch.rand(rows, deep))
    again = torch.multinomial(p[made.tokens[:, 0]], 1)[:, 0]  # where only one token was settled, the next is drawn anew
    second = torch.where(made.accepted > 0, made.tokens[:, 1], again)
    seen = torch.bincount(made.tokens[:, 0] * v + second, minlength=v * v)
    want = (p[v][:, None] * p[:v]).flatten() * rows
    assert float(((seen - want) ** 2 / want).sum()) < 44.3  # 15 degrees of freedom, 1 in 10,000


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("ragged", [False, True])
def test_greedy_output_is_token_identical(name: str, ragged: bool) -> None:
    zoo = tiny(name, ragged=ragged)
    plain = zoo.model.generate(**zoo.inputs, **GREEDY)
    oracle = Oracle()
    Oracle.answers[:] = [plain]
    for drafting in (oracle, TokenRecycling(nodes=12, depth=4)):
        with placed(zoo.model, drafting) as report:
            assert torch.equal(zoo.model.generate(**zoo.inputs, **GREEDY), plain), str(drafting)
            assert torch.equal(zoo.model.generate(**zoo.inputs, **GREEDY), plain), f"{drafting}, a second time"
        assert "chains" not in report.rows[0].note
        if drafting is oracle:
            assert report.decode["accepted_length"] > 2.5


@pytest.mark.parametrize(
    ("name", "plan", "trees"),
    [
        ("llama", "snapkv(keep=0.5)", True),
        ("qwen2_5_vl", "divprune(keep=0.5) + snapkv(keep=0.5, window=8)", True),
        ("qwen2_5_vl", "fastv(layer=1, keep=0.5)", True),
        ("llama", "adakv(keep=0.5)", True),
        ("qwen2", "kivi", False),
        ("llama", "h2o(keep=0.5, every=4)", False),
    ],
)
def test_trees_over_caches_that_hold_less_than_they_saw(name: str, plan: str, trees: bool) -> None:
    zoo = tiny(name, ragged=True)
    with apply(zoo.model, plan):
        plain = zoo.model.generate(**zoo.inputs, **GREEDY)
    Oracle.answers[:] = [plain]
    for drafting in (Oracle(), TokenRecycling(nodes=12)):
        with apply(zoo.model, [plan, drafting]) as report:
            out = zoo.model.generate(**zoo.inputs, **GREEDY)
        note = next(r.note for r in report.rows if r.stage == "decode")
        assert ("chains" not in note) == trees, note
        if trees:
            assert torch.equal(out, plain), str(drafting)
            assert report.decode["accepted_length"] > 1


def test_the_cache_after_a_tree_is_that_of_a_plain_call() -> None:
    for name in ("llama", "gemma3_text", "qwen2_5_vl"):
        zoo = tiny(name, ragged=True)
        settings: dict[str, Any] = GREEDY | {"return_dict_in_generate": True, "output_scores": True}
        plain = zoo.model.generate(**zoo.inputs, **settings)
        Oracle.answers[:] = [plain.sequences]
        with placed(zoo.model, Oracle()):
            out = zoo.model.generate(**zoo.inputs, **settings)
        assert torch.allclose(torch.stack(out.scores), torch.stack(plain.scores), atol=1e-4)
        for mine, theirs in zip(out.past_key_values.layers, plain.past_key_values.layers):
            assert torch.allclose(mine.keys, theirs.keys, atol=1e-4)


def test_processors_see_the_branch_they_stand_on() -> None:
    zoo = tiny("qwen2")
    settings = GREEDY | {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3}
    plain = zoo.model.generate(**zoo.inputs, **settings)
    Oracle.answers[:] = [plain]
    for drafting in (Oracle(), TokenRecycling(nodes=12)):
        with placed(zoo.model, drafting):
            assert torch.equal(zoo.model.generate(**zoo.inputs, **settings), plain)
