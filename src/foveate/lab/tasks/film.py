"""What happens in a video, as data: who moves where and when, what flashes, when the ground changes.

Every frame of a clip is a :class:`Scene`, so all that holds for pictures holds for frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

from .compose import look, place, sign, word
from .texture import texture
from .things import Box, Look, Scene, Size, Thing
from .words import COLOURS, SHAPES, THIRDS, WAYS

#: Which parts each task needs to be played.
ROLES = {
    "order": ("comer", "comer"),
    "direction": ("mover",),
    "speed": ("fast", "slow"),
    "state": ("lamp",),
    "still": ("burst",),
}
MAX_ACTORS = 4


class Actor(NamedTuple):
    """A shape that moves, appears or changes colour.

    Attributes:
        box: where it is at first. way: one of WAYS, or "" when it stays. reach: how far it goes, in pixels.
        window: the frames between which it moves. born: the first frame that shows it.
        colours: (from which frame, which colour), ascending from frame 0.
    """

    role: str
    shape: str
    box: Box
    way: str
    reach: int
    window: tuple[int, int]
    born: int
    colours: tuple[tuple[int, str], ...]

    def at(self, frame: int) -> Box:
        """Its box in a frame."""
        if not self.way:
            return self.box
        first, last = self.window
        done = round(self.reach * min(1, max(0, frame - first) / (last - first)))
        dx, dy = WAYS[self.way][0] * done, WAYS[self.way][1] * done
        return self.box[0] + dx, self.box[1] + dy, self.box[2] + dx, self.box[3] + dy

    @property
    def swept(self) -> Box:
        """The box of all the pixels it ever covers."""
        return _around(self.at(self.window[0]), self.at(self.window[1]))


@dataclass(frozen=True)
class Clip:
    """One video.

    Attributes:
        n: frames. fps: frames a second.
        looks: (from which frame, ground), ascending from frame 0. spells: (from, to, sign) for signs seen for a while.
        flashes: (from, to) in frames.
    """

    size: Size
    n: int
    fps: float
    looks: tuple[tuple[int, Look], ...]
    actors: tuple[Actor, ...]
    spells: tuple[tuple[int, int, Thing], ...] = ()
    flashes: tuple[tuple[int, int], ...] = ()

    def at(self, frame: int) -> Scene:
        """One frame."""
        ground = [g for start, g in self.looks if start <= frame][-1]
        lit = any(a <= frame < b for a, b in self.flashes)
        things = [
            Thing("shape", [c for start, c in a.colours if start <= frame][-1], a.shape, a.at(frame))
            for a in self.actors
            if a.born <= frame
        ]
        things += [t for a, b, t in self.spells if a <= frame < b]
        shown = ground._replace(flash=lit, offset=ground.offset + 99991 * frame)
        return Scene(self.size, shown, tuple(things))

    def span(self, first: int, end: int) -> tuple[float, float]:
        """Frames as seconds."""
        return first / self.fps, end / self.fps


def most_flashes(n: int) -> int:
    """How often the light flashes in a clip of n frames at most."""
    return max(1, min(4, (n - 1) // (_lit(n) + 2)))


def most_cuts(n: int) -> int:
    """How many scenes a clip of n frames has at most."""
    return max(1, min(4, n // 2))


def compose_clip(
    rng: Random,
    size: Size,
    n: int = 16,
    fps: float = 8,
    difficulty: float = 0.5,
    task: str | None = None,
    split: str = "test",
    photos: bool = False,
) -> Clip:
    """One clip in which at least ``task`` can be asked (None: two tasks of chance)."""
    tasks = [task] if task else rng.sample(list(ROLES), 2)
    roles = [r for t in tasks for r in ROLES.get(t, ())]
    needed = len(roles) if task else 1
    extra = rng.randint(0 if roles else 1, round(2 * difficulty) if roles else 2)
    roles += [rng.choice(("mover", "burst", "lamp")) for _ in range(extra)]
    actors: list[Actor] = []
    for _ in range(20):
        actors = _actors(rng, size, n, roles[:MAX_ACTORS])
        if [a.role for a in actors[:needed]] == roles[:needed]:
            break
    grounds = _grounds(rng, size, n, difficulty, split, photos, rng.randint(1, most_cuts(n)) if task == "cuts" else
                       1 + (rng.random() < 0.2 * difficulty) if task else _count(rng, most_cuts(n)) or 1)  # fmt: skip
    clip = Clip(size, n, fps, grounds, tuple(actors))
    if task == "needle" or rng.random() < (0.2 if task else 0.5):
        clip = _with_sign(rng, clip, difficulty)
    if task == "flashes" or rng.random() < (0.1 if task else 0.4):
        clip = replace(clip, flashes=_flashes(rng, n))
    return clip


def _count(rng: Random, most: int) -> int:
    return rng.randint(1, most) if rng.random() < 0.4 else 0


def _actors(rng: Random, size: Size, n: int, roles: list[str]) -> list[Actor]:
    colours, shapes = rng.sample(list(COLOURS), len(roles)), rng.sample(SHAPES, len(roles))
    births = sorted(rng.sample(range(1, max(3, n - 1), max(1, n // 8)), 2))
    rng.shuffle(births)
    fast = rng.uniform(0.46, 0.62)
    out: list[Actor] = []
    for role, colour, shape in zip(roles, colours, shapes):
        reach, window = 0.0, (0, n - 1)
        if role in ("mover", "burst"):
            reach = rng.uniform(0.24, 0.55)
        elif role in ("fast", "slow"):
            reach = fast if role == "fast" else fast / rng.uniform(2.3, 3.2)
        if role == "burst":
            third = rng.randrange(len(THIRDS))
            window = (third * n // 3, max(third * n // 3 + 1, min(n - 1, (third + 1) * n // 3)))
        born = births.pop() if role == "comer" and births else 0
        changes = _changes(rng, n, colour) if role == "lamp" else ((0, colour),)
        made = _move(rng, size, Actor(role, shape, (0, 0, 0, 0), "", 0, window, born, changes), reach, out)
        if made:
            out.append(made)
    return out


def _move(rng: Random, size: Size, actor: Actor, reach: float, others: list[Actor]) -> Actor | None:
    """The actor with a path that meets no other path, or None when there is no room."""
    taken = [Thing("shape", "", "", a.swept) for a in others]
    for _ in range(12):
        side = round(min(size) * rng.uniform(0.15, 0.24))
        way = rng.choice(list(WAYS)) if reach else ""
        dx, dy = WAYS[way] if way else (0, 0)
        far = round(reach * size[0 if dx else 1])
        box = place(rng, size, side + far * abs(dx), side + far * abs(dy), taken, 0)
        if box is not None:
            x = box[2] - side if dx < 0 else box[0]
            y = box[3] - side if dy < 0 else box[1]
            return actor._replace(box=(x, y, x + side, y + side), way=way, reach=far)
    return None


def _changes(rng: Random, n: int, colour: str) -> tuple[tuple[int, str], ...]:
    """One to three changes of colour, the last one held for at least two frames."""
    frames = sorted(rng.sample(range(max(1, n // 8), n - 1), min(rng.randint(1, 3), max(1, n // 4))))
    out = [(0, colour)]
    for frame in frames:
        out.append((frame, rng.choice([c for c in COLOURS if c != out[-1][1]])))
    return tuple(out)


def _grounds(
    rng: Random, size: Size, n: int, difficulty: float, split: str, photos: bool, count: int
) -> tuple[tuple[int, Look], ...]:
    """``count`` grounds that clearly differ from one to the next, each for at least two frames or an eighth."""
    least = max(2, n // 8)
    room = n - least * count
    cuts = sorted(rng.randint(0, max(0, room)) for _ in range(count - 1))
    starts = [0, *(cut + least * (i + 1) for i, cut in enumerate(cuts))]
    out: list[Look] = []
    for _ in starts:
        drawn = [look(rng, size, split, difficulty, photos) for _ in range(6 if out else 1)]
        out.append(max(drawn, key=lambda g: _far(g, out[-1])) if out else drawn[0])
    return tuple(zip(starts, out))


def _far(a: Look, b: Look) -> float:
    """How much two grounds differ in mean colour."""
    means = [texture(*g.texture)[::16, ::16].mean((0, 1)) + g.shift for g in (a, b)]
    return float(abs(means[0] - means[1]).sum())


def _with_sign(rng: Random, clip: Clip, difficulty: float) -> Clip:
    """The clip with a sign that is seen for about a tenth of it."""
    taken = [Thing("shape", "", "", a.swept) for a in clip.actors]
    used = {c for a in clip.actors for _, c in a.colours}
    colour = rng.choice([c for c in COLOURS if c not in used] or ["white"])
    unit, face = min(clip.size), clip.looks[0][1].face
    clip = replace(clip, looks=tuple((f, g._replace(face=face)) for f, g in clip.looks))
    for scale in (1.0, 0.8, 0.65):
        text = word(rng, rng.randint(1, 2 + round(3 * difficulty)))
        font = max(11, round(scale * unit * rng.uniform(0.2 - 0.08 * difficulty, 0.22)))
        made = sign(rng, clip.size, text, font, face, colour, taken)
        if made:
            length = max(2, round(clip.n * rng.uniform(0.08, 0.16)))
            start = rng.randint(min(1, clip.n - length), clip.n - length)
            return replace(clip, spells=((start, start + length, made),))
    return clip


def _lit(n: int) -> int:
    """For how many frames a flash lasts."""
    return 1 if n < 16 else max(2, n // 24)


def _flashes(rng: Random, n: int) -> tuple[tuple[int, int], ...]:
    """None to four flashes, with at least two dark frames between them and one before."""
    lit, count = _lit(n), rng.randint(0, most_flashes(n))
    free = n - 1 - count * (lit + 2) + (2 if count else 0)
    gaps = sorted(rng.randint(0, max(0, free)) for _ in range(count))
    return tuple((s, s + lit) for s in (1 + gap + i * (lit + 2) for i, gap in enumerate(gaps)))


def _around(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
