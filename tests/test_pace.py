"""When a drafter that does not pay is switched off, and when it is tried again."""

from __future__ import annotations

from foveate.sites.pace import Pace


def run(pace: Pace, steps: int, drafted: float, plain: float) -> list[bool]:
    """So many forwards; a draft makes two tokens in ``drafted`` seconds each, without one it is ``plain`` seconds."""
    out = []
    for _ in range(steps):
        out.append(pace.drafts())
        pace.took(4, 2, 2 * drafted) if out[-1] else pace.took(0, 1, plain)
    return out


def test_a_drafter_that_pays_goes_on_after_one_look_at_what_plain_forwards_take() -> None:
    pace = Pace()
    pace.begin(False, 100)
    did = run(pace, 100, drafted=1.0, plain=2.0)
    assert did.count(False) == Pace.PROBE
    assert pace.ratio == 0.5


def test_one_that_does_not_rests_longer_each_time() -> None:
    pace = Pace()
    pace.begin(False, 100)
    did = run(pace, 500, drafted=2.0, plain=1.0)
    rests = "".join("d" if d else "." for d in did).replace("d", " ").split()
    assert [len(r) for r in rests[:4]] == [Pace.PROBE + Pace.REST, 2 * Pace.REST, 4 * Pace.REST, 8 * Pace.REST]
    assert pace.rested == did.count(False)


def test_what_was_measured_on_short_prompts_says_nothing_of_long_ones() -> None:
    pace = Pace()
    pace.begin(False, 100)
    run(pace, 60, drafted=2.0, plain=1.0)
    assert pace.plain
    pace.begin(False, 150)
    assert pace.plain
    pace.begin(False, 1000)
    assert not pace.plain
    assert pace.drafts()


def test_draws_are_never_fewer_while_sampling() -> None:
    for pace, sample in ((Pace(), True), (Pace(acts=False), False)):
        pace.begin(sample, 10)
        assert all(run(pace, 200, drafted=9.0, plain=1.0))
