"""Methods of stage media choose which frames ``ask`` shows to the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

import foveate
from foveate.ask import ask
from foveate.choose import embedded
from foveate.errors import PlanError, SignalError
from foveate.method import method
from foveate.reduction import Reduction
from foveate.tokens import Tokens

GOT: list[Tokens] = []


@method(
    title="Third",
    url="https://arxiv.org/abs/2503.21483",
    needs=("features", "text", "times", "pixels"),
    cost="none",
)
class Third:
    """Keeps every third frame."""

    name = "third"
    stage = "media"

    def reduce(self, tokens: Tokens) -> Reduction:
        """tokens.x (1, T, D) -> a third of it."""
        GOT.append(tokens)
        return Reduction.take(torch.arange(0, tokens.n, 3)[None], tokens.n)


@method(title="Rest", url="https://arxiv.org/abs/2503.21483", needs=("cls_attention",), cost="none")
class Wants:
    """Needs what frames do not have."""

    name = "wants"
    stage = "media"

    def reduce(self, tokens: Tokens) -> Reduction:
        """Never runs."""
        raise AssertionError


def film(count: int = 9) -> list[Image.Image]:
    return [Image.new("RGB", (64, 48), (20 * i, 255 - 20 * i, 90)) for i in range(count)]


@pytest.fixture(scope="module", params=["tiny", "lab/image"])
def loaded(request: pytest.FixtureRequest) -> Any:
    return foveate.load(request.param)


def test_the_prompt_holds_the_frames_that_are_left(loaded: Any) -> None:
    GOT.clear()
    said = ask([film()], "What colour is it?", model=loaded, plan=[Third()], max_new_tokens=1)
    shown = [f for v in said.prompt.visuals for f in v.item.frames]
    assert [f.getpixel((0, 0)) for f in shown] == [(20 * i, 255 - 20 * i, 90) for i in (0, 3, 6)]
    times = [t for v in said.prompt.visuals for t in v.item.times]
    assert times == [0.0, 1.5, 3.0]  # bare frames come two a second
    (row,) = [r for r in said.report.rows if r.stage == "media"]
    assert (row.tokens_in, row.tokens_out) == (9, 3)
    assert said.plan == "third"
    (got,) = GOT
    assert got.x.shape[:2] == (1, 9)
    assert got.need("pixels").shape == (1, 9, 3, 32, 32)
    assert got.need("times").tolist() == [[0.5 * i for i in range(9)]]
    assert got.need("text").shape[-1] == got.x.shape[-1]


def test_frames_look_to_the_model_as_they_do_alone(loaded: Any) -> None:
    together = embedded(loaded, film(3), "what?")
    for i, frame in enumerate(film(3)):
        torch.testing.assert_close(embedded(loaded, [frame], "what?")[0], together[i], atol=1e-4, rtol=1e-4)
    assert not torch.equal(together[0], together[2])
    assert not loaded.model.get_decoder()._forward_pre_hooks


def test_methods_follow_each_other_and_other_stages(loaded: Any) -> None:
    said = ask([film()], "What?", model=loaded, plan="bolt(frames=4) + divprune(keep=0.5)", max_new_tokens=1)
    rows = {r.stage: r for r in said.report.rows}
    assert rows["media"].tokens_out <= 4
    assert rows["inputs"].tokens_out < rows["inputs"].tokens_in


def test_pictures_are_left_alone(loaded: Any) -> None:
    said = ask(film(1)[0], "What?", model=loaded, plan=[Third()], max_new_tokens=1)
    assert len(said.prompt.visuals) == 1
    assert not [r for r in said.report.rows if r.stage == "media"]


def test_a_signal_that_frames_lack_is_named(loaded: Any) -> None:
    with pytest.raises(SignalError, match="wants needs cls_attention"):
        ask([film()], "What?", model=loaded, plan=[Wants()], max_new_tokens=1)


def test_apply_says_who_chooses_frames(loaded: Any) -> None:
    with pytest.raises(PlanError, match=r"foveate\.ask applies it"), foveate.apply(loaded.model, [Third()]):
        pass
