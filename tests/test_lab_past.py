"""What has happened so far in a clip, as labels and as something a decoder is asked for."""

from __future__ import annotations

from random import Random

import numpy as np
import torch

from foveate.lab.data import WHAT, Diet
from foveate.lab.loop import Recipe
from foveate.lab.models import SIZES, make, small
from foveate.lab.steps import joint
from foveate.lab.supervise import Heads
from foveate.lab.tasks.film import compose_clip
from foveate.lab.tasks.labels import label
from foveate.lab.tasks.past import CLASSES, past
from foveate.lab.tasks.words import WAYS

GRID = (16, 16)


def test_a_mover_is_told_by_the_way_it_went_and_how_far() -> None:
    clip = compose_clip(Random(3), (112, 112), 16, 8, 0.0, "direction")
    actor = next(a for a in clip.actors if a.way)
    before, after = past(clip, 0, GRID), past(clip, 15, GRID)
    assert set(np.unique(before["way"])) <= {0, 1}
    assert 2 + list(WAYS).index(actor.way) in after["way"]
    assert after["gone"].max() > before["gone"].max() == 1
    for name, n in CLASSES.items():
        assert after[name].shape == GRID
        assert after[name].min() >= 0
        assert after[name].max() < n
    # a thing is where the labels of the picture have it
    assert ((after["way"] > 0) == (label(clip.at(15), GRID)["colour"] > 0)).all()


def test_comers_are_told_in_their_order() -> None:
    clip = compose_clip(Random(5), (112, 112), 16, 8, 0.0, "order")
    first, second = sorted(a.born for a in clip.actors if a.role == "comer")
    assert past(clip, 0, GRID)["came"].max() <= 1
    assert past(clip, first, GRID)["came"].max() == 2
    assert past(clip, second, GRID)["came"].max() == 3


def test_cuts_and_flashes_are_counted_up() -> None:
    for task in ("cuts", "flashes"):
        clip = compose_clip(Random(8), (112, 112), 32, 8, 0.5, task)
        counts = [int(past(clip, i, GRID)[task][0, 0]) for i in range(32)]
        assert counts == sorted(counts)
        assert counts[-1] == min(4, len(clip.looks) - 1 if task == "cuts" else len(clip.flashes))


def test_the_decoder_learns_from_it_and_only_in_clips() -> None:
    sizes = small("video")
    diet = Diet("video", sizes, "joint", seed=1, batch=6, turns=3)
    clip = next(b for b in map(diet.make, range(40)) if b.kind == "video")
    picture = next(b for b in map(diet.make, range(40)) if b.kind == "image")
    assert set(picture.labels) == set(WHAT)
    assert set(CLASSES) < set(clip.labels)
    model, heads = make("video", sizes, 0), Heads(sizes.text.width, sizes, False)
    learned = joint(model, heads, clip, sizes, Recipe("video").aux)
    learned.loss.backward()
    assert "past way" in learned.right
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in heads.past.parameters())
    assert not any(k.startswith("past") for k in joint(model, heads, picture, sizes, 0.4).right)


def test_the_image_model_has_no_such_heads() -> None:
    assert not Heads(SIZES["image"].text.width, SIZES["image"], True).past
