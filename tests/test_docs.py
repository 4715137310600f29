"""What the documentation shows works: its examples run, its generated parts agree with the code, the site builds."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _script(name: str) -> ModuleType:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(ROOT / "scripts"))


PAGES = _script("pages")
README = _script("readme")
SOURCES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced Python block: its text, the file it is (``title="..."``), and whether it is marked as not to be run."""

    text: str
    line: int
    title: str = ""
    skipped: bool = False


def blocks(page: str) -> list[Block]:
    """Python blocks of a page. ``<!-- no-run -->`` on the line before leaves one out."""
    found = []
    for m in re.finditer(r'^(<!-- no-run -->\n)?( *)```python(?: title="([^"]*)")?\n(.*?)^\2```', page, re.M | re.S):
        text = textwrap.dedent(m[4])
        found.append(Block(text, page[: m.start(4)].count("\n"), m[3] or "", bool(m[1])))
    return found


def run(page: str, name: str) -> int:
    """Run a page's blocks in order in one namespace; returns how many ran."""
    names: dict[str, object] = {"__name__": "page"}
    todo = [b for b in blocks(page) if not b.skipped and not b.title]
    for b in todo:
        exec(compile("\n" * b.line + b.text, name, "exec"), names)
    return len(todo)


# --- examples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_examples_of_a_page(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = path.read_text(encoding="utf-8")
    assert page.count("```python") == len(blocks(page)), "a Python block that the tests do not see"
    assert run(page, str(path)) or path.name in ("design.md", "log.md")


def test_examples_of_generated_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = {path: text for path, text in PAGES.pages().items() if path not in ("add-a-method.md", "changelog.md")}
    assert sum(run(text, path) for path, text in made.items()) >= len(PAGES.own())


def test_the_errors_page_shows_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    page = PAGES.errors_page()
    run(page, "errors.md")
    assert capsys.readouterr().out.strip() == re.findall(r"```text\n(.*?)\n```", page, re.S)[-1]


def test_a_method_is_added_by_one_file(tmp_path: Path) -> None:
    """CONTRIBUTING's worked example: put its file into a copy of the package, then run the rest of the page there."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (file,) = [b for b in blocks(page) if b.title]
    copy = tmp_path / "src" / "foveate"
    shutil.copytree(ROOT / "src" / "foveate", copy, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / file.title).write_text(file.text, encoding="utf-8")
    rest = "".join(b.text for b in blocks(page) if not b.title)
    code = f"import foveate\nassert foveate.__file__.startswith({str(copy)!r}), foveate.__file__\n{rest}"
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "src")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert out.returncode == 0, out.stderr
    assert "bytes" in out.stdout


ELSEWHERE = {"ray_serve"}  # run in tests/test_serve_ray.py, where Ray is at hand
EXAMPLES = ["apply_to_a_model", "ask_about_a_video", "write_a_method", "make_clip", "make_picture"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out
    for picture in re.findall(r"\w+\.png", (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")):
        assert (tmp_path / picture).stat().st_size > 1000


def test_every_example_is_run() -> None:
    (marker,) = [m for m in test_example.pytestmark if m.name == "parametrize"]  # type: ignore[attr-defined]
    assert {p.stem for p in (ROOT / "examples").glob("*.py")} == set(marker.args[1]) | ELSEWHERE


# --- generated parts --------------------------------------------------------------------------------------------------


def test_the_readme_is_up_to_date() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    wrong = set(README.renew(text).splitlines()) ^ set(text.splitlines())
    assert not wrong, "run: make pages"


def test_renewing_needs_all_blocks() -> None:
    with pytest.raises(ValueError, match="methods:begin"):
        README.renew("# nothing here")


def test_results_become_a_table(tmp_path: Path) -> None:
    assert "make bench" in README.results_block(tmp_path)
    (tmp_path / "a.json").write_text('{"goals": [{"goal": "fast", "value": 0.98, "bar": 0.97, "holds": true}]}')
    (tmp_path / "b.json").write_text('{"goals": [{"goal": "small", "value": 0.1, "bar": 0.02, "holds": false}]}')
    block = README.results_block(tmp_path)
    assert "1 of 2 figures reach their bar. These do not:" in block
    assert "| small | 0.1 | 0.02 | [b.json](results/b.json) |" in block
    assert "| fast" not in block
    (tmp_path / "b.json").unlink()
    assert README.results_block(tmp_path) == "1 of 1 figures reach their bar."


def test_every_method_has_a_page() -> None:
    made = PAGES.pages()
    for name, cls in PAGES.own().items():
        page = made[f"methods/{name}.md"]
        assert cls.card.url in page
        assert all(f"`{option}`" in page for option in PAGES.options(cls))
        assert f"({name}.md)" in made["methods/index.md"]


def test_every_family_command_and_error_is_on_its_page() -> None:
    from foveate import errors
    from foveate.families import families

    made = PAGES.pages()
    assert all(f"`{t}`" in made["families.md"] for t in families())
    assert all(f"## foveate {c}" in made["cli.md"] for c in ("ask", "methods", "doctor"))
    assert all(f"`{n}`" in made["errors.md"] for n, e in vars(errors).items() if isinstance(e, type))


# --- links and the site -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*SOURCES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(path: Path) -> None:
    here = path.parent
    made = {here / name for name in PAGES.pages()} if here.name == "docs" else set()
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if not link.startswith("https://"):
            assert (here / link).exists() or here / link in made, f"{path.name} links to {link}"


def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    out = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert out.returncode == 0, out.stdout + out.stderr
    assert (tmp_path / "site" / "methods" / "divprune.html").is_file()
    assert not (tmp_path / "site" / "hooks.py").exists()
