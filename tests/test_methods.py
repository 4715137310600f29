"""Every registered method against the common checks, and these checks against methods that are wrong on purpose."""

from __future__ import annotations

from typing import Any
from unittest import SkipTest

import pytest
import torch

import foveate
from foveate import Entries, Keep, OneOf, Reduction, Tokens, method, option
from foveate.parts.evict import evict
from foveate.parts.select import top
from foveate.testing import MethodCheck, check_method

ALL = [check for cls in foveate.methods().values() for check in check_method(cls)]


@pytest.mark.parametrize("check", ALL, ids=str)
def test_method(check: MethodCheck) -> None:
    check()


def test_every_method_of_a_data_stage_gets_the_whole_battery() -> None:
    packing = [c for c in foveate.methods().values() if hasattr(c, "pack")]
    assert all(
        len(check_method(c)) == 19
        for c in foveate.methods().values()
        if c.stage in ("media", "encoder", "layers", "cache") and c not in packing
    )
    assert packing
    assert all(len(check_method(c)) == 14 for c in packing)
    assert all(len(check_method(c)) == 6 for c in foveate.methods().values() if c.stage in ("decode", "text"))


# --- methods that are wrong on purpose ------------------------------------------------------------------------

CARD = {"title": "wrong on purpose", "url": "https://arxiv.org/abs/0000.00000", "cost": "none"}


class Toy:
    """A correct selection by norm; each wrong method changes one thing."""

    stage = "inputs"
    name = "toy"

    def score(self, tokens: Tokens) -> torch.Tensor:
        return tokens.x.float().norm(dim=-1)

    def reduce(self, tokens: Tokens) -> Reduction:
        return Reduction.take(top(self.score(tokens), self.budget(tokens.n)), tokens.n)

    def budget(self, n: int) -> int:
        m = round(self.keep * n) if isinstance(self.keep, float) else self.keep  # type: ignore[attr-defined]
        return min(n, max(1, m))


def toy(card: dict[str, Any] | None = None, /, **wrong: Any) -> type[Any]:
    body = {
        "__module__": __name__,
        "__annotations__": {"keep": float | int},
        "__doc__": "A toy.",
        "stage": Toy.stage,
        "name": Toy.name,
        "keep": option(0.25, Keep(), "how much to keep"),
        **wrong,
    }
    return method(**CARD, **(card or {}))(type("Broken", (Toy,), body))


def outcome(cls: type[Any], name: str) -> str:
    (check,) = [c for c in check_method(cls) if c.name == name]
    try:
        check()
    except AssertionError as error:
        return f"failed: {error}"
    except SkipTest as reason:
        return f"skipped: {reason}"
    return "passed"


def test_a_correct_toy_passes_the_battery() -> None:
    found = {c.name: outcome(toy(), c.name) for c in check_method(toy())}
    assert found.pop("documented").startswith("failed")  # this module's docstring is not its page
    assert {k for k, v in found.items() if v.startswith("skipped")} == {"text", "unknown_option", "prefix", "padding"}
    assert {v for v in found.values() if not v.startswith("skipped")} == {"passed"}


def sees_other_rows(self: Any, tokens: Tokens) -> torch.Tensor:
    return (tokens.x.float() - tokens.x.float().mean((0, 1))).norm(dim=-1)


def random_scores(self: Any, tokens: Tokens) -> torch.Tensor:
    return torch.rand(tokens.x.shape[:2])


def edits_its_input(self: Any, tokens: Tokens) -> torch.Tensor:
    return tokens.x.mul_(2).float().norm(dim=-1)


def scores_in_low_precision(self: Any, tokens: Tokens) -> torch.Tensor:
    return tokens.x.sum(-1) + 100


def order_of_score(self: Any, tokens: Tokens) -> Reduction:
    right = Toy.reduce(self, tokens)
    return Reduction(right.keep.flip(-1), right.assign, right.weight, selects=True)


def greedy_repeats(self: Any, tokens: Tokens) -> Reduction:
    """The earliest of identical tokens, as often as there are copies."""
    keep = Toy.reduce(self, tokens).keep
    same = (tokens.x[:, :, None] == tokens.x[:, None]).all(-1)
    keep = same.to(torch.uint8).argmax(-1).gather(1, keep).sort(-1).values
    assign = torch.full(tokens.x.shape[:2], -1).scatter(1, keep, torch.arange(keep.shape[1]).expand_as(keep))
    return Reduction(keep, assign, (assign >= 0).float(), selects=True)


def sums_instead_of_means(self: Any, tokens: Tokens) -> Reduction:
    n, m = tokens.n, self.budget(tokens.n)
    into = (torch.arange(n) // (-(-n // m)) * -(-n // m)).expand(tokens.x.shape[0], n)
    right = Reduction.merge(into)
    return Reduction(right.keep, right.assign, torch.ones_like(right.weight))


def scales(self: Any, tokens: Tokens) -> Reduction:
    right = Toy.reduce(self, tokens)
    return Reduction(right.keep, right.assign, right.weight * 0.999)


class Lax(Keep):
    def fits(self, value: Any) -> bool:
        return True


class Widening(Reduction):
    def apply(self, x: torch.Tensor) -> torch.Tensor:
        return Reduction.apply(self, x).float()

    __call__ = apply


class Viewing(Reduction):
    def apply(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, : self.m]

    __call__ = apply


class Doubled(Reduction):
    def size(self, size: torch.Tensor | None = None) -> torch.Tensor:
        return 2 * Reduction.size(self, size)


def of(kind: type[Reduction]) -> Any:
    def reduce(self: Any, tokens: Tokens) -> Reduction:
        right = Toy.reduce(self, tokens)
        return kind(right.keep, right.assign, right.weight, None, right.selects)

    return reduce


WRONG = {
    "sees other rows": ("rows_apart", {"score": sees_other_rows}),
    "draws without a seed of its own": ("deterministic", {"score": random_scores}),
    "edits its input": ("deterministic", {"score": edits_its_input}),
    "decides in low precision": ("dtypes", {"score": scores_in_low_precision}),
    "lists survivors by score": ("valid_map", {"reduce": order_of_score}),
    "keeps a token twice": ("valid_map", {"reduce": greedy_repeats}),
    "sums": ("valid_map", {"reduce": sums_instead_of_means}),
    "scales what it keeps": ("keep_all", {"reduce": scales}),
    "one too many": ("budget", {"budget": lambda self, n: min(n, Toy.budget(self, n) + 1)}),
    "rounds the least share to nothing": ("budget", {"budget": lambda self, n: int(0.09 * n) or 1}),
    "leaves nothing": ("few_tokens", {"budget": lambda self, n: int(self.keep * n)}),
    "turns half precision into single": ("dtypes", {"reduce": of(Widening)}),
    "holds the whole tensor": ("bytes", {"reduce": of(Viewing)}),
    "is not the map it says": ("composes", {"reduce": of(Viewing)}),
    "makes mass": ("mass", {"reduce": of(Doubled)}),
    "takes any value": ("bad_values", {"keep": option(0.25, Lax(), "how much to keep")}),
    "says nothing about an option": ("options", {"keep": option(0.25, Keep(), "")}),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_method_is_caught(fault: str) -> None:
    name, change = WRONG[fault]
    assert outcome(toy(**change), name).startswith("failed"), fault


def test_ties_are_caught() -> None:
    def other_way_in_half(self: Any, tokens: Tokens) -> torch.Tensor:
        at = torch.arange(tokens.n).expand(tokens.x.shape[:2]).float()
        return at if tokens.x.dtype == torch.bfloat16 else -at

    assert outcome(toy(score=other_way_in_half), "ties").startswith("failed")


def test_variants_are_tried() -> None:
    def reduce(self: Any, tokens: Tokens) -> Reduction:
        return order_of_score(self, tokens) if self.how == "bad" else Toy.reduce(self, tokens)

    both = {"__annotations__": {"keep": float | int, "how": str}, "reduce": reduce}
    good = option("good", OneOf(("good", "fine")), "how")
    assert outcome(toy(**both, how=good), "valid_map") == "passed"
    assert "how='bad'" in outcome(toy(**both, how=option("good", OneOf(("good", "bad")), "how")), "valid_map")


def test_an_encoder_that_drops_its_class_token_is_caught() -> None:
    assert outcome(toy(stage="encoder"), "prefix").startswith("failed")


def test_a_cache_method_that_ignores_padding_is_caught() -> None:
    def reduce(self: Any, entries: Entries) -> Reduction:
        score = torch.arange(entries.n).flip(0).expand(entries.keys.shape[:3])
        return evict(score, self.keep, Entries(entries.keys, entries.values) if self.forgets else entries)

    def cached(forgets: bool) -> type[Any]:
        return toy(stage="cache", reduce=reduce, forgets=forgets)

    assert outcome(cached(False), "padding") == "passed"
    assert outcome(cached(True), "padding").startswith("failed")


def test_an_exemption_is_a_skip_with_its_reason() -> None:
    cls = toy({"exempt": {"budget": "keeps all on purpose"}}, budget=lambda self, n: n)
    assert outcome(cls, "budget") == "skipped: keeps all on purpose"
    assert outcome(toy(budget=lambda self, n: n), "budget").startswith("failed")
    assert outcome(toy({"exempt": {"budgets": "no such check"}}), "documented").startswith("failed")
