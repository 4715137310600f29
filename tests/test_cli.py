"""The command line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from foveate.cli import app
from foveate.spec import names
from foveate.video import demo_clip

run = CliRunner().invoke


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(demo_clip(tmp_path_factory.mktemp("clip") / "demo.mp4").path)


def test_ask(clip, tmp_path):
    picture = tmp_path / "kept.png"
    out = run(app, ["ask", clip, "What happens?", "--frames", "4", "--max-new-tokens", "3", "--show", str(picture)])
    assert out.exit_code == 0, out.output
    assert "untrained: the words mean nothing; the table is real" in out.stdout
    assert "foveal" in out.stdout
    assert "tokens in" in out.stdout
    assert out.stderr == ""
    assert Image.open(picture).width > 10


def test_ask_json(clip):
    out = run(app, ["ask", clip, "What?", "--frames", "4", "--max-new-tokens", "2", "--json", "--guard"])
    assert out.exit_code == 0, out.output
    data = json.loads(out.stdout)
    assert out.stdout.count("\n") == 1
    assert out.stderr == ""
    assert data["trained"] is False
    assert data["tokens"] == 2
    assert data["visual_tokens"] > 0
    assert data["show"] is None


def test_ask_without_a_plan_and_without_media():
    out = run(app, ["ask", "What?", "--max-new-tokens", "2", "--plan", "none"])
    assert out.exit_code == 0, out.output
    assert "the full model ran" in out.stdout


def test_methods():
    out = run(app, ["methods"])
    assert out.exit_code == 0, out.output
    for name in names():
        assert name in out.stdout
    listed = json.loads(run(app, ["methods", "--json"]).stdout)["methods"]
    assert [m["name"] for m in listed] == names()
    assert {"stage", "systems", "url", "training", "needs", "cost", "evidence", "options"} <= set(listed[0])
    only = json.loads(run(app, ["methods", "--json", "--stage", "cache"]).stdout)["methods"]
    assert {m["stage"] for m in only} == {"cache"}
    wrong = run(app, ["methods", "--stage", "cash"])
    assert wrong.exit_code == 2
    assert wrong.stderr.count("\n") == 1


def test_doctor():
    data = json.loads(run(app, ["doctor", "--json"]).stdout)
    assert data["transformers_ok"] is True
    assert data["cpu_cores"] >= 1
    assert all(rate > 0 for rate in data["matmul_gflops"].values())
    assert data["codecs"]["h264"] is True
    text = run(app, ["doctor"])
    assert text.exit_code == 0
    assert "transformers" in text.stdout


def test_version_and_help():
    from foveate import __version__

    assert run(app, ["--version"]).stdout.strip() == __version__
    assert "ask" in run(app, ["--help"]).stdout


def test_control_characters_of_an_answer_cannot_steer_the_terminal():
    from foveate.cli.output import harmless

    assert harmless("a\x1b[2Jb\nc\x9b") == "a\\x1b[2Jb\nc\\x9b"


def test_memory_errors_become_one_line(monkeypatch):
    from importlib import import_module

    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(import_module("foveate.ask"), "ask", fail)
    out = run(app, ["ask", "What?"])
    assert out.exit_code == 2
    assert out.stderr.startswith("error: no memory left")
    assert out.stderr.count("\n") == 1


def test_other_exceptions_keep_their_traceback(monkeypatch):
    from importlib import import_module

    def fail(*args, **kwargs):
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(import_module("foveate.ask"), "ask", fail)
    out = run(app, ["ask", "What?"])
    assert isinstance(out.exception, ZeroDivisionError)


def test_as_a_program(clip):
    command = [
        sys.executable,
        "-m",
        "foveate",
        "ask",
        clip,
        "What?",
        "--frames",
        "2",
        "--max-new-tokens",
        "2",
        "--json",
    ]
    out = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert out.returncode == 0, out.stderr
    assert out.stderr == ""
    assert json.loads(out.stdout)["model"] == "tiny"
    out = subprocess.run([*command[:4], "/no/such.mp4", "What?"], capture_output=True, text=True, timeout=300)
    assert out.returncode == 2
    assert out.stdout == ""
    assert out.stderr == "error: /no/such.mp4: no such file\n"
