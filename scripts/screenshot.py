"""Draw the server's page as a browser shows it: ``python scripts/screenshot.py [docs/img/serve.png]``.

Asks ``lab/image`` about a drawn picture, in Chromium through Playwright.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import uvicorn
from playwright.sync_api import expect, sync_playwright

from foveate.lab.tasks import generate, write
from foveate.serve import Settings, create_app

HOME = Path(__file__).resolve().parent.parent


def main(out: Path) -> None:
    """Serve, ask, and write the picture."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("there is no Chromium here; on Debian: apt-get install chromium")
    app = create_app("lab/image", "foveal(keep=0.25)", settings=Settings(default_new_tokens=16))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playing:
        items = generate("attribute", seed=3, n=2)
        items.reverse()  # the first is asked about once before, so that no figure holds the warming up
        browser = playing.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 900}, color_scheme="light")
        page.goto(f"http://127.0.0.1:{port}")
        for item in items:
            page.locator("#file").set_input_files(str(write(item, folder).path))
            page.locator("#question").fill(item.question)
            page.locator("#go").click()
            expect(page.locator("#stop")).to_be_disabled(timeout=60_000)
        out.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=out, full_page=True)
        browser.close()
    server.should_exit = True
    thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HOME / "docs/img/serve.png")
