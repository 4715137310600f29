"""The rules of the house: who may import whom, where transformers' internals are known, how long a file is."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import foveate
from foveate.method import STAGES

ROOT = Path(foveate.__file__).parent
FILES = sorted(p for p in ROOT.rglob("*.py"))
#: What each file of the package may import at most: its own floor or a lower one.
FLOORS = (
    {"errors", "tokens", "reduction", "method", "atomic"},
    {"parts", "stores"},
    set(STAGES),
    {"spec"},
    {"report"},
    {"sites", "families"},
    {"apply"},
)
TOP = len(FLOORS)
INTERNALS = ("transformers.models", "transformers.cache_utils", "transformers.masking_utils", "transformers.modeling_")
#: Where transformers' internals may be known: the sites, and what builds models or their processors.
MAY_KNOW = ("sites", "families", "stores", "testing", "lab", "bench", "engines", "learn", "load", "prompt")


def part(file: Path) -> str:
    """The file's or folder's name at the top of the package."""
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def floor(name: str) -> int:
    return next((i for i, names in enumerate(FLOORS) if name in names), TOP)


def imports(file: Path, always: bool = False) -> Iterator[str]:
    """Absolute names of everything a file imports. ``always``: only when it is itself imported."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    here = ("foveate", *file.relative_to(ROOT).with_suffix("").parts)
    for node in _walk(tree, always):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level]) if node.level else ""
            module = ".".join(filter(None, (base, node.module or "")))
            yield module
            yield from (f"{module}.{a.name}" for a in node.names)


def _walk(tree: ast.AST, always: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if always and later:
            continue
        yield node
        yield from _walk(node, always)


def named(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", FILES, ids=named)
def test_imports_go_down_only(file: Path) -> None:
    if file == ROOT / "__init__.py" or part(file) == "reduction":  # the public face; drawing is imported when asked for
        return
    mine = floor(part(file))
    for name in imports(file):
        if name.startswith("foveate."):
            other = name.split(".")[1]
            known = (ROOT / other).is_dir() or (ROOT / f"{other}.py").is_file()
            assert not known or floor(other) <= mine, f"{named(file)} imports {name}, which is above it"


@pytest.mark.parametrize("file", [f for f in FILES if part(f) in STAGES], ids=named)
def test_method_files_know_no_model(file: Path) -> None:
    for name in imports(file):
        assert not name.startswith(("transformers", "foveate.sites", "foveate.families", "foveate.apply")), name


@pytest.mark.parametrize("file", FILES, ids=named)
def test_transformers_internals_stay_where_they_are_known(file: Path) -> None:
    if part(file) in MAY_KNOW:
        return
    for name in imports(file):
        assert not name.startswith(INTERNALS), f"{named(file)} imports {name}"


@pytest.mark.parametrize("file", FILES, ids=named)
def test_long_files_say_why(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    if text.count("\n") > 300:
        page = ast.get_docstring(ast.parse(text)) or ""
        why = f"{named(file)} is over 300 lines; shorten it, or say in its docstring: longer than 300 lines because ..."
        assert "onger than 300 lines because" in " ".join(page.split()), why


@pytest.mark.parametrize("file", FILES, ids=named)
def test_every_file_says_what_it_is(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), f"{named(file)} has no docstring"


METHOD_FILES = [f for f in FILES if part(f) in STAGES and not f.name.startswith("_")]


@pytest.mark.parametrize("file", METHOD_FILES, ids=named)
def test_a_method_file_holds_one_method(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    made = [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and any(isinstance(d, ast.Call) and ast.unparse(d.func) == "method" for d in node.decorator_list)
    ]
    assert len(made) == 1, f"{named(file)} holds {made or 'no method'}"
    assert file.parent.parent == ROOT, f"{named(file)} is not directly in a stage's folder"
    assert foveate.methods()[file.stem].__name__ == made[0]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_foveate_is_light_and_registers_nothing() -> None:
    methods = tuple(f"foveate.{stage}." for stage in STAGES)
    code = f"""
import sys, foveate
heavy = {{"transformers", "PIL", "av", "matplotlib", "rich", "yaml", "fastapi", "ray", "vllm"}}
print(sorted(m for m in sys.modules if m in heavy or m.startswith({methods!r})))
"""
    assert run(code) == "[]"


def test_reading_a_plan_imports_only_its_methods() -> None:
    stages = tuple(f"foveate.{stage}." for stage in STAGES)
    code = f"""
import sys, foveate
foveate.Plan.of("divprune(keep=0.1) + snapkv")
print(sorted(m for m in sys.modules if m.startswith({stages!r}) or m == "transformers"))
"""
    assert run(code) == "['foveate.cache.snapkv', 'foveate.inputs.divprune']"
