"""What a method is: a frozen dataclass with a card. The decorator adds no behaviour beyond checking option values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar, dataclass_transform, runtime_checkable

from .errors import OptionError
from .reduction import Reduction
from .tokens import SIGNALS, Entries, Tokens

#: Stages in the order in which data passes them; a method's stage is the folder its file lies in.
STAGES = ("media", "encoder", "inputs", "layers", "cache", "decode", "text")


class Check(Protocol):
    """A constraint on an option: whether a value fits, what would, and values that do not (for tests)."""

    def fits(self, value: Any) -> bool: ...
    def __str__(self) -> str: ...
    def bad(self) -> list[Any]: ...


@dataclass(frozen=True)
class Keep:
    """A share in (0, 1] as a float, or a positive count as an int."""

    def fits(self, value: Any) -> bool:
        if isinstance(value, bool):
            return False
        if isinstance(value, int):
            return value > 0
        return isinstance(value, float) and 0 < value <= 1

    def __str__(self) -> str:
        return "in (0, 1] or a positive int"

    def bad(self) -> list[Any]:
        return [0, 0.0, -1, 1.5, math.nan, "half", True]


@dataclass(frozen=True)
class Range:
    """A number in [low, high] (``open_low``: low itself excluded), an int if ``kind`` is int."""

    low: float = -math.inf
    high: float = math.inf
    kind: type = float
    open_low: bool = False

    def fits(self, value: Any) -> bool:
        kinds = (int,) if self.kind is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or value != value or abs(value) == math.inf:
            return False
        return self.low <= value <= self.high and not (self.open_low and value == self.low)

    def __str__(self) -> str:
        what = "an int" if self.kind is int else "a number"
        left = f"{'(' if self.open_low or self.low == -math.inf else '['}{self.low:g}"
        return f"{what} in {left}, {self.high:g}{')' if self.high == math.inf else ']'}"

    def bad(self) -> list[Any]:
        out: list[Any] = ["three", None, math.nan, math.inf, True]
        out += [self.low if self.open_low else self.low - 1] if self.low > -math.inf else []
        out += [self.high + 1] if self.high < math.inf else []
        out += [1.5] if self.kind is int else []
        return out


@dataclass(frozen=True)
class OneOf:
    """One of a few literal values."""

    values: tuple[Any, ...]

    def fits(self, value: Any) -> bool:
        return any(value is v or (type(value) is type(v) and value == v) for v in self.values)

    def __str__(self) -> str:
        return "one of " + ", ".join(map(repr, self.values))

    def bad(self) -> list[Any]:
        return ["__none_of_these__"]


@dataclass(frozen=True)
class Many:
    """A tuple of values that each fit ``item`` (a list is accepted and stored as a tuple)."""

    item: Check
    length: int | None = None

    def fits(self, value: Any) -> bool:
        return (
            isinstance(value, tuple)
            and (self.length is None or len(value) == self.length)
            and all(self.item.fits(v) for v in value)
        )

    def __str__(self) -> str:
        return f"a list of {'values' if self.length is None else self.length}, each {self.item}"

    def bad(self) -> list[Any]:
        return [3, (*[self.item.bad()[0]] * (self.length or 1),)]


def option(default: Any, check: Check, doc: str) -> Any:
    """A documented, checked option of a method. ``None`` as default means that None is allowed too."""
    return field(default=default, metadata={"check": check, "doc": doc, "optional": default is None})


@dataclass(frozen=True)
class Card:
    """What the registry, the docs and the tests know about a method besides its options.

    Attributes:
        title: the paper's title.
        url: where to read it (an arXiv link).
        systems: ids of the systems list that this method covers.
        needs: signals (keys of :data:`foveate.tokens.SIGNALS`); "a|b" means a, or else b.
        training: "none", or what has to be trained.
        cost: asymptotic cost in words.
        vectors: folders of conformance vectors that this method passes.
        aliases: other names a conformance folder may use.
        average: False when the rows of its map need not sum to 1, with the reason in ``why``.
        exempt: names of common tests that do not apply, each with its reason.
    """

    title: str = ""
    url: str = ""
    systems: tuple[str, ...] = ()
    needs: tuple[str, ...] = ("features",)
    training: str = "none"
    cost: str = ""
    vectors: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    average: bool = True
    why: str = ""
    exempt: dict[str, str] = field(default_factory=dict)

    @property
    def evidence(self) -> str:
        """What shows that the method is right."""
        return "vectors: " + ", ".join(self.vectors) if self.vectors else "tests of the published rule"


@runtime_checkable
class Method(Protocol):
    """The one protocol. ``reduce`` takes :class:`Tokens` (or :class:`Entries` in the cache) and returns the map."""

    card: ClassVar[Card]
    name: ClassVar[str]
    stage: ClassVar[str]


class TokenMethod(Method, Protocol):
    """A method of the stages encoder, inputs and layers."""

    def reduce(self, tokens: Tokens) -> Reduction: ...


class LayerMethod(TokenMethod, Protocol):
    """A method inside a stack of layers; it says before which layers it acts."""

    def at(self, layers: int) -> tuple[int, ...]: ...


class CacheMethod(Method, Protocol):
    """A method of the stage cache: one row of the map for each batch row and KV head, (B * g, n) -> (B * g, m).

    Where a prompt is read in pieces it is asked after each of them, unless it says otherwise by ``pieces`` or
    ``between``; see :mod:`foveate.sites.pieces`.
    """

    def reduce(self, entries: Entries) -> Reduction: ...


T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(option,))
def method(**card: Any) -> Callable[[type[T]], type[T]]:
    """Class decorator: frozen dataclass, option checks, and ``card``, ``name`` and ``stage`` from the file's place.

    Raises:
        OptionError: when an instance is made with a value outside its option's range.
    """
    made = Card(**card)
    for need in made.needs:
        for name in need.split("|"):
            if name not in SIGNALS:
                raise ValueError(f"no signal is called {name!r}; there are {', '.join(SIGNALS)}")

    def wrap(cls: type[T]) -> type[T]:
        more = cls.__dict__.get("__post_init__")

        def check(self: Any) -> None:
            for f in dataclasses.fields(self):
                _check(self, f)
            if more is not None:
                more(self)

        cls.__post_init__ = check  # type: ignore[attr-defined]
        stage, name = cls.__module__.rsplit(".", 2)[-2:] if "." in cls.__module__ else ("inputs", cls.__module__)
        cls.card = made  # type: ignore[attr-defined]
        cls.name = cls.__dict__.get("name", name)  # type: ignore[attr-defined]
        cls.stage = cls.__dict__.get("stage", stage)  # type: ignore[attr-defined]
        cls.__str__ = spec  # type: ignore[method-assign]
        return dataclass(frozen=True)(cls)

    return wrap


def _check(self: Any, f: dataclasses.Field[Any]) -> None:
    rule, value = f.metadata.get("check"), getattr(self, f.name)
    if isinstance(value, list):
        value = tuple(value)
        object.__setattr__(self, f.name, value)
    if rule is None or (value is None and f.metadata["optional"]) or rule.fits(value):
        return
    raise OptionError(f"'{f.name}' of {self.name} must be {rule}. Got {value!r}.")


def spec(self: Any) -> str:
    """The method as text that a plan can be read from, options at their default left out."""
    shown = [f"{name}={value!r}" for name, value in changed(self).items()]
    return f"{self.name}({', '.join(shown)})" if shown else self.name


def changed(self: Any) -> dict[str, Any]:
    """The options of a method that are not at their default (1 is not 1.0: one is a count, the other a share)."""
    values = {f.name: (getattr(self, f.name), f.default) for f in dataclasses.fields(self)}
    return {name: value for name, (value, default) in values.items() if repr(value) != repr(default)}


def options(cls: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    """The options of a method class by name."""
    return {f.name: f for f in dataclasses.fields(cls)}
