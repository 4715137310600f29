"""Decoding with drafts: the acceptance rules, the drafters, and their place in generate."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from foveate import method, parse
from foveate.decode._drafter import Draft, Drafter, Outcome, Turn
from foveate.decode.prompt_lookup import PromptLookup, lookup
from foveate.decode.rsd import RSD
from foveate.decode.speculative import Speculative
from foveate.errors import InputError, OptionError, PlanError, UnsupportedCallError, UnsupportedModelError
from foveate.parts.verify import accept, accept_greedy, draw
from foveate.report import Report
from foveate.sites.decode import place
from foveate.sites.steps import check_rewinds
from foveate.testing import tiny

GREEDY = {"max_new_tokens": 30, "do_sample": False}
LANGUAGE = ("llama", "qwen2", "qwen3", "gemma3_text")
VISION = ("llava", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "gemma3")


@contextlib.contextmanager
def placed(model: Any, drafting: Any) -> Iterator[Report]:
    """The decode site alone, which drafts at every step whatever that costs."""
    with contextlib.ExitStack() as stack:
        report = Report()
        place(model, drafting, stack, report, paced=False)
        yield report


@method(title="Echo", url="", needs=())
class Echo:
    """The smallest drafter: the last token repeats. All of a drafter that a third party has to write."""

    def begin(self, turn: Turn) -> Drafter:
        return self

    def draft(self, ids: Tensor, limit: int) -> Draft:
        return Draft(ids[:, -1:].repeat(1, min(3, limit)))

    def learn(self, outcome: Outcome) -> None:
        assert outcome.read.shape == outcome.logits.shape[:2]


def drafters(zoo: Any, name: str) -> list[Any]:
    """Drafters that are often right, always right, and wrong."""
    return [
        PromptLookup(ngram=2, tokens=4),
        Speculative(draft=zoo.model, tokens=4),
        Speculative(draft=nearly(name), tokens=3, adaptive=True),
        Echo(),
    ]


def nearly(name: str, noise: float = 0.3) -> Any:
    """The tiny model with a disturbed head: right now and then."""
    model = tiny(name).model
    weight = model.get_output_embeddings().weight
    with torch.no_grad():
        weight += noise * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return model


# --- acceptance ------------------------------------------------------------------------------------------------------


def test_greedy_keeps_the_longest_agreeing_prefix() -> None:
    best = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 8], [5, 6, 7, 8], [5, 6, 7, 8]])
    drafted = torch.tensor([[5, 6, 7], [5, 0, 7], [0, 6, 7], [5, -1, -1]])
    verdict = accept_greedy(best, drafted)
    assert verdict.accepted.tolist() == [3, 1, 0, 1]
    assert verdict.tokens.tolist() == [[5, 6, 7, 8], [5, 6, -1, -1], [5, -1, -1, -1], [5, 6, -1, -1]]


@pytest.mark.parametrize("gamma", [1, 2, 3])
@pytest.mark.parametrize("certain", [False, True])
def test_sampling_keeps_the_distribution_exactly(gamma: int, certain: bool) -> None:
    """Sum over every draft and every number accepted: what comes out is the target's distribution."""
    torch.manual_seed(0)
    v = 3
    p = torch.randn(gamma + 1, v).softmax(-1).double()  # the same whatever was said before
    q = torch.eye(v).double()[[0, 2, 1][:gamma]] if certain else torch.randn(gamma, v).softmax(-1).double()
    said = torch.zeros(v**gamma, dtype=torch.float64)  # the first gamma tokens said, later ones drawn from p
    for draft in itertools.product(range(v), repeat=gamma):
        chance = torch.stack([q[i, x] for i, x in enumerate(draft)]).prod()
        if chance == 0:
            continue
        ratio = torch.stack([(p[i, x] / q[i, x]).clamp(max=1) for i, x in enumerate(draft)])
        for n in range(gamma + 1):
            uniform = torch.tensor([[0.0] * n + [1 - 1e-12] * (gamma - n)], dtype=torch.float64)
            verdict = accept(p[None], torch.tensor([draft]), uniform, torch.zeros(1), None if certain else q[None])
            this = chance * ratio[:n].prod() * (1 - ratio[n] if n < gamma else 1)
            if verdict.accepted.item() != n:
                assert this < 1e-9
                continue
            assert verdict.probs is not None
            for tail in itertools.product(range(v), repeat=gamma - n):
                own = verdict.probs[0, tail[0]] if tail else 1
                rest = torch.stack([p[n + 1 + i, x] for i, x in enumerate(tail[1:])]).prod() if tail[1:] else 1
                index = sum(x * v ** (gamma - 1 - i) for i, x in enumerate((*draft[:n], *tail)))
                said[index] += this * own * rest
    want = torch.stack(
        [torch.stack([p[i, x] for i, x in enumerate(t)]).prod() for t in itertools.product(range(v), repeat=gamma)]
    )
    assert torch.allclose(said, want, atol=1e-9)


def test_sampling_is_one_draw_from_the_target_for_each_row() -> None:
    """Monte Carlo over rows: the joint of two tokens, with a draft far from the target."""
    torch.manual_seed(3)
    rows, v = 60_000, 4
    p, q = torch.randn(3, v).softmax(-1), torch.randn(2, v).softmax(-1)
    drafted = torch.stack([draw(q[i].expand(rows, v), torch.rand(rows)) for i in range(2)], 1)
    uniform = torch.rand(rows, 3)
    verdict = accept(p.expand(rows, 3, v), drafted, uniform[:, :2], uniform[:, 2], q.expand(rows, 2, v))
    second = torch.where(verdict.accepted > 0, verdict.tokens[:, 1], draw(p[1].expand(rows, v), torch.rand(rows)))
    seen = torch.bincount(verdict.tokens[:, 0] * v + second, minlength=v * v)
    assert chi_square(seen, (p[0][:, None] * p[1]).flatten() * rows) < 44.3  # 15 degrees of freedom, 1 in 10,000


def chi_square(seen: Tensor, want: Tensor) -> float:
    return float(((seen - want) ** 2 / want).sum())


def test_acceptance_at_the_edges() -> None:
    half = torch.tensor([[[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]])
    one = torch.zeros(1, 1)
    # nothing left out (p = q) although the ratio was missed: the target's own distribution
    same = accept(half, torch.tensor([[0]]), one + 1.1, one[0], half[:, :1])
    assert same.accepted.item() == 0
    assert torch.equal(same.probs, half[:, 0])
    # a token the draft gave no chance: accepted if the target gives it one, else rejected
    q = torch.tensor([[[0.0, 1.0, 0.0]]])
    assert accept(half, torch.tensor([[0]]), one + 0.9, one[0], q).accepted.item() == 1
    assert accept(half, torch.tensor([[2]]), one, one[0], q).accepted.item() == 0
    # a token the target forbids never stays, not even with a uniform of 0
    assert accept(half, torch.tensor([[2]]), one, one[0]).accepted.item() == 0
    # no guess, and no draft at all
    for drafted in (torch.tensor([[-1]]), torch.zeros(1, 0, dtype=torch.long)):
        got = accept(half[:, : drafted.shape[1] + 1], drafted, one[:, : drafted.shape[1]], one[0] + 0.7)
        assert got.tokens[0, 0].item() == 1
        assert torch.equal(got.probs, half[:, 0])
    # against the mixture more stays: ratio 1 - w + w p / q
    q = torch.tensor([[[1.0, 0.0, 0.0]]])
    assert accept(half, torch.tensor([[0]]), one + 0.7, one[0], q).accepted.item() == 0
    assert accept(half, torch.tensor([[0]]), one + 0.7, one[0], q, weight=0.5).accepted.item() == 1


def test_draw_never_takes_an_impossible_token() -> None:
    probs = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0])
    uniform = torch.tensor([0.0, 0.2499, 0.25, 0.5, 1 - 2**-24])
    assert draw(probs.expand(5, 5), uniform).tolist() == [1, 1, 3, 3, 3]


# --- drafters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ngram", "want"),
    [
        ([1, 2, 3, 4, 1, 2], 2, [3, 4, 1, 2]),  # and on into itself
        ([7, 2, 8, 1, 2, 9, 5, 1, 2], 2, [9, 5, 1, 2]),  # the longest match wins
        ([1, 2, 8, 1, 2, 9, 5, 1, 2], 2, [9, 5, 1, 2]),  # then the latest
        ([7, 2, 8, 1, 2, 9, 5, 3, 2], 3, [9, 5, 3, 2]),  # a shorter one if need be
        ([4, 4, 4], 3, [4, 4, 4, 4]),
        ([1, 2, 3], 3, [-1, -1, -1, -1]),
        ([1], 3, [-1, -1, -1, -1]),
    ],
)
def test_lookup(text: list[int], ngram: int, want: list[int]) -> None:
    assert lookup(torch.tensor([text]), ngram, 4).tolist() == [want]


def test_lookup_agrees_with_a_plain_search() -> None:
    ids = torch.randint(0, 4, (32, 24), generator=torch.Generator().manual_seed(0))
    for row, got in zip(ids.tolist(), lookup(ids, 3, 5).tolist()):
        ends = [e for g in (3, 2, 1) for e in range(len(row) - 1, g - 1, -1) if row[e - g : e] == row[-g:]]
        start = ends[0]
        for i in range(5):
            row.append(row[start + i])
        assert got == row[-5:]


def test_options() -> None:
    assert str(PromptLookup(tokens=4)) == "prompt_lookup(tokens=4)"
    assert parse("speculative(draft='some/path', tokens=3)") == [Speculative(draft="some/path", tokens=3)]
    model = tiny("llama").model
    assert str(Speculative(draft=model)) == "speculative(draft=<loaded LlamaForCausalLM>)"
    assert Speculative(draft=model) == Speculative(draft=model) != Speculative(draft=tiny("llama").model)
    for wrong in ({"draft": 3}, {"draft": ""}, {"tokens": 0}, {"weight": 0.0}, {"adaptive": 1}):
        with pytest.raises(OptionError, match=f"'{next(iter(wrong))}' of speculative"):
            Speculative(**wrong)


# --- greedy identity -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LANGUAGE + VISION)
@pytest.mark.parametrize("ragged", [False, True])
def test_greedy_output_is_token_identical(name: str, ragged: bool) -> None:
    zoo = tiny(name, ragged=ragged)
    plain = zoo.model.generate(**zoo.inputs, **GREEDY)
    for drafting in drafters(zoo, name):
        with placed(zoo.model, drafting) as report:
            assert torch.equal(zoo.model.generate(**zoo.inputs, **GREEDY), plain), str(drafting)
        assert report.decode["tokens"] == len(plain) * GREEDY["max_new_tokens"]


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_greedy_output_is_token_identical_on_video_and_several_images(name: str) -> None:
    for more in ({"video": True}, {"images": 2}):
        zoo = tiny(name, **more)
        plain = zoo.model.generate(**zoo.inputs, **GREEDY)
        for drafting in drafters(zoo, name)[:2]:
            with placed(zoo.model, drafting):
                assert torch.equal(zoo.model.generate(**zoo.inputs, **GREEDY), plain), (more, str(drafting))


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_processors_see_what_they_would_have_seen(attn: str) -> None:
    zoo = tiny("qwen2", attn=attn)
    settings = GREEDY | {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "min_new_tokens": 5}
    plain = zoo.model.generate(**zoo.inputs, **settings)
    for drafting in drafters(zoo, "qwen2"):
        with placed(zoo.model, drafting):
            assert torch.equal(zoo.model.generate(**zoo.inputs, **settings), plain), str(drafting)


def test_bfloat16_and_embeddings_as_input() -> None:
    zoo = tiny("llama", dtype=torch.bfloat16)
    embeds = zoo.model.get_input_embeddings()(zoo.inputs["input_ids"])
    plain = zoo.model.generate(inputs_embeds=embeds, **GREEDY)
    with placed(zoo.model, PromptLookup()):
        out = zoo.model.generate(inputs_embeds=embeds, **GREEDY)
    assert out.shape == plain.shape
    with placed(zoo.model, Speculative(draft=zoo.model)), pytest.raises(InputError, match="input_ids"):
        zoo.model.generate(inputs_embeds=embeds, **GREEDY)


# --- what drafts are worth -------------------------------------------------------------------------------------------


def test_a_draft_model_equal_to_the_target_is_always_accepted() -> None:
    zoo = tiny("llama")
    with placed(zoo.model, Speculative(draft=tiny("llama").model, tokens=4)) as report:
        zoo.model.generate(**zoo.inputs, max_new_tokens=26, do_sample=False)
    assert report.decode["accepted"] == report.decode["drafted"] == 20
    assert report.decode["target_forwards"] == 5
    assert report.decode["accepted_length"] == 5.0
    assert report.decode["tokens_per_s"] > 0
    assert "5.00 tokens a forward" in report.rows[0].note
    assert report.rows[0].stage == "decode"


def test_prompt_lookup_follows_a_text_that_repeats() -> None:
    zoo = tiny("gemma3_text")  # its greedy output soon runs in a circle
    with placed(zoo.model, PromptLookup()) as report:
        zoo.model.generate(**zoo.inputs, max_new_tokens=60, do_sample=False)
    assert report.decode["accepted_length"] > 2
    assert report.decode["target_forwards"] < 30


def test_adaptive_drafts_grow_while_they_stay() -> None:
    zoo = tiny("llama")
    forwards = []
    for adaptive in (False, True):
        with placed(zoo.model, Speculative(draft=zoo.model, tokens=2, adaptive=adaptive)) as report:
            zoo.model.generate(**zoo.inputs, **GREEDY)
        forwards.append(report.decode["target_forwards"])
    assert forwards[1] < forwards[0]


def test_totals_run_over_the_calls_of_a_block() -> None:
    zoo = tiny("llama")
    with placed(zoo.model, PromptLookup()) as report:
        zoo.model.generate(**zoo.inputs, **GREEDY)
        once = dict(report.decode)
        zoo.model.generate(**zoo.inputs, **GREEDY)
    assert report.decode["tokens"] == 2 * once["tokens"]
    assert report.decode["target_forwards"] == 2 * once["target_forwards"]


# --- sampling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3])
def test_sampled_text_has_the_targets_distribution(rows: int) -> None:
    """Four tokens out of the two most likely each: 16 outcomes against their exact probabilities."""
    target, draft = talker(0.0), talker(0.05)
    ids, calls = torch.tensor([[1, 5, 2, 5, 3]]), 300 // rows
    settings = {"do_sample": True, "top_k": 2, "temperature": 1.5, "max_new_tokens": 4, "num_return_sequences": rows}
    want = exact_distribution(target, ids, 2, 1.5)
    torch.manual_seed(0)
    trees = RSD(draft=draft, branches=(2, 1))
    for drafting in (Speculative(draft=draft, tokens=2), PromptLookup(ngram=1, tokens=2), trees):
        seen = dict.fromkeys(want, 0)
        with placed(target, drafting) as report:
            for _ in range(calls):
                for row in target.generate(ids, attention_mask=torch.ones_like(ids), **settings)[:, 5:].tolist():
                    seen[tuple(row)] += 1
        assert 0.01 < report.decode["accepted"] / report.decode["drafted"] < 0.95
        n = calls * rows
        stat = chi_square(torch.tensor([seen[k] for k in want]), torch.tensor([want[k] * n for k in want]))
        assert stat < 44.3, str(drafting)  # 15 degrees of freedom, 1 in 10,000


def talker(noise: float) -> Any:
    """A model of 8 words and one layer; noise disturbs its weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"vocab_size": 8, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2, bos_token_id=0, eos_token_id=None)).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data = torch.randn(parameter.shape) / 4
                parameter.data += noise * torch.randn(parameter.shape) / 4 if noise else 0
    model.generation_config.update(pad_token_id=0, eos_token_id=None)
    return model


def exact_distribution(model: Any, ids: Tensor, k: int, temperature: float) -> dict[tuple[int, ...], float]:
    out = {(): 1.0}
    for _ in range(4):
        grown = {}
        for said, chance in out.items():
            text = torch.cat([ids, torch.tensor([said], dtype=torch.long)], 1)
            with torch.no_grad():
                top = (model(text).logits[0, -1] / temperature).topk(k)
            for token, p in zip(top.indices.tolist(), top.values.softmax(-1).tolist()):
                grown[(*said, token)] = chance * p
        out = grown
    return out


def test_sampling_follows_the_seed() -> None:
    zoo = tiny("qwen2_5_vl", ragged=True)
    with placed(zoo.model, Speculative(draft=nearly("qwen2_5_vl"))):
        outs = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            outs.append(zoo.model.generate(**zoo.inputs, max_new_tokens=12, do_sample=True))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


# --- stopping, streaming, results, turns -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "qwen2_5_vl", "gemma3"])
@pytest.mark.parametrize("at", [0, 1, 4, 11])
def test_end_of_text_inside_a_draft(name: str, at: int) -> None:
    zoo = tiny(name, ragged=True)
    free = zoo.model.generate(**zoo.inputs, **GREEDY)
    n = zoo.inputs["input_ids"].shape[1]
    settings = GREEDY | {"eos_token_id": [int(free[0, n + at]), int(free[1, n + 3])]}
    for cut in (slice(None), slice(0, 1)):
        inputs = zoo.inputs if cut == slice(None) else tiny(name).inputs
        plain = zoo.model.generate(**inputs, **settings)
        for drafting in drafters(zoo, name):
            with placed(zoo.model, drafting):
                assert torch.equal(zoo.model.generate(**inputs, **settings), plain), str(drafting)


def test_stopping_criteria_are_asked_after_every_token() -> None:
    zoo = tiny("llama")
    n = zoo.inputs["input_ids"].shape[1]
    lengths: list[int] = []

    def stop(ids: Tensor, scores: Any, **_: Any) -> Tensor:
        lengths.append(ids.shape[1] - n)
        return torch.full((len(ids),), ids.shape[1] - n >= 8)

    with placed(zoo.model, Speculative(draft=zoo.model, tokens=5)):
        out = zoo.model.generate(**zoo.inputs, **GREEDY, stopping_criteria=[stop])
    assert lengths == list(range(1, 9))
    assert torch.equal(out, zoo.model.generate(**zoo.inputs, max_new_tokens=8, do_sample=False))


def test_stop_strings() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    zoo = tiny("llama")
    words = Tokenizer(models.WordLevel({"abcdef": 0} | {f"w{i}.": i for i in range(1, 128)}, unk_token="abcdef"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    free = zoo.model.generate(**zoo.inputs, **GREEDY)
    n = zoo.inputs["input_ids"].shape[1]
    settings = GREEDY | {"stop_strings": [f"w{int(free[0, n + 7])}."], "tokenizer": tokenizer}
    plain = zoo.model.generate(**zoo.inputs, **settings)
    with placed(zoo.model, Speculative(draft=zoo.model)):
        assert torch.equal(zoo.model.generate(**zoo.inputs, **settings), plain)


class Listener:
    """A streamer that remembers."""

    def __init__(self) -> None:
        self.heard: list[list[int]] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.heard.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended = True


def test_a_streamer_hears_the_same() -> None:
    zoo = tiny("llama")
    ears = Listener(), Listener()
    zoo.model.generate(**zoo.inputs, **GREEDY, streamer=ears[0])
    with placed(zoo.model, Speculative(draft=zoo.model)):
        zoo.model.generate(**zoo.inputs, **GREEDY, streamer=ears[1])
    assert ears[0].heard == ears[1].heard
    assert ears[1].ended


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "qwen2_5_vl"])
def test_results_and_cache_are_those_of_a_plain_call(name: str) -> None:
    zoo = tiny(name, ragged=True)
    settings = GREEDY | {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    eos = int(zoo.model.generate(**zoo.inputs, **GREEDY)[0, -25])
    settings |= {"eos_token_id": eos}
    plain = zoo.model.generate(**zoo.inputs, **settings)
    for drafting in drafters(zoo, name):
        with placed(zoo.model, drafting):
            out = zoo.model.generate(**zoo.inputs, **settings)
        assert torch.equal(out.sequences, plain.sequences)
        for mine, theirs in ((out.scores, plain.scores), (out.logits, plain.logits)):
            assert len(mine) == len(theirs)
            assert torch.allclose(torch.stack(mine), torch.stack(theirs), atol=1e-4)
        for mine, theirs in zip(out.past_key_values.layers, plain.past_key_values.layers):
            assert mine.get_seq_length() == theirs.get_seq_length()
            assert torch.allclose(mine.keys, theirs.keys, atol=1e-4)
            assert not getattr(mine, "record_past", False)


@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_several_turns_on_one_cache(name: str) -> None:
    zoo = tiny(name)
    talks = []
    for drafting in (None, *drafters(zoo, name)):
        with placed(zoo.model, drafting) if drafting else contextlib.nullcontext():
            ids, cache = zoo.inputs["input_ids"], None
            for turn in range(3):
                more = {"past_key_values": cache} if cache is not None else {}
                out = zoo.model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), **GREEDY, **more, return_dict_in_generate=True
                )
                cache = out.past_key_values
                ids = torch.cat([out.sequences, zoo.inputs["input_ids"][:, turn : turn + 5]], 1)
        talks.append(ids)
    assert all(torch.equal(t, talks[0]) for t in talks)


# --- in and out of the model -----------------------------------------------------------------------------------------


def test_the_model_is_left_as_it_was() -> None:
    zoo = tiny("llama")
    before, hooks = dict(vars(zoo.model)), len(zoo.model._forward_hooks)
    with placed(zoo.model, PromptLookup()):
        assert "generate" in vars(zoo.model)
        zoo.model.generate(**zoo.inputs, **GREEDY)
    assert vars(zoo.model) == before
    assert len(zoo.model._forward_hooks) == hooks
    with pytest.raises(RuntimeError, match="mine"), placed(zoo.model, PromptLookup()):
        raise RuntimeError("mine")
    assert vars(zoo.model) == before


def test_an_own_generate_of_the_instance_is_restored() -> None:
    zoo = tiny("llama")
    calls = []

    def own(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return type(zoo.model).generate(zoo.model, *args, **kwargs)

    zoo.model.generate = own
    with placed(zoo.model, PromptLookup()):
        zoo.model.generate(**zoo.inputs, **GREEDY)
    assert calls == [1]
    assert zoo.model.generate is own


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_beams": 2}, "num_beams=2"),
        ({"use_cache": False}, "use_cache=False"),
        ({"cache_implementation": "static"}, "static"),
        ({"output_attentions": True, "return_dict_in_generate": True}, "output_attentions"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens"),
        ({"assistant_model": object()}, "assistant_model"),
        ({"custom_generate": len}, "custom_generate"),
        ({"guidance_scale": 1.5}, "guidance_scale"),
    ],
)
def test_calls_that_cannot_be_served_are_refused(settings: dict[str, Any], words: str) -> None:
    zoo = tiny("llama")
    with placed(zoo.model, PromptLookup()), pytest.raises(UnsupportedCallError, match=words):
        zoo.model.generate(**zoo.inputs, **(GREEDY | settings))
    assert "generate" not in vars(zoo.model)


def test_draft_models_that_cannot_serve_are_refused_before_anything_runs() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = tiny("llama").model
    small = LlamaConfig(vocab_size=64, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    for drafting, error, words in (
        (Speculative(), PlanError, "needs a draft model"),
        (Speculative(draft="/nowhere/at/all"), PlanError, "could not load its draft model '/nowhere/at/all'"),
        (Speculative(draft=LlamaForCausalLM(small)), UnsupportedModelError, "64 tokens, LlamaForCausalLM 128"),
    ):
        with pytest.raises(error, match=words), placed(model, drafting):
            pass
        assert "generate" not in vars(model)
    with pytest.raises(UnsupportedModelError, match="decoder-only"), placed(tiny("vit").model, PromptLookup()):
        pass


def test_a_draft_model_is_loaded_from_a_path(tmp_path: Any) -> None:
    zoo = tiny("qwen2")
    zoo.model.save_pretrained(tmp_path)
    with placed(zoo.model, parse(f"speculative(draft={str(tmp_path)!r}, tokens=4)")[0]) as report:
        out = zoo.model.generate(**zoo.inputs, max_new_tokens=11, do_sample=False)
    assert report.decode["accepted"] == 8
    assert torch.equal(out, zoo.model.generate(**zoo.inputs, max_new_tokens=11, do_sample=False))


def test_a_text_model_drafts_for_a_vision_model() -> None:
    zoo = tiny("llava")
    plain = zoo.model.generate(**zoo.inputs, **GREEDY)
    with placed(zoo.model, Speculative(draft=tiny("llama").model)):
        assert torch.equal(zoo.model.generate(**zoo.inputs, **GREEDY), plain)


def test_caches_that_cannot_step_back_are_refused() -> None:
    class Layer:
        is_croppable = False

    class Window:
        is_croppable, is_sliding = True, True

    class Cache:
        def __init__(self, layer: Any) -> None:
            self.layers = [layer]

    for layer in (Layer(), Window()):
        with pytest.raises(UnsupportedCallError, match=type(layer).__name__):
            check_rewinds(tiny("llama").model, Cache(layer))


def test_it_decodes_on_caches_that_hold_less_than_they_saw() -> None:
    """Together with methods of other stages: drafts change nothing about what they decide."""
    from foveate.apply import apply

    for name, plan in (
        ("qwen2_5_vl", "divprune(keep=0.5) + snapkv(keep=0.5, window=8)"),
        ("llama", "snapkv(keep=0.5)"),
    ):
        zoo = tiny(name, ragged=True)
        with apply(zoo.model, plan):
            plain = zoo.model.generate(**zoo.inputs, **GREEDY)
        for drafting in drafters(zoo, name)[:2]:
            with apply(zoo.model, [plan, drafting]):
                assert torch.equal(zoo.model.generate(**zoo.inputs, **GREEDY), plain), (name, str(drafting))
