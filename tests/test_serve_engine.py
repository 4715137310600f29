"""The scheduler: answers as asked alone, places and deadlines, what earlier requests left, and failures."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

import foveate  # noqa: E402
from foveate.serve.reuse import blind  # noqa: E402
from foveate.spec import Plan  # noqa: E402
from serve_kit import Served, asked_alone, clip, events, picture, said, serving, uri  # noqa: E402

PLAN = "divprune(keep=0.5)"


@pytest.fixture(scope="module")
def loaded() -> Any:
    return foveate.load("tiny")


@pytest.fixture
def served(loaded: Any) -> Iterator[Served]:
    with serving(loaded, PLAN, waiting=4, running=3) as at:
        yield at


def post(at: Served, messages: Any, new: int = 6, timeout: float = 60, headers: Any = None, **more: Any) -> Any:
    body = {"messages": messages, "max_tokens": new, **more}
    return httpx.post(f"{at.url}/v1/chat/completions", json=body, timeout=timeout, headers=headers)


def text(reply: Any) -> str:
    assert reply.status_code == 200, reply.text
    out: str = reply.json()["choices"][0]["message"]["content"]
    return out


def test_many_at_once_say_what_each_says_alone(loaded: Any) -> None:
    plans = [PLAN, "none", "fastv(layer=1, keep=0.5) + snapkv(keep=0.5, window=4)", "foveal(keep=0.3)"]
    asked = [(plans[i % 4], f"question {i}", picture(i)) for i in range(8)]
    alone = [asked_alone(loaded, q, m, p, 6) for p, q, m in asked]
    with serving(loaded, PLAN) as at, ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(post, at, said(q, ("image", uri(m))), foveate={"plan": p}, headers={"x-request-id": "same"})
            for p, q, m in asked
        ]
        replies = [j.result() for j in jobs]
        assert [text(r).strip() for r in replies] == alone
        assert {r.headers["x-request-id"] for r in replies} == {"same"}  # repeated, and used for nothing
        assert len({r.json()["id"] for r in replies}) == 8
        assert at.settled()


def test_turns_go_on_from_what_was_read(served: Served) -> None:
    talk = said("Hello?", ("image", uri(picture())))
    first = text(post(served, talk))
    talk += [{"role": "assistant", "content": first}, {"role": "user", "content": "And then?"}]
    again = post(served, talk)
    anew = post(served, talk, foveate={"reuse": False})
    assert text(again) == text(anew)
    cached = [r.json()["usage"]["prompt_tokens_details"]["cached_tokens"] for r in (again, anew)]
    assert cached[0] > 30
    assert cached[1] == 0
    assert again.json()["usage"]["visual_tokens_after"] == 8


@pytest.mark.parametrize("plan", ["foveal(keep=0.3)", "snapkv(keep=0.5, window=4)", "none"])
def test_the_same_prompt_again_is_not_read_again(served: Served, plan: str) -> None:
    asked = said("Hello?", ("image", uri(picture())))
    anew, first, again = (post(served, asked, foveate={"plan": plan, "reuse": r}) for r in (False, True, True))
    assert text(anew) == text(first) == text(again)
    usage = again.json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"]
    other = post(served, said("Hello!", ("image", uri(picture()))), foveate={"plan": plan})
    assert (other.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 0) == (plan == "none")


def test_another_image_is_no_prefix(served: Served) -> None:
    one = post(served, said("Hello?", ("image", uri(picture(1)))))
    two = post(served, said("Hello?", ("image", uri(picture(2)))))
    assert two.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert text(two) == text(post(served, said("Hello?", ("image", uri(picture(2)))), foveate={"reuse": False}))
    assert one.status_code == 200


def test_encoded_media_serve_other_plans(served: Served) -> None:
    video = said("Hello?", ("video", clip()))
    fresh = [text(post(served, video, foveate={"plan": f"foveal(keep={k})", "reuse": False})) for k in (0.2, 0.6)]
    used = [text(post(served, video, foveate={"plan": f"foveal(keep={k})"})) for k in (0.2, 0.6)]
    assert used == fresh
    assert served.server.metrics.reused.labels("media")._value.get() == 1


def test_which_plans_look_at_the_media_alone() -> None:
    assert blind(Plan.of("divprune + tome"))
    assert blind(Plan.of(""))
    for plan in ("foveal", "fastv", "snapkv", "divprune + snapkv", "cdpruner", "bolt"):
        assert not blind(Plan.of(plan)), plan


def test_a_full_queue_says_when_to_come_back(served: Served) -> None:
    hold = threading.Event()
    gate = served.engine.parts.layers[0].register_forward_pre_hook(lambda m, a: hold.wait(30) and None)
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(post, served, said(f"{i}"), 2) for i in range(5)]
        while served.engine.waiting < 4:
            time.sleep(0.01)
        turned = post(served, said("one more"))
        hold.set()
        gate.remove()
        assert all(j.result().status_code == 200 for j in jobs)
    assert turned.status_code == 429
    assert int(turned.headers["retry-after"]) >= 1
    assert turned.json()["error"]["code"] == "queue_full"
    assert served.settled()


def test_a_deadline(served: Served) -> None:
    out = post(served, said("Hello?"), 2000, foveate={"seconds": 0.3})
    assert out.status_code == 504
    assert out.json()["error"]["code"] == "deadline_exceeded"
    assert served.settled()


def test_a_client_that_leaves_while_its_prompt_is_read(served: Served) -> None:
    looked, hold = threading.Event(), threading.Event()

    def wait(module: Any, args: Any) -> None:
        looked.set()
        hold.wait(30)

    late: list[int] = []
    layers = served.engine.parts.layers
    hooks = [layers[0].register_forward_pre_hook(wait), layers[2].register_forward_hook(lambda *a: late.append(1))]
    with pytest.raises(httpx.ReadTimeout):
        post(served, said("Hello?"), timeout=0.3)
    assert looked.wait(10)
    until = time.monotonic() + 10
    while (now := served.engine._now) is not None and now.over is None and time.monotonic() < until:
        time.sleep(0.01)
    hold.set()
    assert served.settled(10)
    for hook in hooks:
        hook.remove()
    assert not late  # the layers after the one it stood at did not run
    assert text(post(served, said("Hello?")))


def fail_once(at: Served, error: BaseException, after: int) -> Any:
    """The model fails at the so-manieth token it reads."""
    count = [0]

    def hook(module: Any, args: Any, kwargs: Any) -> None:
        count[0] += 1
        if count[0] == after:
            raise error

    return at.engine.parts.layers[1].register_forward_pre_hook(hook, with_kwargs=True)


@pytest.mark.parametrize("error", [RuntimeError("secret words"), SystemExit("secret words"), MemoryError()])
def test_a_failure_in_the_middle_of_a_stream(served: Served, error: BaseException) -> None:
    hook = fail_once(served, error, after=4)
    out = post(served, said("Hello?"), 12, stream=True)
    hook.remove()
    assert out.status_code == 200
    told = events(out.text)
    assert "error" in told[-1], out.text
    assert told[-1]["error"]["code"] == ("out_of_memory" if isinstance(error, MemoryError) else "internal_error")
    assert sum("choices" in t for t in told) >= 2
    assert "secret" not in out.text
    assert served.settled()
    assert text(post(served, said("Hello?")))
    assert served.engine.alive


@pytest.mark.parametrize(("plan", "times"), [("foveal(keep=0.5)", 1), ("none", 0), ("snapkv(keep=0.5, window=4)", 11)])
def test_a_plan_stays_on_the_model_between_tokens(
    served: Served, plan: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Putting it on for every token cost as much as the token; what cache methods know of a step ends with it."""
    from foveate.serve import inplace

    put: list[str] = []

    def counted(model: Any, steps: Any) -> Any:
        put.append(str(steps))
        return foveate.apply(model, steps)

    monkeypatch.setattr(inplace, "apply", counted)
    out = post(served, said("Hello?", ("image", uri(picture()))), 12, foveate={"plan": plan})
    assert out.json()["usage"]["completion_tokens"] == 12
    assert len(put) == times
    assert served.settled()
    until = time.monotonic() + 5
    while (left := hooks_of(served)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not left, "an idle model is as it was"


def hooks_of(served: Served) -> list[Any]:
    """Hooks on the decoder and its layers, but for the engine's own."""
    parts = served.engine.parts
    there = [h for m in (parts.model, parts.decoder, *parts.layers) for h in m._forward_pre_hooks.values()]
    return [h for h in there if h != served.engine._look_up]


def test_a_failure_while_a_prompt_is_read(served: Served) -> None:
    hook = fail_once(served, RuntimeError("secret words"), after=1)
    out = post(served, said("Hello?"), stream=True)
    hook.remove()
    assert out.status_code == 500
    assert "secret" not in out.text
    assert text(post(served, said("Hello?")))


def test_a_failure_of_one_leaves_the_others(served: Served) -> None:
    with ThreadPoolExecutor(2) as pool:
        good = pool.submit(post, served, said("Hello?"), 40)
        while not served.engine.running:
            time.sleep(0.005)
        bad = post(served, said("x", ("image", "data:image/png;base64,AAAA")))
        assert bad.status_code == 400
        assert good.result().json()["usage"]["completion_tokens"] == 40


def test_stopping_tells_everyone(loaded: Any) -> None:
    with serving(loaded, PLAN) as at, ThreadPoolExecutor(1) as pool:
        job = pool.submit(post, at, said("Hello?"), 2000)
        while not at.engine.running:
            time.sleep(0.005)
        at.engine.stop()
        assert job.result().status_code == 503
        assert httpx.get(f"{at.url}/health").status_code == 503
        assert post(at, said("Hello?")).status_code == 503
    assert not [h for x in at.engine.parts.layers for h in x._forward_pre_hooks.values()]


def test_a_slow_client_is_let_go(loaded: Any) -> None:
    import asyncio

    from foveate.serve.stream import Events

    gone: list[bool] = []

    async def items() -> Any:
        while True:
            yield {"x": 1}

    async def never() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(60)

    async def run() -> None:
        await Events(items(), lambda: gone.append(True), 0.05)({}, never, send)

    asyncio.run(asyncio.wait_for(run(), 10))
    assert gone == [True]
