"""Facts about the project as a whole: versions agree, public names exist, commands run, files are as promised."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import foveate

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "src" / "foveate").rglob("*.py"))


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


# --- versions and papers ----------------------------------------------------------------------------------------------


def test_the_version_is_in_the_changelog() -> None:
    heads = re.findall(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert heads[0] == "Unreleased"
    assert heads[1] == foveate.__version__


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == foveate.__version__
    assert cited["license"] == "Apache-2.0"
    assert cited["authors"]


def test_the_licence_is_there() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text


# --- the package ------------------------------------------------------------------------------------------------------


def test_public_names_exist() -> None:
    assert len(set(foveate.__all__)) == len(foveate.__all__)
    for name in foveate.__all__:
        assert getattr(foveate, name) is not None
    assert set(foveate.__all__) <= set(dir(foveate))


def test_the_package_is_typed() -> None:
    assert (ROOT / "src" / "foveate" / "py.typed").is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["foveate"]


def test_importing_is_light() -> None:
    code = "import sys, foveate; sys.exit(bool({'transformers', 'matplotlib', 'av'} & set(sys.modules)))"
    assert _run(sys.executable, "-c", code).returncode == 0


@pytest.mark.parametrize("words", ["TO" + "DO", "FIX" + "ME", "X" + "XX"])
def test_nothing_is_left_open_in_the_source(words: str) -> None:
    found = [str(p) for p in SOURCES if re.search(rf"\b{words}\b", p.read_text(encoding="utf-8"))]
    assert not found


def test_long_files_say_why() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > 300:
            assert "300 lines" in (ast.get_docstring(ast.parse(text)) or ""), f"{path} is long and does not say why"


def test_every_module_has_a_docstring() -> None:
    assert all(ast.get_docstring(ast.parse(p.read_text(encoding="utf-8"))) for p in SOURCES)


# --- commands ---------------------------------------------------------------------------------------------------------


def test_the_command_runs() -> None:
    assert _run(sys.executable, "-m", "foveate", "--version").stdout.strip() == foveate.__version__
    console = Path(sys.executable).parent / "foveate"
    if console.exists():
        assert _run(str(console), "--version").stdout.strip() == foveate.__version__


def test_the_make_targets_exist() -> None:
    made = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    wanted = {"setup", "demo", "test", "lint", "conformance", "docs", "pages", "bench", "goals", "clean"}
    assert wanted <= made
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        named = set(re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(encoding="utf-8"), re.M))
        assert named <= made, page.name


def test_the_checks_of_a_change_are_a_script() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert _run("bash", "-n", str(script)).returncode == 0


def test_conformance_says_what_is_missing(tmp_path: Path) -> None:
    out = _run("make", "--no-print-directory", "conformance")
    assert out.returncode == 2
    assert "CASES=DIR" in out.stderr


def test_torch_is_installed_first() -> None:
    steps = [line for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines() if "pip install" in line]
    assert ["$(TORCH)" in s for s in steps] == [True, False]


def test_there_are_five_hooks_and_all_are_local() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (repo,) = config["repos"]
    assert repo["repo"] == "local"
    assert len(repo["hooks"]) == 5
