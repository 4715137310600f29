"""vLLM with the plug-in gives what transformers gives with the same plan: prompt, words and their probabilities.

Skipped where vLLM is not installed; ``make test-vllm`` makes an environment that has it. An engine takes half a minute
to start, so each family has one test that asks it everything.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)

os.environ |= {  # read when vLLM is imported
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
}

import vllm

from vllm_kit import STEPS, Ask, Reference, clip, make, picture, told

FAMILIES = ["qwen2_5_vl", "qwen3_vl", "llava_onevision"]
MARKS = {
    "qwen2_5_vl": ("<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"),
    "qwen3_vl": ("<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"),
    "llava_onevision": ("<image>", "<video>"),
}
QUESTION = "What is to be seen here? Say it in a few words, please."
# one that selects, one that merges, so that DeepStack features merge too, and one that decides by the words
PLANS = {"qwen2_5_vl": "foveal", "qwen3_vl": "aim", "llava_onevision": "divprune"}
KEEP = 0.5
#: Families whose engine runs in a process of its own, as servers have it.
APART = {"llava_onevision"}
NEAR = 1e-3


@pytest.fixture
def folder(family: str, tmp_path: Path) -> Path:
    return make(family, tmp_path / family)


def engine(folder: Path, plan: str | None, **more: Any) -> Any:
    overrides = {} if plan is None else {"foveate_plan": plan, "foveate_keep": KEEP}
    given = {
        "dtype": "float32",
        "enforce_eager": True,
        "gpu_memory_utilization": 0.3,
        "max_model_len": 2048,
        "max_num_batched_tokens": 96,  # less than a prompt, so that it is read in pieces
        "max_num_seqs": 4,
        "block_size": 32,
        "enable_prefix_caching": True,
        "limit_mm_per_prompt": {"image": 2, "video": 1},
        "hf_overrides": overrides,
    }
    return vllm.LLM(str(folder), **given | more)


def ask(llm: Any, asks: list[Ask], timed: bool) -> list[Any]:
    """Send requests together."""
    prompts = []
    for a in asks:
        media: dict[str, Any] = {}
        if a.images:
            media["image"] = a.images
        if a.videos:
            media["video"] = [(v, told(len(v), a.fps)) if timed else v for v in a.videos]
        options = {} if a.keep is None else {"foveate_keep": a.keep}
        prompts.append({"prompt": a.text, "multi_modal_data": media, "mm_processor_kwargs": options})
    sampling = vllm.SamplingParams(temperature=0, max_tokens=STEPS, logprobs=5, ignore_eos=True, detokenize=False)
    return list(llm.generate(prompts, sampling, use_tqdm=False))


def apart(out: Any, expected: Any, stamped: bool) -> float:
    """How far log-probabilities lie apart; prompt and words must be the same."""
    ids, tokens, logprobs = expected
    got = list(out.prompt_token_ids)
    if stamped:  # which frame keeps how many is known only after encoding, so words between frames may be elsewhere
        assert sorted(got) == sorted(ids)
    else:
        assert got == ids
    assert list(out.outputs[0].token_ids) == tokens
    pairs = [(p.logprob, float(logprobs[i, t])) for i, d in enumerate(out.outputs[0].logprobs) for t, p in d.items()]
    return max(abs(a - b) for a, b in pairs)


def asks(family: str) -> dict[str, Ask]:
    image, video = MARKS[family]
    one, two, film = picture(300, 200, 0), picture(180, 260, 2), clip(8, 84, 4)
    return {
        "image": Ask(f"{image}{QUESTION}", [one]),
        "video": Ask(f"Look. {video}{QUESTION}", videos=[film]),
        "two": Ask(f"{image}, {image}And: {QUESTION}", [one, two]),
        "other": Ask(f"{image}Where was it taken, and when?", [one]),
        "both": Ask(f"{image} and {video}{QUESTION}", [two], [film]),
        "less": Ask(f"{image}{QUESTION}", [one], keep=0.2),
        "least": Ask(f"{video}{QUESTION}", videos=[film], keep=0.1),
        "slow": Ask(f"{video}Why?", videos=[clip(8, 84, 6)], keep=0.3, fps=0.1),  # time goes on longer than words do
        "text": Ask(QUESTION * 3),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_as_transformers(folder: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", str(int(family in APART)))
    reference, timed = Reference(folder), family != "llava_onevision"
    llm = engine(folder, PLANS[family])
    asked = asks(family)
    expected = {
        k: reference.answer(a, f"{PLANS[family]}(keep={a.keep or KEEP})" if a.images or a.videos else None)
        for k, a in asked.items()
    }
    far: dict[str, float] = {}
    for k, a in asked.items():
        (out,) = ask(llm, [a], timed)
        far[k] = apart(out, expected[k], family == "qwen3_vl" and bool(a.videos))
    again = [*asked] * 2
    cached = 0
    for out, k in zip(ask(llm, [asked[k] for k in again], timed), again):
        far[f"{k} again"] = apart(out, expected[k], family == "qwen3_vl" and bool(asked[k].videos))
        cached += out.num_cached_tokens or 0
    print(family, {k: f"{v:.1e}" for k, v in far.items()}, cached, "tokens of prompts were cached")
    assert max(far.values()) < NEAR
    assert cached > 100
    with pytest.raises(ValueError, match="must be in"):
        ask(llm, [replace(asked["image"], keep=1.5)], timed)


def test_without_a_plan_nothing_changes(tmp_path: Path) -> None:
    folder = make("qwen2_5_vl", tmp_path / "qwen2_5_vl")
    reference, llm = Reference(folder), engine(folder, None)
    asked = [a for k, a in asks("qwen2_5_vl").items() if k in ("image", "two", "text")]
    for out, a in zip(ask(llm, asked, True), asked):
        assert apart(out, reference.answer(a, None), False) < NEAR
    with pytest.raises(ValueError, match="runs without a plan"):
        ask(llm, [asks("qwen2_5_vl")["less"]], True)


@pytest.mark.parametrize(
    ("plan", "why"), [("visionzip", "visionzip needs cls_attention"), ("snapkv", "one method of stage inputs")]
)
def test_a_plan_that_cannot_run_is_refused_at_the_start(plan: str, why: str, tmp_path: Path) -> None:
    folder = make("qwen2_5_vl", tmp_path / "qwen2_5_vl")
    with pytest.raises(Exception, match=why):  # vLLM raises its own kind of error around ours
        engine(folder, plan)


def test_registering_twice_keeps_what_vllm_had() -> None:
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig

    from foveate.vllm import MODELS, register
    from foveate.vllm.configure import Configure, extended

    calls = []

    class Theirs(VerifyAndUpdateConfig):
        @staticmethod
        def verify_and_update_model_config(model_config: Any) -> None:
            calls.append(model_config)

    register()
    before = {name: MODELS_CONFIG_MAP[name] for name in MODELS}
    register()
    assert before == {name: MODELS_CONFIG_MAP[name] for name in MODELS}
    both = extended(Theirs)
    both.verify_and_update_model_config(SimpleNamespace(hf_config=None, multimodal_config=None))
    assert len(calls) == 1
    assert extended(both) is both
    assert extended(None) is Configure
