"""What a server counts, in Prometheus' form; a registry of its own, so that two servers in one process do not mix."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import MissingExtraError

if TYPE_CHECKING:
    from .task import Facts

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters of one server.

    Raises:
        MissingExtraError: prometheus_client is not installed.
    """

    def __init__(self) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        except ImportError as error:
            raise MissingExtraError("the server needs: pip install 'foveate[serve]'") from error
        self.registry = at = CollectorRegistry()
        self._gauge = Gauge
        self.requests = Counter("foveate_requests", "Answered requests, by status", ["status"], registry=at)
        self.prompt = Counter("foveate_prompt_tokens", "Tokens of prompts before any reduction", registry=at)
        self.written = Counter("foveate_completion_tokens", "Tokens written", registry=at)
        self.visual = Counter("foveate_visual_tokens", "Visual tokens, before and after the plan", ["at"], registry=at)
        self.reused = Counter("foveate_reused", "Requests that used what earlier ones left", ["what"], registry=at)
        self.restarts = Counter("foveate_engine_failures", "Failures that the engine went on from", registry=at)
        self.first = Histogram(
            "foveate_first_token_seconds", "From a request to its first token", buckets=_SECONDS, registry=at
        )
        self.whole = Histogram(
            "foveate_request_seconds", "From a request to the end of its answer", buckets=_SECONDS, registry=at
        )

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        self._gauge(name, text, registry=self.registry).set_function(value)

    def read(self, facts: Facts, seconds: float) -> None:
        """Count a prompt that was read."""
        self.prompt.inc(facts.prompt_tokens)
        self.visual.labels("before").inc(facts.before)
        self.visual.labels("after").inc(facts.after)
        self.first.observe(seconds)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)
