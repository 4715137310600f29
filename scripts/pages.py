"""The documentation pages that are made from the code, so that they cannot disagree with it.

``docs/hooks.py`` calls :func:`pages` at every build. ``python scripts/pages.py DIR`` writes them to a folder instead.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from page_cli import cli_page
from page_grid import grid_page
from page_parts import own, table

import foveate
import foveate.families
from foveate import errors
from foveate.bench import verdict
from foveate.bench.kv import pages as cached
from foveate.families import Family, families
from foveate.method import STAGES, options
from foveate.tokens import SIGNALS

ROOT = Path(__file__).resolve().parent.parent

#: What each stage is, in path order, and the stages' place in the path of the data.
ABOUT = {
    "media": "before anything is encoded: which frames, which crops",
    "encoder": "inside the blocks of the vision tower",
    "inputs": "between the projector and the language model",
    "layers": "between two layers of the language model",
    "cache": "keys and values, right after a layer has read the prompt",
    "decode": "how new tokens are found",
    "text": "the words of the prompt",
}

#: Stages that act on a model, by the kind of its family.
STAGES_OF = {"vlm": ("encoder", "inputs", "layers", "cache", "decode"), "vit": ("encoder",), "lm": ("cache", "decode")}
KINDS = {"vlm": "vision and language", "vit": "vision", "lm": "language"}

_POOL = {
    "one": "one token each",
    "groups": "merge groups",
    "shuffle": "pixel shuffle over squares",
    "average": "average pooling over squares",
    "pack": "crops packed with newlines",
}


def headline(cls: type[Any]) -> tuple[str, str]:
    """(paper's short name, idea in one line) from the first line of a method file."""
    title, _, idea = first_line(sys.modules[cls.__module__]).partition(": ")
    return title, idea.rstrip(".")


def first_line(module: Any) -> str:
    """The first paragraph of a module's docstring on one line."""
    return " ".join((module.__doc__ or "").strip().split("\n\n")[0].split())


def family_files() -> Iterator[tuple[str, Family, str]]:
    """(file name, family, note) of every family file; the note is its docstring."""
    for info in pkgutil.iter_modules(foveate.families.__path__):
        module = importlib.import_module(f"foveate.families.{info.name}")
        yield info.name, module.FAMILY, first_line(module)


def plan_of(cls: type[Any]) -> str:
    """The method with every option at its default, as plan text."""
    given = ", ".join(f"{k}={f.default!r}" for k, f in options(cls).items() if f.default is not dataclasses.MISSING)
    return f"{cls.name}({given})"


# --- methods ------------------------------------------------------------------------------------------------------


def method_page(cls: type[Any]) -> str:
    """The page of one method: its file's docstring, its card and its options."""
    title, idea = headline(cls)
    body = (sys.modules[cls.__module__].__doc__ or "").strip().partition("\n\n")[2]
    body = re.sub(r"(?<![<(])(https://[^\s,)]+)", r"<\1>", body)
    card = cls.card
    needs = [f"`{n}`: {SIGNALS[n]}" for need in card.needs for n in need.split("|")]
    facts = [
        ["stage", f"{cls.stage}: {ABOUT[cls.stage]}"],
        ["needs", "; ".join(needs) or "nothing"],
        ["training", card.training],
        ["cost", card.cost],
        ["evidence", card.evidence],
        ["file", f"`src/{cls.__module__.replace('.', '/')}.py`"],
    ]
    rows = []
    for name, f in options(cls).items():
        about = f.metadata
        allowed = str(about.get("check") or "") + (" or None" if about.get("optional") else "")
        rows.append([f"`{name}`", f"`{f.default!r}`", allowed, about.get("doc", "")])
    taken = table(["option", "default", "allowed", "what it is"], rows) if rows else "It takes no options."
    plan = plan_of(cls)
    studies = {"image.json": "on pictures", "video.json": "on clips"}
    measured = [
        f"## When it helps and when it hurts, {where}\n\n{told}"
        for file, where in studies.items()
        if (told := verdict.section(cls.name, ROOT / "results" / file))
    ]
    if held := cached.section(cls.name, ROOT / "results" / "cache.json"):
        measured.append(f"## What is left of a cache\n\n{held}")
    return "\n\n".join(
        [
            f"# {title}",
            f"**{idea[:1].upper()}{idea[1:]}.**",
            body,
            table(["", ""], facts),
            *measured,
            f"## Options\n\n{taken}",
            f'## Use\n\n```bash\nfoveate ask clip.mp4 "What happens?" --plan "{plan}"\n```',
            f'```python\nimport foveate\n\nplan = foveate.Plan.of("{plan}")\nprint(plan)\n```\n',
        ]
    )


def methods_index() -> str:
    """All methods on one page, by stage."""
    parts = [
        "# Methods",
        "Every method by the place where it acts. A page is made from the method's own file: its docstring, its card "
        "and its options. `foveate methods` prints the same list; [the grid](grid.md) says which models each runs on.",
    ]
    found = own()
    for stage in STAGES:
        rows = [
            [f"[{name}]({name}.md)", headline(cls)[1], cls.card.training, cls.card.evidence]
            for name, cls in found.items()
            if cls.stage == stage
        ]
        if rows:
            head = ["plan name", "idea", "training", "evidence"]
            parts += [f"## {stage.capitalize()}", f"{ABOUT[stage].capitalize()}.", table(head, rows)]
    parts.append(
        "*Vectors* are inputs and outputs computed with the authors' own code, which the method reproduces. "
        "*Tests of the published rule* check the property that the paper states."
    )
    return "\n\n".join(parts) + "\n"


# --- families, errors, command line -------------------------------------------------------------------------------


def families_table() -> str:
    """One row for each family file."""
    rows = []
    for _, family, note in family_files():
        types = ", ".join(f"`{t}`" for t in family.types)
        rows.append([types, KINDS[family.kind], ", ".join(STAGES_OF[family.kind]), note.rstrip(".")])
    return table(
        ["model type", "kind", "stages", "what it is"], sorted(rows, key=lambda r: list(KINDS.values()).index(r[1]))
    )


def families_page() -> str:
    """Supported families, with what a family file says."""
    rows = []
    for name, family, _ in family_files():
        lift = "yes" if family.drop else "no, lifted back at the end of the tower"
        pool = _POOL.get(family.pool or "", "")
        images = {"run": "each image", "row": "all images of a prompt together"}[family.scope]
        if family.kind == "vlm":
            rows.append([f"`{name}.py`", family.tower, pool, images, lift])
    head = ["file", "tower takes", "encoder tokens to LLM tokens", "a budget is for", "gone in the LLM too"]
    return "\n\n".join(
        [
            "# Families",
            f"`foveate.apply` works on unmodified Hugging Face models whose `config.model_type` is one of these "
            f"{len(families())}. A family is one declarative file in `src/foveate/families/`; it holds only what "
            "cannot be found by looking at the model.",
            families_table(),
            "## What the files say",
            "*Tower takes*: `batch` for (images, patches, width), `packed` for one long sequence of patches. *Gone in "
            "the LLM too*: whether a token that a method drops inside the encoder can be left out of the prompt; where "
            "it cannot, the encoder is cheaper and the language model sees as many tokens as before.",
            table(head, rows),
            "Any other type is refused by name, before anything runs:",
            "```python\nfrom transformers import GPT2Config, GPT2LMHeadModel\n\nimport foveate\n\n"
            "model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=64))\ntry:\n"
            '    with foveate.apply(model, "streaming_llm"):\n        pass\n'
            "except foveate.errors.UnsupportedModelError as error:\n    print(error)\n```\n",
        ]
    )


def errors_page() -> str:
    """Every exception that a user can meet."""
    found = [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]
    found.sort(key=lambda c: inspect.getsourcelines(c)[1])
    rows = []
    for cls in found:
        bases = ", ".join(f"`{b.__name__}`" for b in cls.__bases__)
        rows.append([f"`{cls.__name__}`", bases, " ".join((cls.__doc__ or "").split())])
    return "\n\n".join(
        [
            "# Errors",
            "Everything raised on purpose is a `foveate.errors.FoveateError`, and also the built-in exception that "
            "fits. A message says what was wrong, with the value, and what to do; plans are checked before anything "
            "runs. The command line prints one line and leaves with exit code 2.",
            table(["exception", "is also", "when"], rows),
            "```python\nimport foveate\nfrom foveate.errors import FoveateError\n\n"
            'for plan in ("divprun(keep=0.1)", "divprune(kep=0.1)", "divprune(keep=0)", "divprune(0.1)"):\n'
            "    try:\n        foveate.parse(plan)\n    except FoveateError as error:\n"
            '        print(f"{type(error).__name__}: {error}")\n```',
            f"which prints\n\n```text\n{_plan_errors()}\n```\n",
        ]
    )


def _plan_errors() -> str:
    lines = []
    for plan in ("divprun(keep=0.1)", "divprune(kep=0.1)", "divprune(keep=0)", "divprune(0.1)"):
        try:
            foveate.parse(plan)
        except errors.FoveateError as error:
            lines.append(f"{type(error).__name__}: {error}")
    return "\n".join(lines)


# --- pages that lie beside the code -------------------------------------------------------------------------------


def from_root(name: str) -> str:
    """A page that people look for at the top of the repository; its links are made to work from docs/."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return text.replace("](docs/", "](").replace("](CHANGELOG.md", "](changelog.md")


def pages() -> dict[str, str]:
    """Path below docs/ -> markdown, for every page that is made."""
    out = {f"methods/{name}.md": method_page(cls) for name, cls in own().items()}
    out["methods/index.md"] = methods_index()
    out["methods/grid.md"] = grid_page()
    out["families.md"] = families_page()
    out["errors.md"] = errors_page()
    out["cli.md"] = cli_page()
    out["add-a-method.md"] = from_root("CONTRIBUTING.md")
    out["changelog.md"] = from_root("CHANGELOG.md")
    return out


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/pages.py DIR")
    for path, text in pages().items():
        target = Path(sys.argv[1]) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        print(target)
