"""The page in a real browser: drop a file, ask, read along, move the slider. Skipped where there is no Chromium."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
play = pytest.importorskip("playwright.sync_api")

import foveate  # noqa: E402
from foveate.video import write_video  # noqa: E402
from serve_kit import Served, asked_alone, picture, serving  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PLAN = "divprune(keep=0.5)"
TOKENS = 64  # of an answer: long enough to be seen on its way, however busy the machine is
#: Hands a file to the page as a mouse would that lets go of it there.
DROP = """([name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type }));
  for (const kind of ["dragenter", "dragover", "drop"])
    document.getElementById("drop").dispatchEvent(new DragEvent(kind, { dataTransfer, cancelable: true }));
}"""
#: Notes every text that an answer had while it came.
WATCH = """window.texts = [];
document.addEventListener("DOMContentLoaded", () => {
  const text = document.getElementById("reduced-text");
  new MutationObserver(() => window.texts.push(text.textContent)).observe(text, { childList: true, subtree: true, characterData: true });
});"""  # noqa: E501


@pytest.fixture(scope="module")
def loaded() -> Any:
    return foveate.load("tiny")


@pytest.fixture(scope="module")
def served(loaded: Any) -> Iterator[Served]:
    with serving(loaded, PLAN, default_new_tokens=TOKENS) as at:
        yield at


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    with play.sync_playwright() as playing:
        chromium = playing.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Any]:
    """The open page; whatever the browser complains of fails the test, what its content policy forbids included."""
    context = browser.new_context()
    at = context.new_page()
    wrong: list[str] = []
    at.on("console", lambda m: wrong.append(m.text) if m.type == "error" and "status of 4" not in m.text else None)
    at.on("pageerror", lambda e: wrong.append(str(e)))
    at.add_init_script(WATCH)
    at.goto(served.url)
    play.expect(at.locator("#served")).to_contain_text(f"tiny, plan {PLAN}")
    yield at
    context.close()
    assert not wrong


def drop(page: Any, image: Any) -> None:
    file = io.BytesIO()
    image.save(file, "PNG")
    page.evaluate(DROP, ["picture.png", "image/png", base64.b64encode(file.getvalue()).decode()])


def kept(page: Any) -> tuple[int, int]:
    """What the page says of the frame that it shows: tokens kept, and all."""
    play.expect(page.locator("#frame-told")).to_contain_text("tokens kept")
    found = re.search(r"(\d+) of (\d+) tokens", page.locator("#frame-told").inner_text())
    assert found
    return int(found[1]), int(found[2])


def bright(page: Any) -> float:
    """Mean brightness of the drawn frame, of 255."""
    value = page.evaluate(
        "() => { const c = document.getElementById('frame');"
        " const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        " let sum = 0; for (let i = 0; i < d.length; i += 4) sum += d[i] + d[i + 1] + d[i + 2];"
        " return sum / (d.length / 4) / 3; }"
    )
    return float(value)


def test_drop_ask_read_along_and_keep_less(page: Any, loaded: Any) -> None:
    page.locator("#question").fill("What is it?")
    page.locator("#keep").evaluate("slider => { slider.value = 50; }")
    drop(page, picture())
    page.locator("#go").click()  # at once: the page waits until the file is read
    play.expect(page.locator("#still")).to_be_visible()
    play.expect(page.locator("#full-text")).not_to_be_empty()
    play.expect(page.locator("#stop")).to_be_disabled()
    whole = page.locator("#reduced-text").text_content()
    assert whole.strip() == asked_alone(loaded, "What is it?", picture(), PLAN, TOKENS)
    assert page.locator("#full-text").text_content().strip() == asked_alone(
        loaded, "What is it?", picture(), "none", TOKENS
    )
    pieces = [t for t in page.evaluate("window.texts") if t]
    assert len(set(pieces)) > 2, "the answer came in one piece"
    assert all(whole.startswith(p) for p in pieces)
    assert kept(page) == (8, 16)
    cells = page.locator("#rows tr").first.locator("td").all_inner_texts()
    assert cells == ["8", "16", "50 %"]
    held = page.locator("#rows tr", has_text="Keys and values").locator("td").all_inner_texts()
    assert 0 < float(held[0]) < float(held[1])
    before = bright(page)
    page.locator("#keep").focus()
    for _ in range(25):
        page.keyboard.press("ArrowLeft")
    play.expect(page.locator("#keep-shown")).to_have_text("25 %")
    play.expect(page.locator("#frame-told")).to_contain_text("4 of 16 tokens kept")
    play.expect(page.locator("#stop")).to_be_disabled()
    assert bright(page) < 0.8 * before, "fewer kept cells darken the picture"


def test_a_video_on_its_timeline(page: Any, tmp_path: Path) -> None:
    film = write_video(tmp_path / "clip.mp4", [picture(i) for i in range(8)], fps=4)
    page.locator("#file").set_input_files(film)
    play.expect(page.locator("#moving")).to_be_visible()
    page.locator("#frames").fill("8")
    page.locator("#both").uncheck()
    page.locator("#go").click()
    strip = page.locator("#strip button")
    play.expect(strip).to_have_count(4)  # frames go in pairs in this family
    assert not page.locator("#full").is_visible()
    strip.nth(2).click()
    play.expect(strip.nth(2)).to_have_attribute("aria-pressed", "true")
    assert page.locator("#time").input_value() == "2"
    third = page.locator("#frame-told").inner_text()
    page.locator("#time").focus()
    page.keyboard.press("ArrowLeft")
    play.expect(strip.nth(1)).to_have_attribute("aria-pressed", "true")
    assert page.locator("#frame-told").inner_text() != third


def test_what_is_wrong_is_said(page: Any) -> None:
    page.locator("#plan").fill("divprun")
    page.locator("#go").click()
    play.expect(page.locator("#problem")).to_contain_text("divprune")
    page.evaluate(DROP, ["notes.txt", "text/plain", "AAAA"])
    play.expect(page.locator("#problem")).to_contain_text("neither an image nor a video")


def test_with_the_keyboard_alone(page: Any) -> None:
    page.locator("#both").uncheck()
    page.locator("#question").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("Hello?")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "go":
            break
    page.keyboard.press("Enter")
    play.expect(page.locator("#reduced-text")).not_to_be_empty()


def test_a_server_with_a_key(browser: Any, loaded: Any) -> None:
    with serving(loaded, PLAN, keys=("secret",)) as at:
        context = browser.new_context()
        page = context.new_page()
        page.goto(at.url)
        play.expect(page.locator("#served")).to_contain_text("wants an API key")
        page.locator("#key").fill("secret")
        page.keyboard.press("Tab")
        play.expect(page.locator("#served")).to_contain_text("plan divprune")
        context.close()
