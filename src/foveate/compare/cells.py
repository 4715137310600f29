"""A row's figures as people read them; the table in the terminal and the page say the same."""

from __future__ import annotations

from typing import Any

from ..report import human

#: Columns in order: heading, and what stands in it.
COLUMNS = (
    "plan", "task", "n", "accuracy", "95% interval", "loss to full", "p", "loyalty", "evidence", "visual tokens",
    "first token", "of full", "per token", "KV", "GFLOPs", "peak",
)  # fmt: skip
NOTES = {
    "accuracy": "share of right answers, with Wilson's interval",
    "loss to full": "accuracy lost against the full model on the same questions, with Agresti and Min's interval",
    "p": "McNemar's exact test against the full model: below 0.05 the difference is hardly chance",
    "loyalty": "how often the answer is the full model's, right or wrong",
    "evidence": "share of the visual tokens on which the answer can be seen that are left (lab tasks)",
    "visual tokens": "of a prompt, after inputs and layers, and before",
    "first token": "median time to it, from the prompt's tensors on; 'of full' is the median ratio to the full model",
    "per token": "median time of each later token",
    "KV": "bytes of keys and values after the prompt",
    "GFLOPs": "of reading the prompt, vision tower included",
    "peak": "of memory: allocated on the GPU, or resident in the process",
}


def cells(row: dict[str, Any]) -> list[str]:
    """One text for each of COLUMNS; empty where nothing was measured."""
    seen = f"{row['left']:.0f} of {row['visual']:.0f}" if row["visual"] else ""
    loss = f"{row['loss']:+.3f} ({row['loss_low']:+.3f} to {row['loss_high']:+.3f})" if "loss" in row else ""
    return [
        row["plan"],
        row["task"],
        str(row["n"]),
        f"{row['accuracy']:.3f}",
        f"{row['low']:.3f} to {row['high']:.3f}",
        loss,
        _number(row.get("p"), ".3g"),
        _number(row.get("loyalty"), ".3f"),
        _number(row.get("evidence"), ".3f"),
        seen,
        _seconds(row["first_token"]),
        _number(row.get("first_token_of_full"), ".2f"),
        _seconds(row["per_token"]),
        human(row["kv"]),
        f"{row['flops'] / 1e9:,.2f}",
        "" if row["peak"] is None else human(row["peak"]),
    ]


def rates(row: dict[str, Any]) -> str:
    """Throughput in one line; empty where it was not measured."""
    found = row.get("throughput") or {}
    told = [f"{n}: {r['answers_per_second']:.2f}/s" + (f", {r['errors']} errors" if r["errors"] else "")
            for n, r in found.items()]  # fmt: skip
    return "; ".join(told)


def places(row: dict[str, Any]) -> str:
    """The share of tokens left at each site, in one line."""
    return ", ".join(f"{place} {share:.1%}" for place, share in row["sites"].items())


def _number(value: float | None, how: str) -> str:
    return "" if value is None else format(value, how)


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{1e3 * value:.1f} ms" if value < 1 else f"{value:.2f} s"
