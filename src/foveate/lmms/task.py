"""Tasks of the lab as tasks of lmms-eval: a folder with media, questions and a YAML file, for ``--include_path``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError, MediaError
from ..lab.tasks import TASKS, generate, write
from ..lab.tasks.disk import INDEX
from ..lab.tasks.seeds import known

_YAML = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {questions}
test_split: test
output_type: generate_until
doc_to_visual: !function {name}_functions.visuals
doc_to_text: "{{{{question}}}}"
doc_to_messages: !function {name}_functions.messages
doc_to_target: "answer"
generation_kwargs:
  max_new_tokens: {most}
  temperature: 0
  do_sample: false
process_results: !function {name}_functions.judged
metric_list:
  - metric: accuracy
    aggregation: mean
    higher_is_better: true
metadata:
  - version: 1.0
"""

_FUNCTIONS = '''\
"""Questions of foveate's lab for lmms-eval."""

from PIL import Image

from foveate.lab.tasks import score


def visuals(doc):
    """What a model is shown: a picture, or the path of a video."""
    if not doc["media"]:
        return []
    return [doc["media"] if doc["video"] else Image.open(doc["media"]).convert("RGB")]


def messages(doc):
    """The whole conversation; in a dialogue the earlier answers are given."""
    kind = "video" if doc["video"] else "image"
    out = []
    for i, (question, answer) in enumerate(zip(doc["questions"], doc["answers"])):
        shown = [{"type": kind, "url": v} for v in visuals(doc)] if i == 0 else []
        out.append({"role": "user", "content": [*shown, {"type": "text", "text": question}]})
        if i + 1 < len(doc["questions"]):
            out.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return out


def judged(doc, results):
    """1 for the right answer, else 0; of descriptions, F1 over their phrases."""
    return {"accuracy": score(str(results[0]), doc["answer"], doc["task"])}
'''


def write_task(
    folder: str | Path, tasks: Sequence[str], n: int = 100, seed: int = 0, name: str = "foveate_lab"
) -> Path:
    """Write items of lab tasks as one task of lmms-eval, and return its YAML file.

    Args:
        folder: is made; give it to ``lmms-eval --include_path``. It cannot be moved: the YAML file names it.
        tasks: of the lab. n: items of each. seed: of the items. name: of the task.

    Raises:
        InputError: an unknown task, a number below 1, or a folder that holds a task already.
        MediaError: a file cannot be written.
    """
    for task in tasks:
        known("task", task, TASKS)
    if n < 1 or not tasks or not name.isidentifier():
        raise InputError(f"a task needs a name of letters, lab tasks and items. Got {name!r}, {list(tasks)}, {n}.")
    home = Path(folder).resolve()
    path = home / f"{name}.yaml"
    if path.exists() or (home / "media" / INDEX).exists():
        raise InputError(f"{str(home)!r} holds a task already; name another folder")
    lines, longest = [], 0
    for task in tasks:
        for item in generate(task, seed, n):
            made = write(item, home / "media")
            turns = [(t.question, t.answer) for t in item.turns]
            line = {"media": "" if made.path is None else str(made.path), "video": bool(item.times),
                    "task": item.turns[-1].task, "question": item.question, "answer": item.answer,
                    "questions": [q for q, _ in turns], "answers": [a for _, a in turns]}  # fmt: skip
            lines.append(json.dumps(line))
            longest = max(longest, len(item.answer))
    questions = home / f"{name}.jsonl"
    try:
        questions.write_text("\n".join(lines) + "\n", encoding="utf-8")
        (home / f"{name}_functions.py").write_text(_FUNCTIONS, encoding="utf-8")
        told = _YAML.format(name=name, questions=json.dumps(str(questions)), most=max(8, longest + 4))
        path.write_text(told, encoding="utf-8")
    except OSError as error:
        raise MediaError(f"{home}: cannot be written ({error.strerror or error})") from error
    return path
