"""Keys of the store: no two inputs share one, and what does not change what is stored changes no key."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import torch

import foveate
from foveate.archive import Recipe, media_hash, model_hash
from stream_kit import clip, model


def test_no_two_inputs_share_a_key(tmp_path: Path) -> None:
    loaded = model("qwen2_5_vl", tmp_path)
    films = [clip(tmp_path / f"{i}.mp4", 2, seed=i) for i in range(2)]
    other = model("qwen2_vl", tmp_path)
    names = [model_hash(loaded), model_hash(other)]
    with torch.no_grad():
        weight = next(loaded.model.parameters())
        old = weight.flatten()[0].clone()
        weight.view(-1)[0] = old + 1e-6  # one weight, hardly changed
        names.append(model_hash(loaded))
        weight.view(-1)[0] = old
    assert model_hash(loaded) == names[0]
    rule = loaded.builder.rule  # type: ignore[attr-defined]
    builder = dataclasses.replace(loaded.builder, rule=dataclasses.replace(rule, low=rule.low + 1))  # type: ignore[type-var]
    names.append(model_hash(dataclasses.replace(loaded, builder=builder)))
    plans = ["", "divprune", "divprune(keep=1)", "divprune(keep=1.0)", "todre", "divprune + todre", "todre + divprune"]
    media = [media_hash(f) for f in films]
    made = [
        Recipe.of(name, foveate.Plan.of(plan), fps, size).key(m)
        for name, plan, fps, size, m in itertools.product(names, plans, (1.0, 2.0), (4, 8), media)
    ]
    made += [Recipe.of(names[0], foveate.Plan.of("quota"), 1.0, 8, q).key(media[0]) for q in ("", "a", "b")]
    assert len(set(made)) == len(made) == 4 * 7 * 2 * 2 * 2 + 3


def test_what_runs_after_the_question_is_no_part_of_the_key() -> None:
    keys = {Recipe.of("m", foveate.Plan.of(p), 1.0, 8).key("f") for p in ("divprune", "divprune + snapkv(keep=0.3)")}
    assert len(keys) == 1


def test_what_waits_for_the_question_is_no_part_of_the_key_either() -> None:
    assert len({Recipe.of("m", foveate.Plan.of(p), 1.0, 8).key("f") for p in ("", "quota")}) == 1


def test_a_recipe_survives_being_stored() -> None:
    made = Recipe.of("m", foveate.Plan.of("slowfast + foveal(keep=7)"), 0.5, 4)
    assert Recipe.read(made.text) == made
    assert Recipe.read(made.text).id == made.id
