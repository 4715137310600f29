"""Plans as text, objects or YAML, and the registry of methods, found by file name."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import pkgutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import OptionError, PlanError, UnknownMethodError
from .method import STAGES, changed, options, spec

#: Third parties add methods with this entry-point group: ``name = "package.module:Class"``.
GROUP = "foveate.methods"


@functools.cache
def _own() -> dict[str, str]:
    """name -> module of every method file that comes with foveate (nothing is imported)."""
    root = Path(__file__).parent
    found: dict[str, str] = {}
    for stage in STAGES:
        for info in pkgutil.iter_modules([str(root / stage)]):
            if info.name.startswith("_"):
                continue
            if info.name in found:
                raise PlanError(f"two method files are called {info.name!r}: {found[info.name]} and foveate.{stage}")
            found[info.name] = f"foveate.{stage}.{info.name}"
    return found


def _others() -> dict[str, Any]:
    """name -> entry point of every third-party method that is installed."""
    return {e.name: e for e in entry_points(group=GROUP)}


def names() -> list[str]:
    """Every method's name, in path order."""
    own = list(_own())
    return own + sorted(n for n in _others() if n not in own)


def get(name: str) -> type[Any]:
    """The method class of that name. Raises UnknownMethodError with the nearest name."""
    if name in _own():
        return method_in(importlib.import_module(_own()[name]))
    if name in (others := _others()):
        return _third_party(name, others[name])
    raise UnknownMethodError(f"no method is called {name!r}; {nearest(name, names())}")


def method_in(module: ModuleType) -> type[Any]:
    """The class decorated with ``@method`` in a method's file. Raises PlanError if there is none."""
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == module.__name__ and hasattr(value, "card"):
            return value
    raise PlanError(f"{module.__file__} holds no class decorated with @method")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest one, or all there are."""
    near = difflib.get_close_matches(name, known := list(known), 1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"


def _third_party(name: str, entry: Any) -> type[Any]:
    try:
        cls: type[Any] = entry.load()
    except Exception as error:
        raise PlanError(f"method {name!r} of {entry.value} could not be loaded: {error}") from error
    if not hasattr(cls, "card"):
        raise PlanError(f"{entry.value}, entry point {name!r} of group {GROUP}, is not decorated with foveate.method")
    return cls


def methods() -> dict[str, type[Any]]:
    """Every method class by name, in path order; a third party's that cannot be loaded is left out with a warning."""
    found: dict[str, type[Any]] = {}
    for name in names():
        try:
            found[name] = get(name)
        except PlanError as error:
            if name in _own():
                raise
            warnings.warn(str(error), stacklevel=2)
    return found


def make(name: str, given: Mapping[str, Any]) -> Any:
    """A method from its name and options. Raises OptionError for an option it does not have."""
    return build(name, get(name), given)


def build(name: str, cls: type[Any], given: Mapping[str, Any]) -> Any:
    """An instance of a method's class from its options. Raises OptionError for an option it does not have."""
    known = options(cls)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            takes = ", ".join(f"{k}={f.default!r}" for k, f in known.items()) or "no options"
            raise OptionError(f"{name} has no option {key!r}{hint} It takes {takes}.")
    return cls(**given)


def parse(plan: str, maker: Callable[[str, dict[str, Any]], Any] = make) -> list[Any]:
    """``"a(k=1) + b"`` -> [A(k=1), B()], as written. Only names and literals are read; nothing is evaluated.

    maker: makes what a name with its options stands for; :func:`make` makes methods of plans.
    """
    if not plan.strip():
        return []
    try:
        tree = ast.parse(f"(\n{plan}\n)", mode="eval").body  # in parentheses a plan may run over several lines
    except SyntaxError as error:
        raise PlanError(f"cannot read the plan {plan!r}: {error.msg}; {_FORM}") from error
    return _walk(tree, plan, maker)


_FORM = "write it as 'name(option=value) + name(option=value)'"


def _walk(e: ast.expr, plan: str, make: Callable[[str, dict[str, Any]], Any]) -> list[Any]:
    if isinstance(e, ast.BinOp) and isinstance(e.op, ast.Add):
        return _walk(e.left, plan, make) + _walk(e.right, plan, make)
    if isinstance(e, ast.Name):
        return [make(e.id, {})]
    if isinstance(e, ast.Call) and isinstance(e.func, ast.Name) and not e.args:
        try:
            given = {k.arg: ast.literal_eval(k.value) for k in e.keywords if k.arg is not None}
        except (ValueError, TypeError) as error:
            raise PlanError(f"option values must be literals in {ast.unparse(e)!r}") from error
        if len(given) == len(e.keywords):
            return [make(e.func.id, given)]
    raise PlanError(f"cannot read {ast.unparse(e)!r} in the plan {plan!r}; {_FORM}")


def from_yaml(path: str | Path) -> list[Any]:
    """Read a plan file: a list of names or ``name: {option: value}`` entries, at the top or under ``plan``."""
    import yaml

    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PlanError(f"no plan file at {str(path)!r}") from error
    except OSError as error:
        raise PlanError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PlanError(f"{str(path)!r} is not YAML: {' '.join(str(error).split())}") from error
    return from_data(data, repr(str(path)))


def from_data(data: Any, where: str) -> list[Any]:
    """What a plan file holds -> its methods. where: the file, in words. Raises PlanError for anything else."""
    steps = data.get("plan") if isinstance(data, dict) else data
    if isinstance(steps, str):
        return parse(steps)
    if not isinstance(steps, list):
        raise PlanError(f"{where} must hold a list of methods, at the top or under 'plan'. Got {type(steps).__name__}.")
    out: list[Any] = []
    for step in steps:
        if isinstance(step, str):
            out += parse(step)
        elif isinstance(step, dict) and len(step) == 1 and isinstance(next(iter(step.values())), dict | None):
            ((name, given),) = step.items()
            out.append(make(str(name), given or {}))
        else:
            raise PlanError(f"cannot read the step {step!r} of {where}; write 'name' or 'name: {{option: value}}'")
    return out


def to_yaml(plan: Iterable[Any]) -> str:
    """The plan as YAML text that :func:`from_yaml` reads back."""
    import yaml

    steps: list[Any] = []
    for m in plan:
        given = {k: list(v) if isinstance(v, tuple) else v for k, v in changed(m).items()}
        steps.append({m.name: given} if given else m.name)
    return yaml.safe_dump({"plan": steps}, sort_keys=False)


class Plan(tuple[Any, ...]):
    """Methods in path order (media, encoder, inputs, layers, cache, decode, text); the order within a stage is kept."""

    __slots__ = ()

    @classmethod
    def of(cls, plan: str | Path | Any | Iterable[Any]) -> Plan:
        """A plan from text, a path to a ``.yaml`` file, one method, or several methods.

        Raises:
            PlanError: when it cannot be read, or when something in it is not a method.
        """
        if isinstance(plan, Plan):
            return plan
        if isinstance(plan, Path) or (isinstance(plan, str) and plan.strip().endswith((".yaml", ".yml"))):
            steps = from_yaml(plan)
        elif isinstance(plan, str):
            steps = parse(plan)
        elif hasattr(plan, "card"):
            steps = [plan]
        elif isinstance(plan, Iterable):
            steps = [s for p in plan for s in (parse(p) if isinstance(p, str) else [p])]
        else:
            raise PlanError(f"a plan is text, a .yaml file, a method or a list of methods. Got {plan!r}.")
        for s in steps:
            if not hasattr(s, "card") or isinstance(s, type):
                raise PlanError(f"{s!r} is not a method; give an instance such as DivPrune(keep=0.1), or text")
        decoders = [s.name for s in steps if s.stage == "decode"]
        if len(decoders) > 1:
            raise PlanError(f"only one method can drive decoding; this plan has {' and '.join(decoders)}. Remove one.")
        return cls(sorted(steps, key=lambda s: STAGES.index(s.stage)))

    def at(self, stage: str) -> list[Any]:
        """The plan's methods of one stage."""
        return [m for m in self if m.stage == stage]

    def __str__(self) -> str:
        return " + ".join(spec(m) for m in self)

    def __repr__(self) -> str:
        return f"Plan({str(self)!r})"
