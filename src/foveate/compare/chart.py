"""Accuracy against what is left of the visual tokens, as an SVG that stands in the page itself."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 320, 48, 12, 16, 44


def chart(rows: Sequence[dict[str, Any]], title: str) -> str:
    """One point a row, numbered in the order of rows, with its 95% interval; "" where nothing was looked at.

    rows: of one model, over all tasks.
    """
    shown = [(k, r) for k, r in enumerate(rows, 1) if r["visual"]]
    if not shown:
        return ""
    parts = [_axes()]
    for k, r in shown:
        x, y, low, high = _x(r["left"] / r["visual"]), _y(r["accuracy"]), _y(r["low"]), _y(r["high"])
        told = escape(f"{k}: {r['plan']}, accuracy {r['accuracy']:.3f}, {r['left'] / r['visual']:.1%} of visual tokens")
        kind = "full" if r["plan"] == "none" else "plan"
        parts.append(
            f'<g class="{kind}"><title>{told}</title><line x1="{x}" y1="{low}" x2="{x}" y2="{high}"/>'
            f'<circle cx="{x}" cy="{y}" r="4"/><text x="{x + 7}" y="{y - 6}">{k}</text></g>'
        )
    about = escape(f"Accuracy and share of visual tokens left, {title}; the table below holds the same numbers")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{about}">{"".join(parts)}</svg>'


def _x(share: float) -> float:
    return round(LEFT + min(1.0, share) * (WIDTH - LEFT - RIGHT), 1)


def _y(value: float) -> float:
    return round(TOP + (1 - value) * (HEIGHT - TOP - BOTTOM), 1)


def _axes() -> str:
    parts = []
    for k in range(5):
        x, y, share = _x(k / 4), _y(k / 4), f"{k * 25}%"
        parts.append(f'<line class="grid" x1="{x}" y1="{_y(0)}" x2="{x}" y2="{_y(1)}"/>')
        parts.append(f'<line class="grid" x1="{_x(0)}" y1="{y}" x2="{_x(1)}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{HEIGHT - 26}" text-anchor="middle">{share}</text>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{share}</text>')
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">visual tokens left</text>')
    parts.append(f'<text x="{LEFT + 6}" y="{TOP + 12}">accuracy</text>')
    return "".join(parts)
