"""``foveate serve``: what the options become, and what is refused before anything listens."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("fastapi")
import uvicorn

from foveate.cli import app


def run(monkeypatch: pytest.MonkeyPatch, *given: str) -> tuple[Any, dict[str, Any]]:
    told: dict[str, Any] = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **more: told.update(more, app=app))
    return CliRunner().invoke(app, ["serve", *given]), told


def test_options_become_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "tiny --plan divprune(keep=0.5) --port 9000 --api-key a --api-key b --name mine --max-running 3 --no-fetch"
    out, told = run(monkeypatch, *words.split(), "--only-plan", "none", "--reuse-mib", "0", "--allow-private", "media")
    assert out.exit_code == 0, out.output
    server = told["app"].state.server
    assert (told["host"], told["port"], server.name) == ("127.0.0.1", 9000, "mine")
    settings = server.settings
    assert (settings.keys, settings.running, settings.fetch, settings.reuse_bytes) == (("a", "b"), 3, False, 0)
    assert (settings.plans, settings.private_hosts) == (("none",), ("media",))
    assert str(server.plan) == "divprune(keep=0.5)"
    assert "'a'" not in repr(settings)  # keys are not printed


def test_a_warning_where_everyone_can_come_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for words, warned in (
        (["--host", "0.0.0.0"], True),
        (["--host", "0.0.0.0", "--api-key", "k"], False),
        (["--host", "127.0.0.2"], False),
    ):
        out, _ = run(monkeypatch, "tiny", *words)
        assert ("set --api-key" in out.output) == warned


@pytest.mark.parametrize(
    "words",
    [
        ["no/such/model"],
        ["tiny", "--port", "70000"],
        ["tiny", "--plan", "divprun"],
        ["tiny", "--max-running", "0"],
        ["tiny", "--api-key", ""],
    ],
)
def test_what_is_refused(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    out, told = run(monkeypatch, *words)
    assert out.exit_code == 2
    assert not told
