"""What decoding with drafts did, summed over the calls inside a block."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ..report import Report
from .pace import Pace


@dataclass
class Tally:
    """Fills ``report.decode`` and the method's row. Counts are over rows of a batch that were not finished.

    ``target_forwards``: forwards of the target after the prefill; ``drafted`` and ``accepted``: tokens; ``tokens``: all
    new tokens; ``seconds`` of which ``prefill_seconds``; ``accepted_length``: tokens settled in a row by one forward,
    the target's own included (1 without drafts); ``tokens_per_s``: of decoding, the prefill and its token left out;
    ``rested``: forwards for which the drafter was switched off because it did not pay; ``cost_ratio``: seconds a token
    with drafts over seconds a token without, as last measured (0 if it was not).
    """

    report: Report
    method: str
    forwards: int = 0
    drafted: int = 0
    accepted: int = 0
    tokens: int = 0
    first: int = 0
    row_forwards: int = 0
    seconds: float = 0.0
    prefill_seconds: float = 0.0
    chains: str | None = None
    _since: float = field(default=0.0, repr=False)

    def begin(self) -> None:
        """A call of generate begins."""
        self._since = time.perf_counter()

    def settled(self, first: bool, rows: int, drafted: int, accepted: int, tokens: int) -> None:
        """A forward of the target over ``rows`` unfinished rows settled so many tokens; the first is the prefill."""
        self.tokens += tokens
        if first:
            self.prefill_seconds += time.perf_counter() - self._since
            self.first += tokens
            return
        self.forwards += 1
        self.row_forwards += rows
        self.drafted += drafted
        self.accepted += accepted

    def end(self, pace: Pace) -> None:
        """The call ends; write the totals down."""
        self.seconds += time.perf_counter() - self._since
        later, decoding = self.tokens - self.first, self.seconds - self.prefill_seconds
        length = later / self.row_forwards if self.row_forwards else 0.0
        self.report.decode.update(
            target_forwards=self.forwards,
            drafted=self.drafted,
            accepted=self.accepted,
            tokens=self.tokens,
            seconds=self.seconds,
            prefill_seconds=self.prefill_seconds,
            accepted_length=length,
            tokens_per_s=later / decoding if later else 0.0,
            rested=pace.rested,
            cost_ratio=pace.ratio,
        )
        note = f"{length:.2f} tokens a forward of the target, {self.accepted} of {self.drafted} drafted tokens accepted"
        if pace.rested > pace.PROBE:
            note += f"; it did not pay and was switched off for {pace.rested} of {self.forwards} forwards"
        if self.chains is not None:
            note += f"; trees were read as chains: {self.chains}"
        self.report.row("decode", self.method).note = note
