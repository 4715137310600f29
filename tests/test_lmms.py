"""foveate as a model of lmms-eval: against lmms-eval itself where it is installed, else a stand-in of its base."""

from __future__ import annotations

import base64
import importlib
import importlib.util
import io
import json
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from PIL import Image

import foveate
from foveate.errors import InputError, MediaError
from foveate.lab.tasks import generate
from foveate.lmms.messages import converted
from foveate.lmms.task import write_task
from foveate.video import demo_clip

ROOT = Path(__file__).resolve().parent.parent
THERE = importlib.util.find_spec("lmms_eval") is not None


@dataclass(frozen=True)
class Manifest:
    """Stand-in of lmms-eval's ModelManifest."""

    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None


class Base:
    """Stand-in of lmms-eval's base class: what its evaluator and ours call of it."""

    is_simple = True

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}
        self.cache_hook = SimpleNamespace(add_partial=lambda *given: None)

    @staticmethod
    def _resolve_system_prompt(value: str) -> str:
        return value


@pytest.fixture
def model_class(monkeypatch: pytest.MonkeyPatch) -> type[Any]:
    """The class, as lmms-eval finds it."""
    if not THERE:
        for name, content in {
            "lmms_eval": {},
            "lmms_eval.api": {},
            "lmms_eval.api.model": {"lmms": Base},
            "lmms_eval.models": {},
            "lmms_eval.models.registry_v2": {"ModelManifest": Manifest},
        }.items():
            module = ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delitem(sys.modules, "foveate.lmms.model", raising=False)
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lmms_eval.models"]
    module_name, _, name = entries["foveate"].partition(":")
    (manifest,) = getattr(importlib.import_module(module_name), name)()
    assert manifest.model_id == "foveate"
    assert manifest.simple_class_path is None
    where, _, name = manifest.chat_class_path.rpartition(".")
    found: type[Any] = getattr(importlib.import_module(where), name)
    assert found.is_simple is False
    return found


def functions(path: Path) -> Any:
    """The functions that a written task names."""
    spec = importlib.util.spec_from_file_location("functions", path.with_name(f"{path.stem}_functions.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def request(number: int, to_messages: Any, **given: Any) -> Any:
    """A request as lmms-eval makes it for chat models."""
    return SimpleNamespace(args=("", to_messages, {"max_new_tokens": 3, **given}, number, "lab", "test"))


def test_it_answers_a_task_of_lab_items(model_class: type[Any], tmp_path: Path) -> None:
    path = write_task(tmp_path / "task", ["attribute", "dialogue", "copy"], n=1)
    docs = [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
    made, log = functions(path), tmp_path / "log.jsonl"
    plan = "random(keep=0.5)"
    model = model_class(pretrained="tiny", plan=f'"{plan}"', batch_size="1", device="cpu", log=str(log))
    model.task_dict = {"lab": {"test": docs}}
    said = model.generate_until([request(i, made.messages) for i in range(3)])
    alone = foveate.ask(docs[0]["media"], docs[0]["question"], model="tiny", plan=plan, max_new_tokens=3)
    assert said[0] == alone.text
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert [t["said"] for t in told] == said
    stage, _, name, before, after = told[0]["sites"][0]
    assert (stage, name, after) == ("inputs", plan, before // 2)
    assert made.judged(docs[0], [docs[0]["answer"].upper() + "."]) == {"accuracy": 1.0}
    assert made.judged(docs[0], ["something else"]) == {"accuracy": 0.0}


def test_rounds_and_stops(model_class: type[Any]) -> None:
    model = model_class(pretrained="tiny", plan="none")
    model.task_dict = {"lab": {"test": [{}]}}
    asked: list[Any] = []

    def talk(doc: Any, round_idx: int = 0, previous_output: Any = None, previous_round_info: Any = None) -> Any:
        asked.append((round_idx, list(previous_output or []), previous_round_info))
        messages = [{"role": "user", "content": [{"type": "text", "text": f"Question {round_idx}?"}]}]
        return messages if round_idx == 0 else (messages, round_idx == 2, previous_output, {"told": round_idx})

    (rounds,) = model.generate_until_multi_round([request(0, talk)])
    assert len(rounds) == 2
    assert asked == [(0, [], None), (1, rounds[:1], None), (2, rounds, {"told": 1})]

    (whole,) = model.generate_until([request(0, talk)])
    (cut,) = model.generate_until([request(0, talk, until=[whole[1]])])
    assert cut == whole[: whole.index(whole[1])]
    with pytest.warns(UserWarning, match="greedily"):
        assert model.generate_until([request(0, talk, do_sample=True, temperature=0.7)]) == [whole]
    with pytest.raises(NotImplementedError, match="generate_until"):
        model.loglikelihood([])


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "name a model"),
        ({"pretrained": "tiny", "plan": "fastv(layer=2", "keep": "0.5)"}, "in quotes"),
        ({"pretrained": "tiny", "colour": 1}, "'colour'"),
        ({"pretrained": "tiny", "frames": 0}, "'frames'"),
    ],
)
def test_arguments_that_are_refused(model_class: type[Any], given: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        model_class(**given)


def test_batches_are_told_of(model_class: type[Any]) -> None:
    with pytest.warns(UserWarning, match="one at a time"):
        assert model_class(pretrained="tiny", batch_size=8).batch_size == 1


def test_messages(tmp_path: Path) -> None:
    picture, clip = Image.new("L", (28, 28)), str(demo_clip(tmp_path / "c.mp4").path)
    png = io.BytesIO()
    picture.save(png, format="PNG")
    uri = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    part = {"type": "video", "url": clip, "start_time": 1, "end_time": 2.5}
    entries = [{"type": "image", "url": picture}, {"type": "image", "url": uri},
               {"type": "video", "url": [picture] * 2}, part,
               {"type": "video", "url": {"url": clip, "video_start": 0.5}}, {"type": "text", "text": "?"}]  # fmt: skip
    system, user = converted([{"role": "user", "content": entries}], system="Be brief.")
    assert system == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    kinds = [c["type"] for c in user["content"]]
    assert kinds == ["image", "image", "video", "video", "video", "text"]
    assert user["content"][0]["image"].mode == "RGB"
    assert [(c.get("start"), c.get("stop")) for c in user["content"][3:5]] == [(1.0, 2.5), (0.5, None)]
    loaded = foveate.load("tiny")
    assert len(loaded.prompt([user], 8).visuals) == 5
    for bad, why, kind in (
        ({"type": "audio", "url": "a.wav"}, "'audio'", InputError),
        ({"type": "image", "url": "https://example.org/a.png"}, "from the web", InputError),
        ({"type": "image", "url": 3}, "int", InputError),
        ({"type": "image", "url": "data:image/png;base64,AAAA"}, "no picture", MediaError),
        ({"type": "video", "url": "none.mp4"}, "none.mp4", MediaError),
    ):
        with pytest.raises(kind, match=why):
            converted([{"role": "user", "content": [bad]}])


def test_a_written_task(tmp_path: Path) -> None:
    path = write_task(tmp_path, ["dialogue", "describe"], n=2, seed=3, name="mine")
    lines = [json.loads(line) for line in (tmp_path / "mine.jsonl").read_text().splitlines()]
    assert [x["answer"] for x in lines] == [i.answer for t in ("dialogue", "describe") for i in generate(t, 3, 2)]
    assert all(Path(x["media"]).is_file() for x in lines)
    talk = functions(path).messages(lines[0])
    assert [m["role"] for m in talk] == ["user", "assistant"] * (len(lines[0]["questions"]) - 1) + ["user"]
    assert talk[-1]["content"][-1]["text"] == lines[0]["question"]
    told = yaml.safe_load(path.read_text().replace("!function ", ""))
    assert told["task"] == "mine"
    assert told["dataset_kwargs"]["data_files"]["test"] == str(tmp_path / "mine.jsonl")
    assert told["generation_kwargs"]["max_new_tokens"] >= max(len(x["answer"]) for x in lines)
    with pytest.raises(InputError, match="holds a task"):
        write_task(tmp_path, ["copy"], name="mine")
    for given in ({"n": 0}, {"name": "not a name"}, {"tasks": []}):
        with pytest.raises(InputError, match="a task needs"):
            write_task(tmp_path / "other", **{"tasks": ["copy"], **given})
    with pytest.raises(InputError, match="did you mean 'copy'"):
        write_task(tmp_path / "other", ["cpy"])


@pytest.mark.skipif(not THERE, reason="lmms-eval is not installed")
def test_lmms_eval_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its command finds the model by the entry point and the task by its folder, and scores all items."""
    write_task(tmp_path / "task", ["attribute"], n=3)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = tmp_path / "out"
    words = f"--tasks foveate_lab --include_path {tmp_path / 'task'} --batch_size 1 --log_samples --output_path {out}"
    call = [sys.executable, "-m", "lmms_eval", "--model", "foveate", *words.split()]
    call += ["--model_args", f'pretrained=tiny,plan="random(keep=0.5)",log={tmp_path / "log.jsonl"}']
    done = subprocess.run(call, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = out.rglob("*results.json")
    assert "accuracy,none" in json.loads(results.read_text())["results"]["foveate_lab"]
    assert (tmp_path / "log.jsonl").read_text().count("\n") == 3
