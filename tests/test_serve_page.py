"""The page without a browser: its parts fit together, everything has a label, nothing comes from elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

import foveate

PAGE = Path(foveate.__file__).parent / "serve" / "page"
HTML, STYLE = (PAGE / "index.html").read_text(), (PAGE / "style.css").read_text()
SCRIPTS = {p.name: p.read_text() for p in PAGE.glob("*.js")}


class Elements(HTMLParser):
    """Every element with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))


FOUND = Elements(HTML).all
IDS = [a["id"] for _, a in FOUND if a.get("id")]


def test_ids_are_unique_and_known_to_the_script() -> None:
    assert len(set(IDS)) == len(IDS)
    used = set(re.findall(r'at\("([a-z-]+)"\)', SCRIPTS["app.js"]))
    used |= {f"{side}-text" for side in ("reduced", "full")}
    assert used <= set(IDS)


def test_every_control_has_a_label() -> None:
    labels = {a["for"] for tag, a in FOUND if tag == "label"}
    controls = [a["id"] for tag, a in FOUND if tag in ("input", "textarea", "select")]
    assert controls
    assert set(controls) <= labels
    for tag, a in FOUND:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert a.get(name) is None or a[name] in IDS, (tag, a)
        assert tag != "img" or a.get("alt")
    assert dict(FOUND)["html"]["lang"] == "en"


def test_answers_and_problems_are_announced() -> None:
    told = {a["id"]: a for _, a in FOUND if a.get("id")}
    assert told["problem"]["role"] == "alert"
    assert told["reduced-text"]["aria-live"] == told["full-text"]["aria-live"] == "polite"


def test_nothing_comes_from_elsewhere_or_stands_inline() -> None:
    for text in (HTML, STYLE, *SCRIPTS.values()):
        assert not re.search(r"https?://|//[a-z]+\.", text)
    assert "<style" not in HTML
    assert not re.search(r"<script[^>]*>[^<]", HTML)
    assert not any(name.startswith("on") or name == "style" for _, a in FOUND for name in a)
    assert "innerHTML" not in "".join(SCRIPTS.values())  # what models say is text, never markup


def luminance(colour: str) -> float:
    parts = re.findall("..", colour.lstrip("#") if len(colour) == 7 else "".join(2 * c for c in colour[1:]))
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (int(p, 16) / 255 for p in parts)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", range(2))
def test_contrast(theme: int) -> None:
    """WCAG 2.1 AA: 4.5 to 1 for text."""
    block = re.findall(r":root \{([^}]*)\}", STYLE)[theme]
    colours = dict(re.findall(r"--(\w+): (#\w+)", block))
    for ink in ("ink", "faint", "hot"):
        for paper in ("paper", "cold"):
            light, dark = sorted((luminance(colours[ink]), luminance(colours[paper])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, paper)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_scripts_are_scripts(tmp_path: Path) -> None:
    for name, text in SCRIPTS.items():
        file = tmp_path / name.replace(".js", ".mjs")
        file.write_text(text)
        assert subprocess.run(["node", "--check", str(file)], capture_output=True, timeout=60).returncode == 0
    check = tmp_path / "check.mjs"
    check.write_text(
        "import { framesOf } from './draw.mjs';\n"
        "const item = { kind: 'video', grid: [2, 1, 3], times: [0, 1.5], frames: ['a', 'b'], kept: ['1m0', '110'] };\n"
        "console.log(framesOf([item]).map((f) => f.told).join('|'));\n"
    )
    out = subprocess.run(["node", str(check)], capture_output=True, text=True, timeout=60)
    assert out.stdout.strip() == "0.0 s: 1 of 3 tokens kept|1.5 s: 2 of 3 tokens kept"
