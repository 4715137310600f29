"""OpenAI's own client, unmodified, against the server: what it sends is understood, what it reads is in its form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")
openai = pytest.importorskip("openai")

import foveate  # noqa: E402
from serve_kit import Served, asked_alone, clip, picture, said, serving, uri  # noqa: E402

PLAN = "divprune(keep=0.5)"


@pytest.fixture(scope="module")
def loaded() -> Any:
    return foveate.load("tiny")


@pytest.fixture(scope="module")
def served(loaded: Any) -> Iterator[Served]:
    with serving(loaded, PLAN) as at:
        yield at


def ask(served: Served, messages: Any, **more: Any) -> Any:
    return served.openai().chat.completions.create(model="tiny", messages=messages, **{"max_tokens": 6, **more})


def test_models(served: Served) -> None:
    (model,) = served.openai().models.list().data
    assert model.id == "tiny"
    assert served.openai().models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        served.openai().models.retrieve("another")


def test_an_image(served: Served, loaded: Any) -> None:
    out = ask(served, said("What is it?", ("image", uri(picture()))))
    assert out.choices[0].message.content.strip() == asked_alone(loaded, "What is it?", picture(), PLAN, 6)
    assert out.choices[0].finish_reason == "length"
    usage = out.usage
    assert (usage.visual_tokens_before, usage.visual_tokens_after) == (16, 8)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens == 6
    assert out.foveate["plan"] == PLAN
    assert out.foveate["kv_bytes"] < out.foveate["kv_bytes_full"]


def test_a_streamed_video_with_its_own_plan(served: Served) -> None:
    messages = said("What moves?", ("video", clip()))
    own = {"foveate": {"plan": "random(keep=0.9)", "keep": 0.125, "overlay": True, "frames": 4}}
    whole = ask(served, messages, extra_body=own)
    chunks = list(ask(served, messages, extra_body=own, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage.visual_tokens_before == 8 * chunks[-1].usage.visual_tokens_after
    first = chunks[0].foveate
    assert first["plan"] == "random(keep=0.125)"
    (drawn,) = first["overlay"]
    t, h, w = drawn["grid"]
    assert len(drawn["frames"]) == len(drawn["kept"]) == len(drawn["times"]) == t
    assert {len(k) for k in drawn["kept"]} == {h * w}
    assert "".join(drawn["kept"]).count("1") == chunks[-1].usage.visual_tokens_after
    assert all("overlay" not in (c.model_extra or {}).get("foveate", {}) for c in chunks[1:])


def test_text_alone_and_several_turns(served: Served, loaded: Any) -> None:
    out = ask(served, said("Hello?"))
    assert out.usage.visual_tokens_before == 0
    talk = [{"role": "system", "content": "Be brief."}, *said("Hello?")]
    talk += [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Go on."}]
    assert ask(served, talk).choices[0].message.content is not None


def test_stop_strings_and_seeds(served: Served) -> None:
    text = ask(served, said("Hello?"), max_tokens=12).choices[0].message.content
    stop = text[4:6]
    cut = ask(served, said("Hello?"), max_tokens=12, stop=[stop])
    assert cut.choices[0].message.content == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    drawn = [
        ask(served, said("Hello?"), temperature=1.0, top_p=0.9, seed=s).choices[0].message.content for s in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"messages": []}, "invalid_value"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "invalid_value"),
        ({"messages": said("  ")}, "invalid_value"),
        ({"messages": said("<|image_pad|>")}, "invalid_value"),
        ({"messages": said("x", ("image", "/etc/passwd"))}, "media_address"),
        ({"messages": said("x", ("image", "file:///etc/passwd"))}, "media_address"),
        ({"messages": said("x", ("image", "data:image/png;base64,AAAA"))}, "bad_media"),
        ({"messages": said("x", ("video", "data:video/mp4;base64,!!"))}, "bad_media"),
        ({"n": 2}, "unsupported"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "unsupported"),
        ({"extra_body": {"foveate": {"plan": "divprun"}}}, "invalid_plan"),
        ({"extra_body": {"foveate": {"plan": "divprune(keep=7.0)"}}}, "invalid_plan"),
        ({"extra_body": {"foveate": {"plan": "speculative(draft='/etc')"}}}, "invalid_plan"),
        ({"extra_body": {"foveate": {"plan": "/etc/passwd.yaml"}}}, "invalid_plan"),
        ({"extra_body": {"foveate": {"plan": "none", "keep": 0.5}}}, "invalid_plan"),
        ({"extra_body": {"foveate": {"frames": 10_000}}}, "invalid_value"),
    ],
)
def test_what_cannot_be_answered(served: Served, change: dict[str, Any], code: str) -> None:
    with pytest.raises((openai.BadRequestError, openai.UnprocessableEntityError)) as caught:
        ask(served, **{"messages": said("x"), **change})
    assert caught.value.code == code
    assert "No such file" not in caught.value.body["message"]
    assert served.settled()


def test_an_unknown_model(served: Served) -> None:
    with pytest.raises(openai.NotFoundError):
        served.openai().chat.completions.create(model="gpt", messages=said("x"))


def test_a_plan_that_drives_decoding(served: Served) -> None:
    plain = ask(served, said("aaaa aaaa aaaa"), max_tokens=12, extra_body={"foveate": {"plan": "none"}})
    own = {"foveate": {"plan": "prompt_lookup"}}
    chunks = list(ask(served, said("aaaa aaaa aaaa"), max_tokens=12, extra_body=own, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == plain.choices[0].message.content


def test_a_plan_that_chooses_frames(served: Served) -> None:
    own = {"foveate": {"plan": "bolt(frames=2)", "frames": 8}}
    out = ask(served, said("What moves?", ("video", clip())), extra_body=own)
    assert out.choices[0].message.content
    assert out.usage.visual_tokens_before < ask(served, said("x", ("video", clip()))).usage.visual_tokens_before


def test_a_key(loaded: Any) -> None:
    with serving(loaded, PLAN, keys=("first", "second")) as at:
        with pytest.raises(openai.AuthenticationError):
            at.openai("wrong").models.list()
        assert at.openai("second").models.list().data


def test_a_client_that_stops_reading(served: Served) -> None:
    stream = ask(served, said("Hello?"), max_tokens=2000, stream=True)
    next(iter(stream))
    stream.close()
    assert served.settled(30)
