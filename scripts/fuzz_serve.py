"""Throw requests at a server that are made from its own OpenAPI schema: no answer may be a server error.

    pip install schemathesis
    python scripts/fuzz_serve.py --examples 200

Uses the untrained model, in this process; exits with 1 when something came back that should not.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, Phase, settings

from foveate.serve import Settings, create_app


def main() -> int:
    """Run; returns the exit code."""
    import schemathesis

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=100, help="requests for each route and kind")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    app = create_app("tiny", "divprune(keep=0.5)", settings=Settings(new_tokens=2, default_new_tokens=2, fetch=False))
    schema: Any = schemathesis.openapi.from_asgi("/openapi.json", app)
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    with _alive(app):
        for result in schema.get_all_operations():
            operation = result.ok()
            for mode in schemathesis.GenerationMode:

                def check(case: Any, of: Any = operation) -> None:
                    reply = case.call()
                    seen[f"{of.method.upper()} {of.path} {reply.status_code}"] += 1
                    if reply.status_code >= 500 or "Traceback" in reply.text:
                        wrong.append(f"{case.as_curl_command()}\n{reply.status_code} {reply.text[:300]}")

                strategy = operation.as_strategy(generation_mode=mode)
                _run(strategy, check, args.examples, args.seed)
    for line, count in sorted(seen.items()):
        print(f"{count:6d}  {line}")
    print("\n".join(wrong[:5]))
    print(f"{sum(seen.values())} requests, {len(wrong)} server errors")
    return int(bool(wrong))


def _run(strategy: Any, check: Any, examples: int, seed: int) -> None:
    import hypothesis

    phases = (Phase.explicit, Phase.generate)
    slow = list(HealthCheck)
    limits = settings(max_examples=examples, deadline=None, phases=phases, suppress_health_check=slow, database=None)

    @hypothesis.seed(seed)
    @limits
    @hypothesis.given(case=strategy)
    def one(case: Any) -> None:
        check(case)

    one()


class _alive:  # noqa: N801
    """The application's engine, started and stopped."""

    def __init__(self, app: Any) -> None:
        self.engine = app.state.server.engine

    def __enter__(self) -> None:
        self.engine.start()

    def __exit__(self, *error: object) -> None:
        self.engine.stop()


if __name__ == "__main__":
    sys.exit(main())
