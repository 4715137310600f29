"""Everything a user can get wrong: a clear exception of foveate.errors, and at the command line one line and code 2."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from foveate.ask import ask
from foveate.cli import app
from foveate.errors import FoveateError, InputError, MediaError, OptionError, PlanError, UnsupportedModelError
from foveate.load import load
from foveate.video import demo_clip
from model_folders import make


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Good and bad files by name."""
    root: Path = tmp_path_factory.mktemp("files")
    good = demo_clip(root / "good.mp4").path
    data = good.read_bytes()
    (root / "cut.mp4").write_bytes(data[: len(data) // 3])
    (root / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    (root / "empty.mp4").write_bytes(b"")
    (root / "words.txt").write_text("not a picture")
    Image.new("RGB", (1, 1)).save(root / "dot.png")
    Image.new("RGB", (64, 48), "teal").save(root / "good.png")
    (root / "cut.png").write_bytes((root / "good.png").read_bytes()[:50])
    make("text", root)
    make("llava", root)
    (root / "bare").mkdir()
    return root


# arguments of the command line (files by name), and the exception that the same call raises in Python
CASES = {
    "missing video": (["missing.mp4", "What?"], MediaError),
    "a video cut short": (["cut.mp4", "What?"], MediaError),
    "noise": (["noise.mp4", "What?"], MediaError),
    "an empty file": (["empty.mp4", "What?"], MediaError),
    "not a picture": (["words.txt", "What?"], MediaError),
    "a picture cut short": (["cut.png", "What?"], MediaError),
    "a folder": (["bare", "What?"], MediaError),
    "one pixel": (["dot.png", "What?"], MediaError),
    "zero frames": (["good.mp4", "What?", "--frames", "0"], InputError),
    "no new tokens": (["good.png", "What?", "--max-new-tokens", "0"], InputError),
    "keep of 0": (["good.png", "What?", "--plan", "divprune(keep=0)"], OptionError),
    "keep above 1": (["good.png", "What?", "--plan", "divprune(keep=1.5)"], OptionError),
    "keep of NaN": (["good.png", "What?", "--plan", "divprune(keep=nan)"], PlanError),
    "an unknown method": (["good.png", "What?", "--plan", "divprun"], PlanError),
    "an unknown option": (["good.png", "What?", "--plan", "divprune(kep=0.1)"], PlanError),
    "a plan that is no plan": (["good.png", "What?", "--plan", "divprune(("], PlanError),
    "a missing plan file": (["good.png", "What?", "--plan", "nowhere.yaml"], PlanError),
    "an empty question": (["good.png", ""], InputError),
    "a question of spaces": (["good.png", "  \n"], InputError),
    "a placeholder in the question": (["good.png", "<|image_pad|>"], InputError),
    "an image for a text-only model": (["good.png", "What?", "--model", "text"], UnsupportedModelError),
    "an image for a text-only model, plan none": (
        ["good.png", "What?", "--model", "text", "--plan", "none"],
        UnsupportedModelError,
    ),
    "a plan for images on a text-only model": (["What?", "--model", "text", "--plan", "divprune"], PlanError),
    "a signal that the model cannot give": (
        ["good.png", "What?", "--plan", "fastv(layer=99)"],
        PlanError,
    ),
    "an encoder plan on a text-only model": (["What?", "--model", "text", "--plan", "tome(r=4)"], PlanError),
    "a missing model": (["good.png", "What?", "--model", "./nothing/here"], InputError),
    "a folder that is no model": (["good.png", "What?", "--model", "bare"], UnsupportedModelError),
}


def _arguments(files, given):
    return [str(files / a) if (files / a).exists() and a.strip() else a for a in given]


@pytest.mark.parametrize("name", CASES)
def test_in_python(files, name):
    given, error = CASES[name]
    given = _arguments(files, given)
    at = next((i for i, a in enumerate(given) if a.startswith("--")), len(given))
    options = {k[2:].replace("-", "_"): v for k, v in zip(given[at::2], given[at + 1 :: 2])}
    for key in ("frames", "max_new_tokens"):
        if key in options:
            options[key] = int(options[key])
    media = [str(files / m) if m == "missing.mp4" else m for m in given[: at - 1]]
    with pytest.raises(error) as caught:
        ask(media, given[at - 1], **{"max_new_tokens": 2, **options})
    assert isinstance(caught.value, FoveateError)
    assert len(str(caught.value)) > 10


@pytest.mark.parametrize("name", CASES)
def test_at_the_command_line(files, name):
    given, _ = CASES[name]
    out = CliRunner().invoke(app, ["ask", *_arguments(files, given)])
    assert out.exit_code == 2, out.output
    assert out.stdout == ""
    assert out.stderr.startswith("error: ")
    assert out.stderr.count("\n") == 1


def test_a_file_without_a_question(files):
    out = CliRunner().invoke(app, ["ask", str(files / "good.png")])
    assert out.exit_code == 2
    assert "the question is missing" in out.stderr


@pytest.mark.parametrize("keep", [0, 0.0, -3, 1.5, math.nan, math.inf, "half", True, None])
def test_keep_in_python(keep):
    from foveate.inputs.divprune import DivPrune

    with pytest.raises(OptionError, match="keep"):
        DivPrune(keep=keep)


def test_a_picture_of_one_pixel_in_memory():
    with pytest.raises(MediaError, match="1x1"):
        ask(Image.new("RGB", (1, 1)), "What?")


def test_things_that_are_no_media():
    with pytest.raises(InputError):
        ask(3, "What?")  # type: ignore[arg-type]
    with pytest.raises(InputError):
        ask([[]], 5)  # type: ignore[arg-type]
    with pytest.raises(MediaError, match="no frames"):
        ask([[]], "What?")


def test_a_model_that_is_no_model():
    from foveate.apply import apply

    with pytest.raises(UnsupportedModelError), apply(object(), "divprune"):
        pass


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava", "gemma3"])
def test_a_batch_with_one_prompt_without_an_image_works(family, tmp_path):
    from foveate.apply import apply

    loaded = load(make(family, tmp_path))
    image = {"type": "image", "image": Image.new("RGB", (112, 84), "teal")}
    ask_it = {"type": "text", "text": "What?"}
    rows = [[{"role": "user", "content": [image, ask_it]}], [{"role": "user", "content": [ask_it]}]]
    prompt = loaded.prompt(rows)
    with apply(loaded.model, "divprune(keep=2)") as report:
        out = loaded.model.generate(**prompt.inputs, max_new_tokens=3, do_sample=False)
    assert out.shape == (2, prompt.n + 3)
    assert report.rows[0].tokens_out == 2
