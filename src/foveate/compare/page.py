"""The page of a comparison: one HTML file that needs nothing else, neither a network nor a script."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from .cells import COLUMNS, NOTES, cells, places, rates
from .chart import chart
from .rows import ALL
from .told import Comparison

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e22; --faint: #565c64; --paper: #fff; --line: #c4c9d0; --hot: #b33c00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #eceef1; --faint: #b3b9c1; --paper: #15171a; --line: #454c55; --hot: #ff9b66; }
}
body { margin: 0 auto; max-width: 90rem; padding: 1rem 1.25rem 3rem; font: 1rem/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin-top: 2rem; } h3 { font-size: 1rem; }
p, dd { max-width: 48rem; } code { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
caption { text-align: left; font-weight: 600; padding: .5rem 0; }
th, td { text-align: right; padding: .25rem .45rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--faint); font-weight: 600; }
td.words, th.words { text-align: left; white-space: normal; overflow-wrap: anywhere; }
td.words:first-child, td:first-child + td.words { min-width: 13rem; } td.words + td.words { min-width: 6.5rem; }
tr.worse td { color: var(--hot); }
svg { max-width: 40rem; width: 100%; font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .grid { stroke: var(--line); stroke-width: .5; } svg .tick { fill: var(--faint); }
svg .plan line, svg .full line { stroke: var(--ink); stroke-width: 1.2; } svg .full circle { fill: var(--hot); }
dt { font-weight: 600; } dd { margin: 0 0 .4rem; color: var(--faint); }
"""
_WORDS = {"plan", "task"}
_SAFE = "default-src 'none'; style-src 'unsafe-inline'"


def page(told: Comparison) -> str:
    """The whole page."""
    parts = [_head(told)]
    for model in dict.fromkeys(r["model"] for r in told.rows):
        parts.append(_model(model, [r for r in told.rows if r["model"] == model], told))
    parts += [_examples(told.examples), _origin(told)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>foveate bench</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_SAFE}"><style>{_STYLE}</style></head><body>'
        f"{''.join(parts)}</body></html>\n"
    )


def _head(told: Comparison) -> str:
    about = told.about
    asked = f"{', '.join(about['tasks'])}; up to {about['n']} questions each, seed {about['seed']}"
    notes = "".join(f"<p><strong>{escape(n)}</strong></p>" for n in told.notes)
    return (
        f"<header><h1>foveate bench</h1><p>Every plan was asked what the full model (plan <code>none</code>) was asked:"
        f" {escape(asked)}. Coloured rows lose more to the full model than chance explains (p below 0.05).</p>{notes}"
        "</header>"
    )


def _model(name: str, rows: Sequence[dict[str, Any]], told: Comparison) -> str:
    whole = [r for r in rows if r["task"] == ALL] or list(rows)
    tasks = [r for r in rows if r not in whole]
    out = [f"<section><h2>{escape(name)}</h2>", chart(whole, name)]
    out.append(_table("All tasks" if tasks else whole[0]["task"], whole, numbered=True))
    out.append(_sites(whole))
    if tasks:
        out.append(f"<details><summary>By task</summary>{_table('By task', tasks)}</details>")
    if left := told.left_out.get(name):
        listed = "".join(f"<li><code>{escape(p)}</code>: {escape(why)}</li>" for p, why in left.items())
        out.append(f"<h3>Left out</h3><ul>{listed}</ul>")
    return "".join(out) + "</section>"


def _table(title: str, rows: Sequence[dict[str, Any]], numbered: bool = False) -> str:
    head = ("#", *COLUMNS) if numbered else COLUMNS
    out = [f'<div class="wide"><table><caption>{escape(title)}</caption><thead><tr>']
    out += [f'<th scope="col"{_class(name)}>{escape(name)}</th>' for name in head]
    out.append("</tr></thead><tbody>")
    for k, row in enumerate(rows, 1):
        worse = row.get("p") is not None and row["p"] < 0.05 and row["loss"] > 0
        values = [str(k), *cells(row)] if numbered else cells(row)
        told = "".join(f"<td{_class(name)}>{escape(v)}</td>" for name, v in zip(head, values))
        out.append(f'<tr class="{"worse" if worse else ""}">{told}</tr>')
    return "".join(out) + "</tbody></table></div>"


def _class(name: str) -> str:
    return ' class="words"' if name in _WORDS else ""


def _sites(rows: Sequence[dict[str, Any]]) -> str:
    """What is left at each site, and throughput."""
    out = []
    for row in rows:
        told = [f"tokens left: {places(row)}"] if row["sites"] else []
        told += [f"answers a second by clients: {rate}"] if (rate := rates(row)) else []
        if told:
            out.append(f"<li><code>{escape(row['plan'])}</code>: {escape('; '.join(told))}</li>")
    return f"<ul>{''.join(out)}</ul>" if out else ""


def _examples(found: Sequence[dict[str, Any]]) -> str:
    if not found:
        return ""
    names = ("model", "plan", "task", "question", "wanted", "full", "said")
    out = ['<details><summary>Answers that are not the full model\'s</summary><div class="wide"><table><thead><tr>']
    out += [f'<th scope="col" class="words">{n}</th>' for n in names]
    out.append("</tr></thead><tbody>")
    for e in found:
        told = [", ".join(e[n]) if isinstance(e[n], list) else str(e[n]) for n in names]
        out.append("<tr>" + "".join(f'<td class="words">{escape(t[:400])}</td>' for t in told) + "</tr>")
    return "".join(out) + "</tbody></table></div></details>"


def _origin(told: Comparison) -> str:
    about = told.about
    machines = {str(m): m for r in told.rows for m in r["machine"]}
    facts = {
        "command": about["command"] or "from Python",
        "release and commit": f"foveate {about['foveate']}, {', '.join(sorted({r['commit'] for r in told.rows}))}",
        "machine": "; ".join(", ".join(f"{k} {v}" for k, v in m.items()) for m in machines.values()),
        "seed": str(about["seed"]),
        "raw log": str(told.log),
        "answers": f"{about['answered']:,} new, {about['known']:,} from earlier runs; {about['workers']} at a time",
    }
    if about["same_questions_left_out"]:
        facts["left out"] = f"{about['same_questions_left_out']} questions that were asked already"
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    meant = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in NOTES.items())
    return f"<section><h2>Where this comes from</h2><dl>{listed}</dl><h2>Columns</h2><dl>{meant}</dl></section>"
