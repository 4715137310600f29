"""The common checks of a method, for foveate's own and for yours::

    import pytest
    from foveate.testing import check_method

    @pytest.mark.parametrize("check", check_method(MyMethod), ids=str)
    def test_my_method(check):
        check()

A check that a method cannot pass is declared on its card, ``exempt={"budget": "a threshold decides how many"}``, and
shows up as a skip with that reason. Methods of the stages media, encoder, inputs, layers and cache get all; others only
what concerns documentation, options and text.

Besides its defaults a method is tried with every other value of its ``OneOf`` options (except ``"code"``, by convention
the authors' code with its defects) and with each number that is None by default.

Longer than 300 lines because it is one list of checks, short each, over shared inputs that are made here too.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor

from ..errors import OptionError
from ..method import Keep, Many, OneOf, Range, options
from ..reduction import Reduction
from ..spec import from_yaml, get, make, names, parse, to_yaml
from ..tokens import Entries, Tokens
from . import packs

#: Tokens in the test inputs; the shares 0.1 and 0.5 of it are whole numbers, so all roundings agree.
N = 40
KINDS = ("clustered", "repeated", "identical", "zero")
_B, _D, _LAYERS, _GROUPS = 3, 16, 8, 2

Check = Callable[[type[Any]], None]
_ALL: list[tuple[str, Check]] = []
_ANY_STAGE = ("documented", "arxiv", "options", "text", "unknown_option", "bad_values")


@dataclass(frozen=True)
class MethodCheck:
    """One check of one method. Call it: it returns, raises AssertionError, or raises SkipTest with the reason."""

    method: type[Any]
    name: str
    body: Check = dataclasses.field(repr=False)

    def __call__(self) -> None:
        if self.name in self.method.card.exempt:
            raise SkipTest(self.method.card.exempt[self.name])
        self.body(self.method)

    def __str__(self) -> str:
        return f"{self.method.name}-{self.name}"


def check_method(cls: type[Any]) -> list[MethodCheck]:
    """All checks that concern a method class."""
    data = cls.stage in ("media", "encoder", "inputs", "layers", "cache")
    if hasattr(cls, "pack"):
        some = [(name, body) for name, body in _ALL if name in _ANY_STAGE]
        return [MethodCheck(cls, name, body) for name, body in some + packs.checks(_instances, _inputs)]
    return [MethodCheck(cls, name, body) for name, body in _ALL if data or name in _ANY_STAGE]


def _check(body: Check) -> Check:
    _ALL.append((body.__name__.removeprefix("_"), body))
    return body


def _need(fact: Any, message: str) -> None:
    if not bool(fact):
        raise AssertionError(message)


# --- documentation, options and text ----------------------------------------------------------------------------------


@_check
def _documented(cls: type[Any]) -> None:
    card, page = cls.card, " ".join((inspect.getmodule(cls).__doc__ or "").split())
    for field in ("title", "url", "cost"):
        _need(getattr(card, field), f"the card of {cls.name} has no {field}")
    _need(card.url in page, f"the module docstring of {cls.name} lacks the link {card.url}")
    _need(card.title.lower() in page.lower(), f"the module docstring of {cls.name} lacks the title {card.title!r}")
    _need(not (cls.__doc__ or "(").startswith(f"{cls.__name__}("), f"class {cls.__name__} has no docstring")
    _need(card.average or card.why, f"{cls.name} declares average=False without saying why")
    _need(
        set(card.exempt) <= {name for name, _ in _ALL} | packs.NAMES,
        f"{cls.name} is exempt from checks that do not exist",
    )
    _need(all(card.exempt.values()), f"{cls.name} is exempt from a check without a reason")


@_check
def _arxiv(cls: type[Any]) -> None:
    _need(cls.card.url.startswith("https://arxiv.org/abs/"), f"{cls.card.url!r} is not an arXiv abstract")


@_check
def _options(cls: type[Any]) -> None:
    for name, f in options(cls).items():
        _need(f.metadata.get("doc"), f"option {name!r} of {cls.name} has no description")
        _need(f.metadata.get("check") is not None, f"option {name!r} of {cls.name} has no check")
        _need(f.default is not dataclasses.MISSING, f"option {name!r} of {cls.name} has no default")


@_check
def _text(cls: type[Any]) -> None:
    _registered(cls)
    for m in _instances(cls, everything=True):
        (again,) = parse(str(m))
        _need(again == m and str(again) == str(m), f"{m} reads back as {again}")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "plan.yaml"
            file.write_text(to_yaml([m]), encoding="utf-8")
            (again,) = from_yaml(file)
        _need(again == m and str(again) == str(m), f"{m} reads back from YAML as {again}")


@_check
def _unknown_option(cls: type[Any]) -> None:
    _registered(cls)
    try:
        made = make(cls.name, {"no_such_option": 1})
    except OptionError as error:
        _need("no_such_option" in str(error), f"the message does not name the option: {error}")
        return
    raise AssertionError(f"an option that does not exist was taken: {made}")


@_check
def _bad_values(cls: type[Any]) -> None:
    for name, f in options(cls).items():
        for value in f.metadata["check"].bad():
            if value is None and f.metadata["optional"]:
                continue
            try:
                made = cls(**{name: value})
            except OptionError as error:
                _need(name in str(error), f"the message does not name the option: {error}")
                continue
            raise AssertionError(f"{name}={value!r} was taken: {made}")


# --- decisions --------------------------------------------------------------------------------------------------------


@_check
def _budget(cls: type[Any]) -> None:
    if "keep" not in options(cls):
        raise SkipTest("has no option 'keep'")
    for keep, m in ((0.1, N // 10), (0.5, N // 2), (1.0, N), (1, 1), (7, 7), (N, N), (10 * N, N)):
        for kind in KINDS:
            for data in _inputs(cls, kind):
                got = cls(keep=keep).reduce(data).lengths.tolist()
                _need(set(got) == {m}, f"keep={keep!r} of {N} {kind} tokens left {got}, not {m}")


@_check
def _valid_map(cls: type[Any]) -> None:
    for m, kind in itertools.product(_instances(cls), KINDS):
        for data in _inputs(cls, kind):
            _valid(m.reduce(data), _x(data), cls.card.average, f"{m} on {kind} tokens")


@_check
def _few_tokens(cls: type[Any]) -> None:
    for m, n in itertools.product(_instances(cls), (1, 2, 3)):
        for data in _inputs(cls, "clustered", n=n, prefixes=(0,)):
            out = m.reduce(data)
            _valid(out, _x(data), cls.card.average, f"{m} on {n} tokens")
            _need(out.lengths.min() > 0, f"{m} on {n} tokens left none")


@_check
def _prefix(cls: type[Any]) -> None:
    if cls.stage != "encoder":
        raise SkipTest("only encoders have tokens that must survive")
    for m, p in itertools.product(_instances(cls), (1, 2, 5)):
        for data in _inputs(cls, "repeated", prefixes=(p,)):
            out = m.reduce(data)
            _need(torch.equal(out(_x(data))[:, :p], _x(data)[:, :p]), f"{m} does not leave the first {p} tokens alone")


@_check
def _mass(cls: type[Any]) -> None:
    for m, kind in itertools.product(_instances(cls), KINDS):
        for data in _inputs(cls, kind):
            out = m.reduce(data)
            size = torch.arange(out.n).remainder(5).add(1).float().expand(out.b, -1)
            for given in (None, size):
                want = ((torch.ones_like(size) if given is None else given) * (out.assign >= 0)).sum(-1)
                _need(torch.allclose(out.size(given).sum(-1), want), f"{m} on {kind} tokens loses or makes mass")


@_check
def _keep_all(cls: type[Any]) -> None:
    known = options(cls)
    whole: dict[str, Any] = {k: v for k, v in (("keep", 1.0), ("ratio", 1.0), ("r", 0)) if k in known}
    if "keeps" in known:
        whole["keeps"] = (1.0,) * len(cls().keeps)
    if not whole:
        raise SkipTest("has no option that keeps everything")
    for kind, dtype in itertools.product(KINDS, (torch.float32, torch.bfloat16, torch.float64)):
        for data in _inputs(cls, kind, dtype=dtype):
            out, x = cls(**whole).reduce(data), _x(data)
            _need(out.m == out.n, f"{cls(**whole)} leaves {out.m} of {out.n} {kind} tokens")
            _need(torch.equal(out(x), x), f"{cls(**whole)} changes {kind} tokens in {dtype}")


@_check
def _rows_apart(cls: type[Any]) -> None:
    for m in _instances(cls):
        for data in _inputs(cls, "clustered"):
            out = m.reduce(data)
            each = out.b // _B
            for b in range(_B):
                alone = m.reduce(_cut(data, b))
                for h in range(each):
                    _need(_same(alone.row(h), out.row(b * each + h)), f"{m} decides otherwise for row {b} alone")


@_check
def _deterministic(cls: type[Any]) -> None:
    for m in _instances(cls):
        for data in _inputs(cls, "clustered"):
            before = {k: v.clone() for k, v in _tensors(data).items()}
            state, python = torch.get_rng_state(), random.getstate()
            first = m.reduce(data)
            _need(torch.equal(torch.get_rng_state(), state), f"{m} moves torch's global random state")
            _need(random.getstate() == python, f"{m} moves Python's global random state")
            torch.rand(3)
            _need(m.reduce(data) == first, f"{m} decides otherwise the second time")
            for name, was in before.items():
                _need(torch.equal(_tensors(data)[name], was), f"{m} changes its input {name}")


@_check
def _composes(cls: type[Any]) -> None:
    for m in _instances(cls):
        for data in _inputs(cls, "clustered"):
            x, a = _x(data), m.reduce(data)
            if bool((a.lengths != a.m).any()):
                continue
            for again in _inputs(cls, "clustered", n=a.m, prefixes=(getattr(data, "prefix", 0),)):
                b = m.reduce(again)
                _need(torch.allclose(a.then(b)(x), b(a(x)), atol=1e-5), f"{m} twice is not its two maps composed")


@_check
def _dtypes(cls: type[Any]) -> None:
    for m, dtype in itertools.product(_instances(cls), (torch.float16, torch.bfloat16)):
        for data in _inputs(cls, "clustered", dtype=dtype):
            out = m.reduce(data)
            _need(out(_x(data)).dtype == dtype, f"{m} turns {dtype} into {out(_x(data)).dtype}")
            wide = m.reduce(_cast(data, torch.float32))
            _need(_same(out, wide), f"{m} decides otherwise in {dtype} than in float32 on the same values")


@_check
def _ties(cls: type[Any]) -> None:
    for m in _instances(cls):
        for data in _inputs(cls, "zero", flat=True):
            first = m.reduce(data)
            for dtype in (torch.float16, torch.bfloat16):
                _need(
                    _same(first, m.reduce(_cast(data, dtype))), f"{m} breaks ties in {dtype} otherwise than in float32"
                )


@_check
def _bytes(cls: type[Any]) -> None:
    for m in _instances(cls):
        for data in _inputs(cls, "clustered"):
            x, out = _x(data), m.reduce(data)
            held = out(x).untyped_storage().nbytes()
            _need(held * out.n == x.nbytes * out.m, f"{m} leaves {out.m} of {out.n} tokens, {held} of {x.nbytes} bytes")


@_check
def _padding(cls: type[Any]) -> None:
    if cls.stage != "cache":
        raise SkipTest("only caches hold padding")
    keeps = ({"keep": 0.5}, {"keep": 0.9}, {"keep": 3}) if "keep" in options(cls) else ({},)
    pads = torch.tensor([0, 9, 36])
    for given in keeps:
        for data in _inputs(cls, "clustered"):
            valid = torch.arange(N) >= pads[:, None]
            out = cls(**given).reduce(dataclasses.replace(data, valid=valid))
            _valid(out, _x(data), cls.card.average, f"{cls(**given)} on a padded batch")
            left = (out.kept & ~valid.repeat_interleave(_GROUPS, 0)).sum(-1).view(_B, _GROUPS)
            want = (pads[:, None] - (N - out.lengths.view(_B, _GROUPS))).clamp(min=0)
            _need(torch.equal(left, want), f"{cls(**given)} holds {left.tolist()} pads instead of {want.tolist()}")


# --- what the checks share --------------------------------------------------------------------------------------------


def _registered(cls: type[Any]) -> None:
    if cls.name not in names() or get(cls.name) is not cls:
        raise SkipTest(f"{cls.name} is not registered (a file in a stage's folder, or an entry point of your package)")


def _instances(cls: type[Any], everything: bool = False) -> Iterator[Any]:
    """The method at its defaults and with one option changed: one that chooses a form, or with ``everything`` any."""
    yield cls()
    for name, f in options(cls).items():
        rule = f.metadata["check"]
        switch = _values(rule)[-1:] if f.default is None and isinstance(rule, Range) else []
        for value in _values(rule) if everything or isinstance(rule, OneOf) else switch:
            if value == f.default or (value == "code" and not everything):
                continue
            try:
                changed = cls(**{name: value})
            except OptionError:  # two options that depend on each other
                continue
            yield changed


def _values(check: Any) -> list[Any]:
    """Values that an option takes."""
    if isinstance(check, Keep):
        return [0.5, 1.0, 1, 7]
    if isinstance(check, OneOf):
        return list(check.values)
    if isinstance(check, Range):
        ends = [e for e in (check.low, check.high) if abs(e) != float("inf")]
        inside = (
            [sum(ends) / 2] if len(ends) == 2 else [ends[0] + 3 * (1 if check.low in ends else -1)] if ends else [0.5]
        )
        return [v for e in ends + inside for v in (check.kind(e),) if check.fits(v)]
    if isinstance(check, Many):
        return [tuple(_values(check.item)[-1:] * (check.length or 1))]
    return []


def _valid(out: Reduction, x: Tensor, average: bool, what: str) -> None:
    """A well-formed map of x's rows."""
    b, n, m = x.shape[0], x.shape[1], out.keep.shape[1]
    _need(out.keep.shape == (b, m) and out.keep.dtype == torch.int64, f"{what}: keep must be (B, m) int64")
    _need(out.assign.shape == (b, n) and out.assign.dtype == torch.int64, f"{what}: assign must be (B, n) int64")
    _need(out.weight.shape == (b, n) and out.weight.dtype == torch.float32, f"{what}: weight must be (B, n) float32")
    _need(m <= n and (out.keep >= -1).all() and (out.keep < n).all(), f"{what}: keep is not within the {n} tokens")
    ascending = (out.keep[:, 1:] > out.keep[:, :-1]) | ~out.valid[:, 1:]
    _need(ascending.all(), f"{what}: keep is not strictly ascending: {out.keep[~ascending.all(-1)][:1].tolist()}")
    _need((out.valid[:, :-1] | ~out.valid[:, 1:]).all(), f"{what}: an empty slot comes before a full one")
    _need((out.assign >= -1).all() and (out.assign < out.lengths[:, None]).all(), f"{what}: a token goes to no slot")
    sums = out.to_dense().sum(-1)[out.valid]
    _need(torch.isfinite(out.to_dense()).all(), f"{what}: shares are not finite")
    _need(not average or torch.allclose(sums, torch.ones_like(sums), atol=1e-4), f"{what}: shares do not sum to 1")
    _need(torch.isfinite(out(x)).all(), f"{what}: the result is not finite")


def _same(a: Reduction, b: Reduction) -> bool:
    """Equal decisions; shares up to rounding."""
    if a.keep.shape != b.keep.shape or a.assign.shape != b.assign.shape:
        return False
    close = torch.allclose(a.to_dense(), b.to_dense(), atol=1e-5)
    return torch.equal(a.keep, b.keep) and torch.equal(a.assign >= 0, b.assign >= 0) and close


def _x(data: Any) -> Tensor:
    """What the map is applied to: (rows, n, D)."""
    return data.keys.flatten(0, 1) if isinstance(data, Entries) else data.x


def _tensors(data: Any) -> dict[str, Tensor]:
    return {f.name: v for f in dataclasses.fields(data) for v in (getattr(data, f.name),) if isinstance(v, Tensor)}


def _cut(data: Any, b: int) -> Any:
    """Row b alone."""
    return dataclasses.replace(data, **{k: v[b : b + 1] for k, v in _tensors(data).items()})


def _cast(data: Any, dtype: torch.dtype) -> Any:
    return dataclasses.replace(data, **{k: v.to(dtype) for k, v in _tensors(data).items() if v.is_floating_point()})


def _features(kind: str, shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    """(..., n, d) of one of :data:`KINDS`."""
    *lead, n, d = shape
    if kind == "zero":
        return torch.zeros(shape)
    if kind == "identical":
        return torch.randn(*lead, 1, d, generator=g).expand(shape).clone()
    if kind == "repeated":
        return torch.randn(*lead, (n + 3) // 4, d, generator=g).repeat_interleave(4, -2)[..., :n, :].clone()
    centres = torch.randn(*lead, 5, d, generator=g)
    return centres[..., torch.randint(5, (n,), generator=g), :] + 0.3 * torch.randn(shape, generator=g)


def _inputs(
    cls: type[Any],
    kind: str,
    n: int = N,
    dtype: torch.dtype = torch.float32,
    prefixes: tuple[int, ...] | None = None,
    flat: bool = False,
) -> Iterator[Any]:
    """Test inputs with exactly the signals that the method needs, one for each choice among its alternatives.

    ``flat``: signals that tell no two tokens apart.
    """
    prefixes = ((0, 1) if cls.stage == "encoder" else (0,)) if prefixes is None else prefixes
    layer = next(iter(cls().at(_LAYERS)), 0) if hasattr(cls, "at") else 0
    for chosen in itertools.product(*[need.split("|") for need in cls.card.needs]):
        g = torch.Generator().manual_seed(n)
        if cls.stage == "cache":
            keys, values = (_features(kind, (_B, _GROUPS, n, _D), g) for _ in range(2))
            given = {name: _signal(name, keys[:, 0], g, kind, flat) for name in chosen if name != "features"}
            data: Any = Entries(keys, values, scaling=_D**-0.5, layer=layer, layers=_LAYERS, **given)
            yield _cast(data, dtype)
            continue
        x = _features(kind, (_B, n, _D), g)
        given = {}
        for name in chosen:
            if name in ("last_heads", "next_heads"):
                given.update(_heads(x, g, flat, cls.stage == "encoder"))
            elif name != "features":
                given[name] = _signal(name, x, g, kind, flat)
        for prefix in prefixes:
            data = Tokens(x, prefix=min(prefix, n), full=n, layer=layer, layers=_LAYERS, **given)
            yield _cast(data, dtype)
            if "grid" in chosen:
                yield from (_cast(data.with_(grid=film.expand(_B, n, 3).clone()), dtype) for film in _films(n))


def _films(n: int) -> Iterator[Tensor]:
    """Grids of clips, (n, 3): frames of eight tokens, and frames of which other methods left some."""
    cell = torch.arange(n)
    yield torch.stack([cell // 8, cell % 8 // 4, cell % 4], -1)
    left = cell + cell // 3 + cell // 7  # every few tokens one is gone
    yield torch.stack([left // 8, left % 8 // 4, left % 4], -1)


def _heads(x: Tensor, g: torch.Generator, flat: bool, encoder: bool) -> dict[str, Tensor]:
    """Queries and keys around x (B, n, D): 3 tokens before and 5 after in an LLM, the tokens alone in an encoder."""
    b, n, _ = x.shape
    before, after = (0, 0) if encoder else (3, 5)
    shape = (b, 4, before + n + after, 8)
    q, k = (torch.zeros(shape) if flat else torch.randn(shape, generator=g) for _ in range(2))
    where = torch.arange(before, before + n).expand(b, n).clone()
    out = {"q": q * 8**-0.5, "k": k[:, :2].clone(), "where": where}
    if not encoder:
        out["asks"] = torch.arange(before + n, before + n + after).expand(b, after).clone()
    return out


def _signal(name: str, x: Tensor, g: torch.Generator, kind: str, flat: bool) -> Tensor:
    """A made-up signal of the right shape for x (B, n, D)."""
    b, n, d = x.shape
    if name == "grid":
        wide = max(w for w in range(1, n + 1) if n % w == 0 and w * w <= n)
        cell = torch.arange(n)
        return torch.stack([cell * 0, cell // wide, cell % wide], -1).expand(b, n, 3).clone()
    if name == "times":
        return (torch.arange(n) // 8).float().expand(b, n).clone()
    if name == "size":
        return torch.ones(b, n) if flat else torch.randint(1, 4, (b, n), generator=g).float()
    if name in ("metric", "keys", "image_embeds"):
        return _features(kind, (b, n, 8), g)
    if name == "text_embeds":
        return _features("zero" if flat else "clustered", (b, 2, 8), g)
    if name == "crop":
        return (torch.arange(n) * 5 // n).expand(b, n).clone()
    if name == "pixels":
        return torch.full((b, n, 3, 6, 6), 128.0) if flat else torch.randint(256, (b, n, 3, 6, 6), generator=g).float()
    if name == "cls_logits":
        return torch.zeros(b, n) if flat else torch.randn(b, n, generator=g)
    if name == "queries":
        return _features(kind, (b, 2 * _GROUPS, min(n, 8), d), g)
    if name == "raw_queries":
        return _features(kind, (b, 2 * _GROUPS, n, d), g)
    if name == "rotary":
        return (100.0 ** -torch.linspace(0, 1, d // 2)).expand(b, -1).clone()
    if name == "output":
        return _features("clustered", (1, 2 * _GROUPS, d, 3 * d), g).expand(b, -1, -1, -1).clone()
    if name == "recalled":
        return torch.full((b, _GROUPS, n), 1 / n) if flat else torch.randn((b, _GROUPS, n), generator=g).softmax(-1)
    if name == "text":
        return _features("zero" if flat else "clustered", (b, 5, d), g)
    shapes = {
        **dict.fromkeys(("received_attention", "wide_attention"), (b, n)),
        **dict.fromkeys(("cls_layers", "received_layers", "transitions"), (b, 6, n)),
        **dict.fromkeys(("cls_attention", "last_attention", "next_attention"), (b, 4, n)),
        "received": (b, 2 * _GROUPS, n),
    }
    _need(name in shapes, f"no test input is known for the signal {name!r}; add it to foveate.testing.checks")
    return torch.full(shapes[name], 1 / n) if flat else torch.randn(shapes[name], generator=g).softmax(-1)
