"""Tasks of the lab: answers are derived anew from what is drawn, evidence is looked at, files are read back."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from foveate.errors import InputError
from foveate.lab import tasks
from foveate.lab.tasks.compose import compose
from foveate.lab.tasks.draw import boxes, owners, pixels
from foveate.lab.tasks.labels import label
from foveate.lab.tasks.seeds import chance
from foveate.lab.tasks.words import CELLS
from foveate.prompt import read
from foveate.video import open_video

IMAGE = [name for name, task in tasks.TASKS.items() if task.family == "image"]
VIDEO = [name for name, task in tasks.TASKS.items() if task.family == "video"]
TEXT = [name for name, task in tasks.TASKS.items() if task.family == "text"]
OPEN = ("read", "describe", "detail", "needle", "recall", "copy", "dialogue", "dialogue_video")
SMALL = {"size": 112, "frames": 12}


# --- a second way to every answer -------------------------------------------------------------------------------------


def named(text: str, scene: tasks.Scene) -> tasks.Thing:
    """The one shape that a name such as "the red one" or "the red star" fits."""
    words = [w for w in text.split() if w not in ("the", "one")]
    of = [t for t in scene.shapes if all(w in (t.colour, t.shape) for w in words)]
    assert len(of) == 1, f"{text!r} names {len(of)} shapes"
    return of[0]


def cell(thing: tasks.Thing, size: tuple[int, int]) -> str:
    x, y = ((thing.box[i] + thing.box[i + 2]) / 2 / size[i] for i in (0, 1))
    return CELLS[3 * min(2, int(y * 3)) + min(2, int(x * 3))]


def one(values: list[str]) -> str:
    assert len(values) == 1, f"{len(values)} answers"
    return values[0]


def solve(question: str, scene: tasks.Scene) -> str:
    """The answer, found from the question's words and the scene's things."""
    shapes, things = scene.shapes, scene.things
    if m := re.fullmatch(r"what colour is the small (\w+)\?", question):
        return one([t.colour for t in things if t.shape == m[1] and t.small])
    if m := re.fullmatch(r"what colour is the shape at the (.+)\?", question):
        return one([t.colour for t in shapes if cell(t, scene.size) == m[1]])
    if m := re.fullmatch(r"what colour is the (\w+)\?", question):
        return one([t.colour for t in things if t.shape == m[1]])
    if m := re.fullmatch(r"what shape is the (\w+) one\?", question):
        return one([t.shape for t in things if t.colour == m[1]])
    if m := re.fullmatch(r"what shape is at the (.+)\?", question):
        return one([t.shape for t in shapes if cell(t, scene.size) == m[1]])
    if m := re.fullmatch(r"how many (?:(\w+) )?shapes are there\?", question):
        return str(sum(m[1] in (None, t.colour, t.shape) for t in shapes))
    if m := re.fullmatch(r"is (.+) (left) or right of (.+)\?|is (.+) (above) or below (.+)\?", question):
        a, key, b = (g for g in m.groups() if g)
        axis = 0 if key == "left" else 1
        (p, q) = (sum(named(n, scene).box[axis::2]) for n in (a, b))
        return {0: ("left", "right"), 1: ("above", "below")}[axis][p > q]
    if m := re.fullmatch(r"where is (.+)\?", question):
        return cell(named(m[1], scene), scene.size)
    if question == "what does the small sign say?":
        return one([t.text for t in things if t.kind == "sign" and t.small])
    if m := re.fullmatch(r"what does the (?:(\w+) )?sign say\?", question):
        return one([t.text for t in scene.signs if m[1] in (None, t.colour)])
    if m := re.fullmatch(r"which letter is on (.+)\?", question):
        return named(m[1], scene).text
    if m := re.fullmatch(r"what is the value of the (\w+) bar\?", question):
        assert scene.chart is not None
        return one([str(round((t.box[3] - t.box[1]) / scene.chart.unit)) for t in scene.bars if t.colour == m[1]])
    if m := re.fullmatch(r"which bar is (highest|lowest)\?", question):
        height = {t.colour: t.box[3] - t.box[1] for t in scene.bars}
        best = (max if m[1] == "highest" else min)(height.values())
        return one([c for c, h in height.items() if h == best])
    if m := re.fullmatch(r"is there no (\w+) (\w+)\?", question):
        return "no" if (m[1], m[2]) in {(t.colour, t.shape) for t in things} else "yes"
    if m := re.fullmatch(r"which (colour|shape) is missing: (\w+), (\w+) or (\w+)\?", question):
        there = {getattr(t, m[1]) for t in things}
        return one([v for v in m.groups()[1:] if v not in there])
    raise AssertionError(f"no rule for {question!r}")


def play(question: str, clip: tasks.Clip) -> str:
    """The answer, found from the frames one by one."""
    frames = [clip.at(i) for i in range(clip.n)]

    def path(shape: str) -> list[tasks.Thing | None]:
        return [next((t for t in f.things if t.shape == shape), None) for f in frames]

    def gone(shape: str) -> tuple[int, int]:
        there = [t.box for t in path(shape) if t]
        return there[-1][0] - there[0][0], there[-1][1] - there[0][1]

    if question == "what does the sign say?":
        return one(sorted({t.text for f in frames for t in f.signs}))
    if m := re.fullmatch(r"which appears first, the (\w+) or the (\w+)\?", question):
        first = [next(i for i, t in enumerate(path(s)) if t) for s in m.groups()]
        assert first[0] != first[1]
        return m[1] if first[0] < first[1] else m[2]
    if m := re.fullmatch(r"which way does the (\w+) move\?", question):
        dx, dy = gone(m[1])
        assert (dx == 0) != (dy == 0)
        return ("left" if dx < 0 else "right") if dx else ("up" if dy < 0 else "down")
    if m := re.fullmatch(r"which is faster, the (\w+) or the (\w+)\?", question):
        far = [max(map(abs, gone(s))) for s in m.groups()]
        assert max(far) >= 2 * min(far) > 0
        return m[1] if far[0] > far[1] else m[2]
    if question == "how many flashes are there?":
        lit = [f.look.flash for f in frames]
        return str(sum(b and not a for a, b in zip([False, *lit], lit)))
    if m := re.fullmatch(r"what colour is the (\w+) at the end\?", question):
        last = path(m[1])[-1]
        assert last is not None
        return last.colour
    if question == "how many scenes are there?":
        grounds = [(f.look.texture, f.look.corner) for f in frames]
        return str(1 + sum(a != b for a, b in itertools.pairwise(grounds)))
    if m := re.fullmatch(r"when does the (\w+) move: start, middle or end\?", question):
        at = [t.box if t else None for t in path(m[1])]
        steps = [i + 0.5 for i in range(len(at) - 1) if at[i] != at[i + 1]]
        return ("start", "middle", "end")[int(3 * np.mean(steps) / (len(at) - 1))]
    raise AssertionError(f"no rule for {question!r}")


def check(item: tasks.Item) -> None:
    for turn in item.turns:
        if turn.task == "describe":
            continue
        source = item.source
        assert source is not None
        found = play(turn.question, source) if isinstance(source, tasks.Clip) else solve(turn.question, source)
        assert turn.answer == found, turn.question
    assert item.answer == item.turns[-1].answer


@pytest.mark.parametrize("difficulty", [0, 0.5, 1])
@pytest.mark.parametrize("task", [*IMAGE, "dialogue"])
def test_image_answers_are_right(task: str, difficulty: float) -> None:
    for item in tasks.generate(task, 1, 12, size=168 if task == "detail" else 112, difficulty=difficulty):
        check(item)


@pytest.mark.parametrize("frames", [8, 16, 33])
@pytest.mark.parametrize("task", [*VIDEO, "dialogue_video"])
def test_video_answers_are_right(task: str, frames: int) -> None:
    for item in tasks.generate(task, 2, 6, size=112, frames=frames, difficulty=0.8):
        check(item)
        assert len(item.media) == len(item.times) == frames


def test_training_answers_are_right() -> None:
    rng = random.Random(3)
    for seed in range(30):
        size, difficulty = rng.choice([112, 168, (168, 112)]), rng.random()
        picture = tasks.scene(seed, size=size, difficulty=difficulty)
        again = tasks.scene(seed, size=size, difficulty=difficulty)
        assert (picture.pixels == again.pixels).all()
        assert picture.turns == again.turns
        assert len(picture.turns) >= 4
        assert len({t.question for t in picture.turns}) == len(picture.turns)
        film = tasks.clip(seed, frames=10, grid=(8, 8))
        assert film.frames.shape == (10, 112, 112, 3)
        assert film.frames.dtype == np.uint8
        assert len(film.labels) == 10
        assert film.turns


def test_texts_hold_their_answers() -> None:
    for item in tasks.generate("recall", 0, 20, length=300, difficulty=1):
        asked = re.search(r"what is the code of the (\w+)\?$", item.question)
        assert asked is not None
        assert re.findall(rf"the code of the {asked[1]} is (\w+)\.", item.question) == [item.answer]
        assert 280 <= len(item.question.split()) <= 330
    for item in tasks.generate("copy", 0, 20, length=9):
        assert item.question == f"repeat this: {item.answer}"
        assert len(tasks.pieces(item.answer)) == 9


def test_descriptions_name_everything_once() -> None:
    for item in tasks.generate("describe", 5, 20, size=112):
        assert isinstance(item.source, tasks.Scene)
        phrases = item.answer.split(", ")
        want = [
            f"{t.colour} {t.shape} {t.text + ' ' if t.text else ''}{cell(t, item.size)}" for t in item.source.things
        ]
        assert sorted(phrases) == sorted(want)
        order = [CELLS.index(next(c for c in CELLS if p.endswith(c))) for p in phrases]
        assert order == sorted(order)
        assert tasks.score(", ".join(reversed(phrases)), item.answer, "describe") == 1
        assert tasks.score(phrases[0], item.answer, "describe") == pytest.approx(2 / (1 + len(phrases)))


# --- seeds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", tasks.TASKS)
def test_a_seed_gives_the_same_items(task: str) -> None:
    first, again = (tasks.generate(task, 7, n, **SMALL) for n in (3, 2))  # type: ignore[arg-type]
    for a, b in zip(first, again):
        assert a.turns == b.turns
        assert [m.tobytes() for m in a.media] == [m.tobytes() for m in b.media]
    other = tasks.generate(task, 8, 3, **SMALL)  # type: ignore[arg-type]
    assert [i.turns for i in first] != [i.turns for i in other]


def test_no_global_state_is_used() -> None:
    states = random.getstate(), np.random.get_state()[1].tobytes()
    tasks.generate("negation", 0, 2)
    tasks.clip(0)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tobytes() == states[1]


def test_train_and_test_share_nothing() -> None:
    for parts in (("a",), ("scene", 3), ("read", 0, 12)):
        assert chance("train", *parts).getstate() != chance("test", *parts).getstate()
    for task in ("shape", "needle"):
        both = {s: tasks.generate(task, 0, 10, split=s, **SMALL) for s in ("train", "test")}  # type: ignore[arg-type]
        seen = {s: {m.tobytes() for i in items for m in i.media} for s, items in both.items()}
        assert not seen["train"] & seen["test"]
        for split, items in both.items():
            for item in items:
                assert item.source is not None
                scene = item.source.at(0) if isinstance(item.source, tasks.Clip) else item.source
                assert scene.look.texture[0] == split


def test_seeds_of_the_splits_cannot_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, set[int]] = {"train": set(), "test": set()}
    for split, seeds in drawn.items():
        monkeypatch.setattr("foveate.lab.tasks.seeds.Random", lambda seed, seeds=seeds: seeds.add(seed))
        for i in range(500):
            chance(split, "scene", i)
    assert {s % 2 for s in drawn["train"]} == {0}
    assert {s % 2 for s in drawn["test"]} == {1}


# --- evidence and labels ----------------------------------------------------------------------------------------------


def of_colour(raw: np.ndarray, colour: str) -> float:
    """The part of pixels (h, w, 3) that look like a colour."""
    far = abs(raw.astype(int) - np.array(tasks.COLOURS[colour])).max(-1)
    return float((far < 48).mean())


@pytest.mark.parametrize("difficulty", [0, 1])
@pytest.mark.parametrize("task", IMAGE)
def test_evidence_shows_the_object(task: str, difficulty: float) -> None:
    for item in tasks.generate(task, 4, 8, size=168, difficulty=difficulty):
        assert isinstance(item.source, tasks.Scene)
        assert item.evidence
        raw, (own, _) = np.asarray(item.media[0]), owners(item.source)
        by_box = {t.box: i for i, t in enumerate(item.source.things)}
        for (x0, y0, x1, y1), time in item.evidence:
            assert time is None
            assert 0 <= x0 < x1 <= 168
            assert 0 <= y0 < y1 <= 168
            index = by_box[x0, y0, x1, y1]
            thing = item.source.things[index]
            covered = own[y0:y1, x0:x1] == index + 1
            alone, _ = owners(tasks.Scene(item.size, item.source.look, (thing,)))
            assert covered.sum() >= 0.6 * (alone > 0).sum(), "hidden"
            assert of_colour(raw[y0:y1, x0:x1], thing.colour) > 0.15


@pytest.mark.parametrize("task", VIDEO)
def test_evidence_of_videos_is_seen_in_its_time(task: str) -> None:
    for item in tasks.generate(task, 4, 6, size=112, frames=24):
        assert isinstance(item.source, tasks.Clip)
        for (x0, y0, x1, y1), time in item.evidence:
            assert time is not None
            assert 0 <= time[0] < time[1] <= 24 / item.fps
            assert 0 <= x0 < x1 <= 112
            assert 0 <= y0 < y1 <= 112
            for i in range(24):
                if time[0] <= i / item.fps < time[1]:
                    inside = [t for t in item.source.at(i).things if x0 <= t.box[0] and t.box[2] <= x1]
                    assert any(y0 <= t.box[1] and t.box[3] <= y1 for t in inside) or (x1 - x0) == 112


def test_words_are_drawn_where_they_are_said_to_be() -> None:
    for item in tasks.generate("read", 3, 10, size=168):
        assert isinstance(item.source, tasks.Scene)
        raw = pixels(item.source).astype(int).sum(-1)
        for thing in item.source.things:
            spots = boxes(thing, item.source.look.face)
            assert "".join(c for c, _ in spots) == thing.text
            for _, (x0, y0, x1, y1) in spots:
                assert thing.box[0] <= x0 < x1 <= thing.box[2]
                assert thing.box[1] <= y0 < y1 <= thing.box[3]
                assert raw[y0:y1, x0:x1].std() > 60  # ink on a plate


def test_nothing_shown_is_cut_off_or_hides_a_sign() -> None:
    for seed in range(20):
        for kind in ("shapes", "signs", "chart", "detail"):
            scene = compose(random.Random(seed), (140, 112), 1.0, kind)
            for i, t in enumerate(scene.things):
                assert t.box[0] >= 0
                assert t.box[1] >= 0
                assert t.box[2] <= 140
                assert t.box[3] <= 112
                own = owners(scene)[0]
                assert not (t.text and t.shape == "square"), "this would look like a sign"
                if t.kind in ("sign", "bar"):
                    x0, y0, x1, y1 = t.box
                    assert (own[y0:y1, x0:x1] == i + 1).all()


def test_labels_agree_with_the_scene() -> None:
    for seed in range(8):
        picture = tasks.scene(seed, size=112, grid=(16, 16))
        assert {k: v.shape for k, v in picture.labels.items()} == dict.fromkeys(picture.labels, (16, 16))
    for item in tasks.generate("describe", 6, 12, size=112, difficulty=0.8):
        assert isinstance(item.source, tasks.Scene)
        labels, (own, letters) = tasks.dense(item, (8, 8)), owners(item.source)
        for r in range(8):
            for c in range(8):
                counts = np.bincount(own[14 * r : 14 * r + 14, 14 * c : 14 * c + 14].ravel(), minlength=2)[1:]
                got = (labels["colour"][r, c], labels["shape"][r, c])
                if counts.max() < 0.2 * 196:
                    assert got == (0, 0)
                    continue
                best = [item.source.things[i] for i in np.flatnonzero(counts == counts.max())]
                names = [(1 + list(tasks.COLOURS).index(t.colour), 1 + tasks.KINDS.index(t.shape)) for t in best]
                assert got in names
                assert (labels["row"][r, c], labels["col"][r, c]) == (r, c)
        shown = {1 + tasks.CHARACTERS.index(ch) for t in item.source.things for ch in t.text}
        assert set(np.unique(letters)) - {0} <= shown
        fine = label(item.source, (56, 56))["letter"]
        assert set(np.unique(fine)) - {0} == shown
        for name, classes in tasks.CLASSES.items():
            assert labels[name].max() < classes


def test_labels_of_frames_follow_what_moves() -> None:
    (item,) = tasks.generate("direction", 0, 1)
    first, last = (tasks.dense(item, (16, 16), frame=f)["shape"] for f in (0, 15))
    assert (first != last).any()
    with pytest.raises(InputError, match="no scene"):
        tasks.dense(tasks.generate("copy", 0, 1)[0], (4, 4))


# --- balance and words ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [t for t in tasks.TASKS if t not in OPEN])
def test_no_answer_is_frequent(task: str, record_property: Callable[[str, object], None]) -> None:
    items = tasks.generate(task, 0, 150, size=84, frames=12)
    prior = tasks.prior(i.answer for i in items)
    record_property("majority prior", prior)
    assert prior <= 0.4, f"{task}: {prior:.2f} without looking"


@pytest.mark.parametrize("difficulty", [0, 1])
@pytest.mark.parametrize("task", tasks.TASKS)
def test_all_words_are_in_the_vocabulary(task: str, difficulty: float) -> None:
    known = set(tasks.vocabulary())
    for item in tasks.generate(task, 3, 5, difficulty=difficulty, length=40, **SMALL):  # type: ignore[arg-type]
        for turn in item.turns:
            assert set(tasks.pieces(turn.question + " " + turn.answer)) <= known


def test_the_vocabulary_is_closed_and_sorted() -> None:
    words = tasks.vocabulary()
    assert words == sorted(set(words))
    assert {"A", "Z", "0", "9", "?", ":", "circle", "center"} <= set(words)
    assert all(len(tasks.pieces(w)) == 1 for w in words)
    assert tasks.pieces("the sign says KD7.") == ["the", "sign", "says", "K", "D", "7", "."]


@pytest.mark.parametrize(("said", "answer", "right"), [
    *[(" Red. ", "red", 1), ("top  left", "top left", 1), ("K D W", "KDW", 1), ("red", "blue", 0), ("", "no", 0)],
])  # fmt: skip
def test_scores(said: str, answer: str, right: float) -> None:
    assert tasks.score(said, answer) == right


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_video_comes_back_from_h264(tmp_path: Path) -> None:
    (item,) = tasks.generate("needle", 1, 1, frames=16, fps=8, size=112)
    kept = tasks.write(item, tmp_path)
    assert kept.path is not None
    with open_video(kept.path) as video:
        frames = list(video)
    assert [f.time for f in frames] == pytest.approx(list(item.times))
    for frame, drawn in zip(frames, item.media):
        assert abs(np.asarray(frame.image, int) - np.asarray(drawn, int)).mean() < 12
    assert isinstance(item.source, tasks.Clip)
    (box, (start, end)) = item.evidence[0].box, item.evidence[0].time or (0, 0)
    thing = next(t for _, _, t in item.source.spells)
    raw = [np.asarray(f.image.crop(box)) for f in frames if start <= f.time < end]
    assert all(of_colour(r, thing.colour) > 0.15 for r in raw)
    assert tasks.load(tmp_path)[0].messages == kept.messages
    assert len(read(kept.messages, frames=16).items[0].frames) == 16


@pytest.mark.parametrize("task", ["read", "dialogue", "dialogue_video", "recall"])
def test_items_are_read_back(task: str, tmp_path: Path) -> None:
    items = tasks.generate(task, 1, 2, **SMALL)  # type: ignore[arg-type]
    kept = [tasks.write(i, tmp_path) for i in items]
    for item, wrote, again in zip(items, kept, tasks.load(tmp_path), strict=True):
        assert (again.turns, again.answer, again.evidence, again.size, again.times) == (
            *(item.turns, item.answer, item.evidence, item.size, item.times),
        )
        assert again.path == wrote.path
        talk = read(again.messages, frames=12)
        assert [m["role"] for m in talk.messages] == (["user", "assistant"] * len(item.turns))[:-1]
        if item.size != (0, 0):
            assert talk.items[0].frames[0].size == item.size
        assert read(item.messages).messages == talk.messages


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "says"), [
    ({"task": "countin"}, "did you mean 'counting'"),
    ({"task": "zzz"}, "there are attribute"),
    ({"split": "tests"}, "did you mean 'test'"),
    ({"ground": "photo"}, "did you mean 'photos'"),
    ({"size": 20}, "84 to 4096"),
    ({"difficulty": 2}, "0..1"),
    ({"frames": 3}, "at least 8"),
    ({"turns": 0}, "'turns' at least 1"),
])  # fmt: skip
def test_bad_requests_say_what_to_do(options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        tasks.generate(**({"task": "read", "seed": 0, "n": 1} | options))  # type: ignore[arg-type]


def test_unknown_tasks_of_a_mix_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'shape'"):
        tasks.scene(0, {"shap": 1})
    with pytest.raises(InputError, match="did you mean 'needle'"):
        tasks.clip(0, {"needl": 1})
    with pytest.raises(InputError, match="write items into it first"):
        tasks.load(tmp_path)
    (tmp_path / "items.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="is not an item"):
        tasks.load(tmp_path)


@pytest.mark.parametrize("task", ["detail", "read"])
def test_large_and_oblong_pictures(task: str) -> None:
    for size in ((672, 448), (336, 504), 1008):
        for item in tasks.generate(task, 0, 2, size=size):
            check(item)
            assert item.media[0].size == (size if isinstance(size, tuple) else (size, size))


def test_a_long_video() -> None:
    (item,) = tasks.generate("flashes", 3, 1, frames=256, size=84)
    check(item)
    assert item.times[-1] == pytest.approx(255 / 8)
