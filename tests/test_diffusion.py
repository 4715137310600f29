"""Masked-diffusion decoding: caches against their definition, rows alone, guidance, ends of texts, what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from foveate.diffusion import all_schedules, generate, read_with, schedule_of
from foveate.diffusion._schedule import Look
from foveate.diffusion.predict import choose
from foveate.errors import InputError, OptionError, PlanError, UnknownMethodError, UnsupportedCallError

V, MASK, EOS = 32, 31, 0


@pytest.fixture(scope="module")
def model() -> Any:
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=EOS,
        mask_token_id=MASK,
    )
    torch.manual_seed(3)
    made = LlamaForCausalLM(config).eval()
    for p in made.parameters():
        if p.ndim > 1:
            p.data.normal_(std=p.shape[-1] ** -0.5)
    made.model.embed_tokens.weight.data.mul_(3)
    made.lm_head.weight.data.mul_(3)
    return made


def prompts(rows: int = 2, n: int = 6) -> Tensor:
    return torch.randint(1, MASK, (rows, n), generator=torch.Generator().manual_seed(7))


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_decoder_is_read_to_both_sides(model: Any) -> None:
    ids = prompts()
    first = read_with(model).whole(ids, 0, 6)
    changed = ids.clone()
    changed[:, -1] = (ids[:, -1] + 1) % MASK
    second = read_with(model).whole(changed, 0, 6)
    assert (first[:, 0] - second[:, 0]).abs().max() > 1e-3  # the first position sees the last


def test_reading_parts_again_is_reading_the_whole_if_nothing_changed(model: Any) -> None:
    ids, reader = prompts(n=9), read_with(model)
    whole = reader.whole(ids, 0, 9, remember=True)
    at = torch.tensor([[2, 5, 7], [0, 1, 8]])
    part = reader.part(ids.gather(1, at), at)
    assert torch.allclose(part, whole.gather(1, at[..., None].expand(-1, -1, V)), atol=1e-5)


def test_a_part_over_stale_entries_is_attention_over_what_was_remembered() -> None:
    """One layer: keys and values of other positions depend on their tokens alone, so they cannot be stale."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=V, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    one, ids = LlamaForCausalLM(config).eval(), prompts(n=8)
    reader = read_with(one)
    reader.whole(ids, 0, 8, remember=True)
    new, at = ids.clone(), torch.tensor([[3, 4], [3, 4]])
    new[:, 3:5] = 9
    assert torch.allclose(reader.part(new[:, 3:5], at), read_with(one).whole(new, 3, 5), atol=1e-5)


class Shifted(nn.Module):
    """A model whose logits at a position are those another model gives for the next one."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config

    def forward(self, ids: Tensor) -> Tensor:
        return read_with(self.inner).whole(ids, 0, ids.shape[1]).roll(-1, 1)


def test_dreams_shift_is_undone(model: Any) -> None:
    plain = generate(model, prompts(), schedule="threshold", length=8, block=4)
    moved = generate(Shifted(model), prompts(), schedule="threshold", length=8, block=4, shift=True)
    assert torch.equal(plain.ids, moved.ids)


def test_a_shifted_model_reads_the_position_before_a_block_again(model: Any) -> None:
    reader, ids = read_with(model, shift=True), prompts(n=8)
    whole = reader.whole(ids, 4, 8, remember=True)
    at = torch.arange(4, 7).expand(2, -1)
    assert torch.allclose(reader.part(ids[:, 4:7], at), whole[:, :3], atol=1e-5)


# --- decoding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [None, "prefix", "dual"])
@pytest.mark.parametrize("name", ["lowconfidence", "threshold(confidence=0.3)", "factor(factor=2.0)", "dparallel"])
def test_no_mask_is_left_and_every_position_is_counted_once(model: Any, cache: str | None, name: str) -> None:
    out = generate(model, prompts(), schedule=name, length=12, block=5, cache=cache)
    assert not (out.ids == MASK).any()
    assert (out.filled[:, :6] == -1).all()
    assert (out.filled[:, 6:] >= 0).all()
    assert [b.size for b in out.report.blocks] == [5, 5, 2]
    assert sum(b.forwards for b in out.report.blocks) == out.report.forwards <= 12


@pytest.mark.parametrize("cache", [None, "prefix", "dual"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_rows_do_not_influence_each_other(model: Any, cache: str | None, temperature: float) -> None:
    ids = prompts(3)
    options: dict[str, Any] = {"schedule": "threshold(confidence=0.4)", "length": 10, "block": 5, "cache": cache}
    both = generate(model, ids, temperature=temperature, **options)
    alone = generate(model, ids[:1], temperature=temperature, **options)
    assert torch.equal(both.ids[:1], alone.ids)


def test_left_padding_changes_nothing(model: Any) -> None:
    ids = prompts(1)
    padded = torch.cat([torch.full((1, 3), 5), ids], 1)
    mask = torch.cat([torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 6, dtype=torch.int64)], 1)
    for cache in (None, "dual"):
        want = generate(model, ids, length=8, block=4, cache=cache).ids[:, 6:]
        got = generate(model, padded, length=8, block=4, cache=cache, attention_mask=mask).ids[:, 9:]
        assert torch.equal(want, got)


def test_a_seed_gives_one_text_and_another_seed_another(model: Any) -> None:
    def run(seed: int) -> Tensor:
        return generate(model, prompts(), length=8, block=8, temperature=1.0, seed=seed).ids

    state = torch.random.get_rng_state()
    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_gumbel_noise_draws_from_the_softmax() -> None:
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    n = 200_000
    noise = torch.rand(1, n, 4, generator=torch.Generator().manual_seed(0)).clamp(min=1e-9)
    tokens, _ = choose(p.log().expand(1, n, 4), False, 1.0, noise)
    counts = torch.bincount(tokens[0], minlength=4).float()
    assert float(((counts - n * p) ** 2 / (n * p)).sum()) < 16.3  # chi-square, 3 degrees, p = 0.001


def test_guidance_mixes_logits_with_those_of_a_blank_prompt(model: Any) -> None:
    ids = prompts(1)
    x = torch.nn.functional.pad(ids, (0, 4), value=MASK)
    blank = torch.full_like(x, MASK)
    given, none = read_with(model).whole(x, 6, 10), read_with(model).whole(blank, 6, 10)
    best = (none + 2.5 * (given - none)).argmax(-1)
    out = generate(model, ids, schedule="threshold(confidence=0.0)", length=4, block=4, guidance=1.5)
    assert torch.equal(out.ids[:, 6:], best)
    assert out.report.forwards == 1
    assert out.report.positions == 20


def test_a_dual_cache_reads_less(model: Any) -> None:
    sizes = {}
    for cache in (None, "prefix", "dual"):
        out = generate(model, prompts(), schedule="lowconfidence", length=16, block=4, cache=cache)
        assert out.report.forwards == 16
        sizes[cache] = out.report.positions
    assert sizes["dual"] < sizes["prefix"] < sizes[None]
    assert sizes["dual"] == 2 * (4 * 22 + 12 * 4)


class Table:
    """A model whose answer at each position is fixed: logits (L, V) for every row."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def __call__(self, ids: Tensor) -> Tensor:
        return self.logits[: ids.shape[1]].expand(len(ids), -1, -1)


def table(tokens: list[int], sure: float = 8.0) -> Table:
    return Table(torch.nn.functional.one_hot(torch.tensor(tokens), V).float() * sure)


def test_a_predicted_mask_is_never_the_end_of_it() -> None:
    logits = torch.zeros(6, V)
    logits[:, MASK], logits[:, 4] = 9.0, 3.0
    for name in ("lowconfidence", "threshold", "factor", "creditdecoding", "dparallel", "localleap"):
        out = generate(Table(logits), prompts(1, 2), schedule=name, length=4, block=4, mask_id=MASK)
        assert out.ids[0, 2:].tolist() == [4, 4, 4, 4]


def test_texts_end_after_a_complete_block() -> None:
    fixed = table([1, 1, 5, EOS, 6, 7, 8, 9])
    out = generate(fixed, prompts(1, 2), length=6, block=2, stop="block", mask_id=MASK, eos_id=EOS)
    assert out.ids[0, 2:].tolist() == [5, EOS, EOS, EOS, EOS, EOS]
    assert [b.size for b in out.report.blocks] == [2]


def test_texts_end_at_a_surely_predicted_end() -> None:
    fixed = table([1, 1, 5, 6, 7, EOS, 8, 9, 3, 3], sure=20.0)
    options: dict[str, Any] = {"schedule": "lowconfidence", "mask_id": MASK, "eos_id": EOS, "length": 8, "block": 2}
    whole = generate(fixed, prompts(2, 2), **options)
    cut = generate(fixed, prompts(2, 2), stop="text", **options)
    assert cut.ids[0, 2:].tolist() == [5, 6, 7, EOS, EOS, EOS, EOS, EOS]
    assert whole.report.forwards == 8
    assert cut.report.forwards == 2 * 4  # rows one after the other
    assert cut.report.positions == 2 * (10 + 3 * 6)


def test_a_text_may_end_inside_a_block_for_every_schedule(model: Any) -> None:
    logits = torch.zeros(10, V)
    logits[torch.arange(10), torch.tensor([1, 1, 5, 6, 7, EOS, 8, 9, 3, 3])] = torch.linspace(2, 3, 10)
    logits[5, EOS] = 9.0  # filled first, within the block
    for name in ("lowconfidence", "threshold", "factor", "creditdecoding", "dparallel", "localleap"):
        out = generate(
            Table(logits), prompts(1, 2), schedule=name, length=8, block=8, stop="text", mask_id=MASK, eos_id=EOS
        )
        assert out.ids[0, 2:].tolist() == [5, 6, 7, EOS, EOS, EOS, EOS, EOS]
        assert [b.size for b in out.report.blocks] == [4]
    for cache in ("prefix", "dual"):
        out = generate(model, prompts(1), length=8, block=4, stop="text", cache=cache, schedule="creditdecoding")
        assert not (out.ids == MASK).any()


# --- schedules --------------------------------------------------------------------------------------------------------


def look(confidence: list[float], masked: list[bool] | None = None) -> Look:
    c = torch.tensor([confidence], dtype=torch.float64)
    open_ = torch.ones_like(c, dtype=torch.bool) if masked is None else torch.tensor([masked])
    return Look(torch.zeros(1, len(confidence), V), torch.zeros_like(open_).long(), c, open_, 0, torch.tensor([1]))


def filled(name: str, seen: Look) -> list[int]:
    return schedule_of(name).fill(seen)[0].nonzero()[:, 0].tolist()  # type: ignore[attr-defined, no-any-return]


def test_what_each_rule_fills() -> None:
    seen = look([0.5, 0.95, 0.8, 0.2, 0.97], [True, True, True, True, False])
    assert filled("lowconfidence", seen) == [1]
    assert filled("threshold(confidence=0.8)", seen) == [1, 2]
    assert filled("threshold(confidence=1.0)", seen) == [1]
    assert filled("localleap(confidence=0.9, relaxed=0.4, radius=1)", seen) == [0, 1, 2]
    assert filled("factor(factor=0.7)", seen) == [1, 2]  # 3 * 0.2 < 0.7, 4 * 0.5 is not
    assert filled("factor(factor=1.9, variant='code')", seen) == [1, 2]
    assert filled("factor(factor=2.1)", seen) == [0, 1, 2]
    assert filled("factor(factor=2.1, variant='code')", seen) == [0, 1, 2, 3]  # only the last fails: all are filled


def test_credit_helps_a_steady_favourite() -> None:
    logits = torch.zeros(5, V)
    logits[:, 3] = 4.0
    one = prompts(1, 1)
    plain = generate(Table(logits), one, schedule="creditdecoding(alpha=0.0)", length=4, block=4, mask_id=MASK)
    fixed = torch.linspace(0, 1, 4)
    logits[1:, 3] += fixed  # no two positions are equally sure
    apart = generate(Table(logits), one, schedule="creditdecoding(alpha=0.0)", length=4, block=4, mask_id=MASK)
    credit = generate(Table(logits), one, schedule="creditdecoding(alpha=2.0)", length=4, block=4, mask_id=MASK)
    assert plain.report.forwards == 1  # equally sure within 1e-5
    assert credit.report.forwards < apart.report.forwards == 4


def test_adablock_ends_blocks_at_delimiters() -> None:
    fixed = table([1, 1, 5, 9, 6, 7, 9, 8, 5, 5])
    name = "adablock(delimiters=[9], share=1.0)"
    out = generate(fixed, prompts(2, 2), schedule=name, length=8, block=8, mask_id=MASK)
    assert [b.size for b in out.report.blocks] == [2, 3, 3, 2, 3, 3]  # of both rows, one after the other
    assert out.ids[1, 2:].tolist() == [5, 9, 6, 7, 9, 8, 5, 5]


def test_every_schedule_is_documented_and_refuses_bad_options() -> None:
    own = all_schedules()
    assert {"lowconfidence", "threshold", "factor", "localleap", "adablock", "creditdecoding"} <= set(own)
    for name, cls in own.items():
        assert cls.name == name
        assert cls.card.url.startswith("https://")
        for f in dataclasses.fields(cls):
            for bad in f.metadata["check"].bad():
                if bad is None and f.metadata["optional"]:
                    continue
                with pytest.raises(OptionError, match=f.name):
                    cls(**{f.name: bad})


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_is_refused_and_how_it_is_said(model: Any) -> None:
    ids = prompts()
    for given, error, words in (
        ({"schedule": "treshold"}, UnknownMethodError, "did you mean 'threshold'"),
        ({"schedule": "threshold(confidnce=1)"}, OptionError, "did you mean 'confidence'"),
        ({"schedule": "threshold + factor"}, PlanError, "one schedule"),
        ({"schedule": 3}, PlanError, "Got 3"),
        ({"schedule": "adablock"}, PlanError, "delimiters"),
        ({"schedule": "learn2pd"}, PlanError, "filter"),
        ({"length": 0}, InputError, "length"),
        ({"block": 2.5}, InputError, "block"),
        ({"cache": "all"}, InputError, "'all'"),
        ({"temperature": -1.0}, InputError, "-1"),
        ({"mask_id": int(ids[0, 0])}, InputError, "mask token"),
    ):
        with pytest.raises(error, match=words):
            generate(model, ids, **{"length": 4, "block": 4, **given})
    with pytest.raises(InputError, match="mask_id"):
        generate(table([1] * 8), ids)
    with pytest.raises(UnsupportedCallError, match="cache=None"):
        generate(table([1] * 12), ids, mask_id=MASK, length=4, block=2, cache="dual")
    with pytest.raises(InputError, match="eos_id"):
        generate(table([1] * 12), ids, mask_id=MASK, length=4, block=2, stop="block")
