"""Renew the tables of README.md: what is between ``<!-- name:begin -->`` and ``<!-- name:end -->`` is made from code.

``python scripts/readme.py`` writes the file; with ``--check`` it only says whether it is up to date (exit code 1: no).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from page_parts import own, table
from pages import ROOT, families_table, headline

from foveate.bench.results import goals

README = ROOT / "README.md"


def methods_block() -> str:
    """Every method that comes with foveate, in path order."""
    rows = []
    for name, cls in own().items():
        title, idea = headline(cls)
        rows.append(
            [f"`{name}`", cls.stage, f"[{title}]({cls.card.url}): {idea}", cls.card.training, cls.card.evidence]
        )
    return table(["plan name", "stage", "method", "training", "evidence"], rows)


def results_block(folder: Path = ROOT / "results") -> str:
    """The plots, how many figures reach their bar, and those that do not; ``make goals`` lists them all."""
    found = goals(folder)
    if not found:
        return "Nothing is measured yet; `make bench` writes `results/`, and this block is made from it."
    # a study's first plot is named as its results; the others are for the pages
    named = [p for p in sorted(folder.glob("*.png")) if p.with_suffix(".json").exists()]
    plots = [f"![{p.stem}](results/{p.name})" for p in named]
    short = [g for g in found if not g["holds"]]
    count = f"{len(found) - len(short)} of {len(found)} figures reach their bar."
    if not short:
        return "\n\n".join([*plots, count])
    rows = [[g["goal"], f"{g['value']:.4g}", f"{g['bar']:.4g}", _link(g["file"])] for g in short]
    return "\n\n".join([*plots, f"{count} These do not:", table(["figure", "value", "bar", "from"], rows)])


def _link(name: str) -> str:
    return f"[{name}](results/{name})"


BLOCKS = {"methods": methods_block, "families": families_table, "results": results_block}


def renew(text: str) -> str:
    """The text with every marked block made anew."""
    for name, make in BLOCKS.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if begin not in text or end not in text:
            raise ValueError(f"README.md has no block {begin} ... {end}")
        text = f"{text.partition(begin)[0]}{begin}\n{make()}\n{end}{text.partition(end)[2]}"
    return text


def main(args: list[str]) -> int:
    """Write or check; returns the exit code."""
    before = README.read_text(encoding="utf-8")
    after = renew(before)
    if "--check" in args:
        if before != after:
            print("README.md is out of date; run: make pages", file=sys.stderr)
        return int(before != after)
    README.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
