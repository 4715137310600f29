"""Samplers and search: against exhaustive search and plain loops, inside ``model.generate``, and what they refuse."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate
import talkers
from foveate.errors import InputError, OptionError, UnsupportedCallError
from foveate.sampling import (
    CaptionGuidance,
    DiverseBeam,
    FirstFinish,
    NGrams,
    TopH,
    exact_extract,
    first_finish,
    superpose,
)
from foveate.sampling.exact_extract import search
from foveate.testing.tiny import tiny

V, EOS = 24, 1


@pytest.fixture(scope="module")
def model() -> Any:
    return talkers.llama(V, eos_token_id=EOS, pad_token_id=0)


def prompts(rows: int = 2, n: int = 5) -> Tensor:
    return talkers.prompts(2, V, rows, n)


# --- top-H ------------------------------------------------------------------------------------------------------------


def entropy(p: Tensor) -> float:
    return float(-(p * p.log()).sum())


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.8, 1.0])
def test_what_top_h_keeps_has_bounded_entropy_and_one_token_more_has_not(alpha: float) -> None:
    logits = 2 * torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    kept = TopH(alpha).kept(logits)
    for row, keep in zip(logits.softmax(-1), kept):
        n, ranked = int(keep.sum()), row.sort(descending=True).values
        assert float(row[keep].min()) >= float(row[~keep].max()) if n < 40 else True
        inside = ranked[:n] / ranked[:n].sum()
        assert n == 1 or entropy(inside) <= alpha * entropy(row) + 1e-5
        if n < 40:
            more = ranked[: n + 1] / ranked[: n + 1].sum()
            assert entropy(more) > alpha * entropy(row) - 1e-5


def test_top_h_is_transformers_rule_when_asked() -> None:
    from transformers import TopHLogitsWarper

    logits = 3 * torch.randn(5, 150, generator=torch.Generator().manual_seed(1))
    for alpha in (0.3, 0.6):
        want = TopHLogitsWarper(alpha)(torch.empty(0), logits)
        assert torch.equal(TopH(alpha, variant="transformers")(torch.empty(0), logits), want)


def test_top_h_in_generate(model: Any) -> None:
    greedy = model.generate(prompts(), max_new_tokens=6, do_sample=False)
    narrow = model.generate(prompts(), max_new_tokens=6, do_sample=True, logits_processor=[TopH(1e-6)])
    assert torch.equal(greedy, narrow)
    for bad in ({"alpha": 0.0}, {"top_n": 0}, {"temperature": 0.0}, {"variant": "mine"}):
        with pytest.raises(OptionError):
            TopH(**bad)


# --- beams ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("early", [False, True])
def test_one_group_is_transformers_beam_search(model: Any, early: bool) -> None:
    options = {"max_new_tokens": 7, "num_beams": 4, "num_return_sequences": 3, "do_sample": False}
    want = model.generate(prompts(3), early_stopping=early, **options)
    loop = DiverseBeam(beams=4, groups=1, penalty=0.0, returned=3, early=early)
    got = model.generate(prompts(3), max_new_tokens=7, custom_generate=loop, pad_token_id=EOS)
    n = min(want.shape[1], got.shape[1])
    assert torch.equal(got[:, :n], want[:, :n])
    assert (want[:, n:] == EOS).all()
    assert (got[:, n:] == EOS).all()


def test_a_penalty_makes_groups_differ_at_their_first_token(model: Any) -> None:
    plain = model.generate(prompts(1), max_new_tokens=4, custom_generate=DiverseBeam(3, 3, 0.0, 3))
    apart = model.generate(prompts(1), max_new_tokens=4, custom_generate=DiverseBeam(3, 3, 50.0, 3))
    assert len(set(plain[:, 5].tolist())) == 1
    assert len(set(apart[:, 5].tolist())) == 3


def test_beams_see_the_image() -> None:
    zoo = tiny("llava", batch=2)
    loop = DiverseBeam(beams=2, groups=2, penalty=0.0, returned=1)
    got = zoo.model.generate(**zoo.inputs, max_new_tokens=4, custom_generate=loop)
    want = zoo.model.generate(**zoo.inputs, max_new_tokens=4, do_sample=False)
    n = min(got.shape[1], want.shape[1])
    assert torch.equal(got[:, :n], want[:, :n])


def test_what_beams_refuse(model: Any) -> None:
    for bad in ({"groups": 4}, {"penalty": -1.0}, {"returned": 9}, {"early": "soon"}):
        with pytest.raises(OptionError):
            DiverseBeam(**bad)
    with pytest.raises(UnsupportedCallError, match="MaxTimeCriteria"):
        model.generate(prompts(), max_new_tokens=3, max_time=9.0, custom_generate=DiverseBeam())


# --- first finish -----------------------------------------------------------------------------------------------------


def test_all_samples_of_a_prompt_stop_with_the_first() -> None:
    stop = FirstFinish(2, 3, [EOS])
    ids = torch.tensor([[EOS, 5, 5, 7, 7], [5, 5, 5, 7, EOS], [5, 5, 5, 7, 7], [5, 5, 5, 8, 8]])
    assert stop(ids, None).tolist() == [True, True, False, False]


def test_the_first_finished_answer_is_the_shortest(model: Any) -> None:
    state = torch.random.get_rng_state()
    out = first_finish(model, prompts(3), samples=6, seed=4, max_new_tokens=20)
    assert torch.equal(torch.random.get_rng_state(), state)
    again = first_finish(model, prompts(3), samples=6, seed=4, max_new_tokens=20)
    assert torch.equal(out.ids, again.ids)
    for row, n, finished in zip(out.ids, out.lengths.tolist(), out.finished.tolist()):
        new = row[5:]
        assert finished == bool((new[:n] == EOS).any())
        if finished:
            assert (new[: n - 1] != EOS).all()
            assert (new[n - 1 :] == EOS).all()
    assert out.finished.any()
    assert out.spent <= 3 * 6 * 20


# --- exact-extract ----------------------------------------------------------------------------------------------------


def test_the_span_is_the_best_of_all_spans(model: Any) -> None:
    ids, passage = prompts(1), [3, 4, 3, 5, 3, 4, 6]

    def total(span: tuple[int, ...]) -> float:
        whole = torch.cat([ids, torch.tensor([[*span, EOS]])], 1)
        log_p = model(whole).logits[0].log_softmax(-1)
        return sum(float(log_p[4 + i, t]) for i, t in enumerate([*span, EOS]))

    with torch.no_grad():
        spans = {tuple(passage[i:j]) for i, j in itertools.combinations(range(8), 2) if j - i <= 4}
        best = max(spans, key=total)
        for batch in (1, 16):
            out = exact_extract(model, ids, passage, longest=4, batch=batch)
            assert out.ids == best
            assert out.score == pytest.approx(total(best), abs=1e-4)
            assert tuple(passage[out.start : out.start + len(best)]) == best


def test_the_search_does_not_ask_for_what_cannot_win() -> None:
    asked: list[tuple[int, ...]] = []

    def score(spans: Any) -> Tensor:
        asked.extend(spans)
        p = torch.full((len(spans), 8), 1e-6)
        for i, span in enumerate(spans):
            p[i, 3 if not span else 0] = 0.99  # says 3, then ends
        return p.log()

    out = search(score, [5, 3, 4, 6, 7], [0], 5, batch=1)
    assert (out.ids, out.start, out.forwards) == ((3,), 1, 2)
    assert len(asked) == 2
    with pytest.raises(InputError, match="passage"):
        search(score, [], [0], 5)


# --- superposed decoding ----------------------------------------------------------------------------------------------


def test_one_draft_is_greedy_decoding(model: Any) -> None:
    want = model.generate(prompts(2), max_new_tokens=8, do_sample=False, eos_token_id=None)
    out = superpose(model, prompts(2), drafts=1, length=8, eos_id=-1)
    assert torch.equal(out.ids[:, 0], want)
    assert out.forwards == 8


def test_ngrams_choose_among_what_the_model_allows(model: Any) -> None:
    ids = prompts(1)
    best = model(ids).logits[0, -1].topk(4).indices.tolist()
    liked = NGrams([[int(ids[0, -1]), best[3]]], [1], [1.0])
    out = superpose(model, ids, drafts=1, length=1, ngrams=liked, alpha=0.9, top=4, eos_id=-1)
    assert out.ids[0, 0, -1] == best[3]


def test_shorter_prompts_are_read_while_longer_ones_wait(model: Any) -> None:
    """A row whose prompt is the longer one has fed its own tokens until then, so it is as if it were alone."""
    long, short = prompts(1, 6), prompts(1, 4)
    both = torch.cat([long, torch.nn.functional.pad(short, (0, 2), value=-1)])
    out = superpose(model, both, drafts=2, length=5, eos_id=-1)
    alone = superpose(model, long, drafts=2, length=5, eos_id=-1)
    assert torch.equal(out.ids[:1], alone.ids)
    assert out.forwards == 7
    assert (out.ids[1, :, :4] == short).all()


def test_finished_drafts_are_kept(model: Any) -> None:
    out = superpose(model, prompts(2), drafts=3, length=12, eos_id=EOS)
    for row, scores in zip(out.finished.tolist(), out.finished_scores.tolist()):
        for text, score in zip(row, scores):
            assert (EOS in text[5:]) == (score > -1e8)
            assert (text[0] == -2) == (score == -1e9)
    with pytest.raises(InputError, match="above 0"):
        superpose(model, prompts(1), drafts=0)


# --- guidance ---------------------------------------------------------------------------------------------------------


def by_hand(model: Any, given: Tensor, blank: Tensor, scale: float, n: int) -> Tensor:
    for _ in range(n):
        said, empty = (model(x).logits[:, -1].log_softmax(-1) for x in (given, blank))
        token = (empty + scale * (said - empty)).argmax(-1, keepdim=True)
        given, blank = torch.cat([given, token], 1), torch.cat([blank, token], 1)
    return given


@torch.no_grad()
def test_guidance_is_the_mixture_of_two_models(model: Any) -> None:
    given, blank = prompts(2), prompts(2, 3)
    processor = CaptionGuidance(model, blank, 2.5)
    for _ in range(2):  # a processor can be used again
        out = model.generate(given, max_new_tokens=6, do_sample=False, logits_processor=[processor], eos_token_id=None)
        assert torch.equal(out, by_hand(model, given, blank, 2.5, 6))
    plain = model.generate(given, max_new_tokens=6, do_sample=False, eos_token_id=None)
    off = [CaptionGuidance(model, blank, 1.0)]
    assert torch.equal(model.generate(given, max_new_tokens=6, logits_processor=off, eos_token_id=None), plain)


@torch.no_grad()
def test_guidance_follows_beams_and_drafts(model: Any) -> None:
    """Beams reorder what was said, drafts take some of it back; the answer must not depend on either."""
    given, blank = prompts(2), prompts(2, 3)
    greedy = by_hand(model, given, blank, 2.0, 6)
    with foveate.apply(model, "prompt_lookup(ngram=1)"):
        out = model.generate(
            given, max_new_tokens=6, eos_token_id=None, logits_processor=[CaptionGuidance(model, blank, 2.0)]
        )
    assert torch.equal(out, greedy)
    processor = CaptionGuidance(model, blank, 2.0)
    fresh = CaptionGuidance(model, blank, 2.0)
    model.generate(given, max_new_tokens=4, num_beams=3, logits_processor=[processor], eos_token_id=None)
    said = torch.cat([given, prompts(2, 2)], 1).flip(0)
    fresh(given.flip(0), torch.zeros(2, V))
    processor(given.flip(0), torch.zeros(2, V))
    assert torch.allclose(processor(said, torch.zeros(2, V)), fresh(said, torch.zeros(2, V)), atol=1e-5)


@torch.no_grad()
def test_guidance_away_from_no_image() -> None:
    zoo = tiny("llava", batch=1)
    ids = zoo.inputs["input_ids"]
    words = ids[ids != zoo.model.config.image_token_id][None]
    guided = CaptionGuidance(zoo.model, words, 2.0)
    out = zoo.model.generate(**zoo.inputs, max_new_tokens=3, do_sample=False, logits_processor=[guided])
    said = zoo.model(**zoo.inputs).logits[:, -1].log_softmax(-1)
    empty = zoo.model(input_ids=words).logits[:, -1].log_softmax(-1)
    assert out[0, ids.shape[1]] == (2 * said - empty).argmax()
    with pytest.raises(InputError, match="scale"):
        CaptionGuidance(zoo.model, words, -1.0)
    with pytest.raises(InputError, match="rows"):
        CaptionGuidance(zoo.model, words.expand(2, -1))(ids, torch.zeros(1, 8))
