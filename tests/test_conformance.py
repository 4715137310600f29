"""The conformance runner, on small cases made here by plain loops that share no code with foveate."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RUNNER = Path(__file__).parent / "conformance" / "run.py"
PUBLISHED = Path(__file__).parents[2] / "shared" / "conformance"
Arrays = dict[str, Any]


def write(folder: Path, method: str, case: str, params: dict[str, Any], given: Arrays, out: Arrays) -> None:
    (folder / method).mkdir(exist_ok=True, parents=True)
    arrays = {f"{side}.{k}": np.asarray(v) for side, named in (("in", given), ("out", out)) for k, v in named.items()}
    np.savez(folder / method / f"{case}.npz", **arrays)
    about = {"method": method, "params": params, "rtol": 1e-4, "atol": 1e-5}
    (folder / method / f"{case}.json").write_text(json.dumps(about), encoding="utf-8")


def conform(folder: Path) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, str(RUNNER), str(folder)], capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines()


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def cosines(x: np.ndarray) -> np.ndarray:
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return unit @ unit.T


def probabilities(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)).astype(np.float32)


def best(score: np.ndarray, k: int) -> list[int]:
    return sorted(sorted(range(len(score)), key=lambda i: -score[i])[:k])


# --- plain references -----------------------------------------------------------------------------------------------


def divprune(folder: Path, case: str, n: int, ratio: float) -> None:
    x = noise(n, n, 12)
    apart = 1 - cosines(x)
    picked = [max(range(n), key=lambda i: sorted(apart[i])[1])]
    while len(picked) < round(ratio * n):
        picked.append(max(set(range(n)) - set(picked), key=lambda i: min(apart[i, j] for j in picked)))
    out = {"selected": picked, "kept": sorted(picked), "tokens": x[sorted(picked)]}
    write(folder, "divprune", case, {"ratio": ratio}, {"features": x}, out)


def fastervlm(folder: Path, case: str, n: int, keep: int) -> None:
    x, attention = noise(n, 2, n, 6), probabilities(noise(n + 1, 2, 3, n))
    score = attention.mean(1)
    kept = np.array([best(s, keep) for s in score])
    mask = np.zeros((2, n), bool)
    np.put_along_axis(mask, kept, True, 1)
    out = {"mask": mask, "scores": score, "kept": kept, "tokens": np.take_along_axis(x, kept[..., None], 1)}
    write(folder, "fastervlm", case, {"visual_token_num": keep}, {"features": x, "cls_attn": attention}, out)


def fastv(folder: Path, case: str, start: int, n: int, after: int, budget: dict[str, Any], k: int) -> None:
    length = start + n + after
    hidden, attention = noise(n, 1, length, 5), probabilities(noise(n + 1, 1, 2, 1, length))
    picked = [start + i for i in best(attention[0, :, 0, start : start + n].mean(0), k)]
    keep = np.array([*range(start), *picked, *range(start + n, length)])
    out = {"keep": keep, "hidden": hidden[:, keep], "position_ids": keep[None]}
    params = {"sys_length": start, "image_token_length": n, **budget}
    write(folder, "fastv", case, params, {"hidden": hidden, "attn_last": attention}, out)


def groups(out: Arrays, x: np.ndarray, size: np.ndarray, slots: list[list[int]]) -> None:
    """Append one row: the merged tokens of the given groups of positions."""
    source = np.zeros((len(slots), len(x)), np.float32)
    for s, members in enumerate(slots):
        source[s, members] = 1
    weights = source * size
    values = {
        "merged": weights @ x / weights.sum(1, keepdims=True),
        "size": weights.sum(1, keepdims=True),
        "source": source,
        "mean": source @ x / source.sum(1, keepdims=True),
    }
    for name, value in values.items():
        out.setdefault(name, []).append(value)


def tome(folder: Path, case: str, n: int, r: int, cls: bool = False, distill: bool = False) -> None:
    metric, x = noise(n, 2, n, 8), noise(n + 1, 2, n, 5)
    size = np.random.default_rng(n).integers(1, 4, (2, n, 1)).astype(np.float32)
    out: Arrays = {}
    used = max(0, min(r, (n - cls - distill) // 2))
    for b in range(2):
        near = cosines(metric[b])
        sources = [i for i in range(0, n, 2) if not (cls and i == 0)]
        targets = [i for i in range(1, n, 2) if not (distill and i == 1)]
        choice = {i: max(targets, key=lambda j: near[i, j]) for i in sources}
        ranked = sorted(sources, key=lambda i: -near[i, choice[i]])
        gone = ranked[:used]
        stay = ([0] if cls else []) + (sorted(ranked[used:]) if cls else ranked[used:])
        odd = list(range(1, n, 2))
        listed = stay + odd
        shown = [stay[0], 1, *stay[1:], *odd[1:]] if distill else listed
        if not used:
            listed = shown = list(range(n))
        slots = {j: [j, *[i for i in gone if choice[i] == j]] for j in listed}
        groups(out, x[b], size[b, :, 0], [slots[j] for j in shown])
        lifted = np.zeros_like(x[b])
        for s, j in enumerate(listed):
            lifted[slots[j]] = out["merged"][b][s]
        out.setdefault("unmerged", []).append(lifted)
    params = {"variant": "bipartite", "r": r, "class_token": cls, "distill_token": distill, "size_given": True}
    write(folder, "tome", case, params, {"metric": metric, "x": x, "size": size}, out)


def tome_kth(folder: Path, case: str, n: int, k: int) -> None:
    metric, x = noise(n, 1, n, 8), noise(n + 1, 1, n, 5)
    whole, out = n // k * k, {}
    to = list(range(k - 1, whole, k))
    near = cosines(metric[0])
    slots = {j: [j] for j in to}
    for i in set(range(whole)) - set(to):
        slots[max(to, key=lambda j: near[i, j])].append(i)
    groups(out, x[0], np.ones(n, np.float32), [slots[j] for j in to])
    lifted = np.zeros_like(x[0])
    for s, j in enumerate(to):
        lifted[slots[j]] = out["merged"][0][s]
    out = {k: v for k, v in out.items() if k != "source"} | {"unmerged": lifted[None, :whole]}
    write(folder, "tome", case, {"variant": "kth", "k": k}, {"metric": metric, "x": x}, out)


def pitome(folder: Path, case: str, n: int, ratio: float, margin: float, cls: bool, form: str) -> None:
    metric, x = noise(n, 1, n, 8), noise(n + 1, 1, n, 5)
    size = np.random.default_rng(n).integers(1, 4, (1, n, 1)).astype(np.float32)
    near, first = cosines(metric[0, int(cls) :]), int(cls)
    t = len(near)
    r = int(np.floor(t - t * ratio))
    if form == "text":
        energy = np.exp(-(((1 - near) / (1 - margin)) ** 2) / 2).mean(1) / ((1 - margin) * np.sqrt(2 * np.pi))
    else:
        energy = np.where(near > margin, near - margin, np.expm1(np.minimum(near - margin, 0))).mean(1)
    rank = sorted(range(t), key=lambda i: -energy[i])
    if form == "bsm":
        a, b, rest = rank[::2], rank[1::2], []
    elif form == "text":
        a, b, rest = rank[:r], rank[r : 2 * r], rank[2 * r :]
    else:
        a, b, rest = rank[: 2 * r : 2], rank[1 : 2 * r : 2], rank[2 * r :]
    choice = {i: max(b, key=lambda j: near[i, j]) for i in a}
    if form == "bsm":
        a = sorted(a, key=lambda i: -near[i, choice[i]])
        a, rest = a[:r], a[r:]
    order = [*([0] if cls else []), *[i + first for i in rest + b]]
    slots = [[j, *[i + first for i in a if choice[i] + first == j]] for j in order]
    out: Arrays = {}
    groups(out, x[0], size[0, :, 0], slots)
    out = {k: v for k, v in out.items() if k != "source"} | {"pruned": x[:, order], "energy": energy[None]}
    params = {"variant": "text" if form == "text" else "vision", "ratio": ratio, "margin": margin, "class_token": cls}
    params |= {"alpha": 1.0, "use_bsm_pitome": form == "bsm"}
    write(folder, "pitome", case, params, {"metric": metric, "x": x, "size": size}, out)


def pyramiddrop(folder: Path, case: str, starts: list[int], after: list[int], stage: int) -> None:
    full, ratios, heads, d = 16, [1, 0.5, 0.25, 0.125], 2, 4
    now, then = int(full * ratios[stage]), int(full * ratios[stage + 1])
    wq, wk, scale = noise(1, 8, 8), noise(2, 8, 8), noise(3, 8)
    lengths = [t + (0 if s < 0 else s + now) for s, t in zip(starts, after)]
    hidden, rows, kept = np.zeros((len(starts), max(lengths), 8), np.float32), [], []
    for b, (start, n) in enumerate(zip(starts, lengths)):
        hidden[b, :n] = x = noise(10 + b, n, 8)
        if start < 0:
            rows.append(list(range(n)))
            continue
        y = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale
        score = np.zeros(now)
        for h in range(heads):
            q, k = ((y @ w.T)[:, h * d : (h + 1) * d] for w in (wq, wk))
            for t in (q, k):
                for i in range(d // 2):  # rotate each pair by its position times its frequency
                    turn = np.exp(1j * np.arange(n) * 10000 ** (-2 * i / d)) * (t[:, i] + 1j * t[:, i + d // 2])
                    t[:, i], t[:, i + d // 2] = turn.real, turn.imag
            score += probabilities(q[-1] @ k.T / np.sqrt(d))[start : start + now]
        picked = [start + i for i in best(score, then)]
        kept.append(picked)
        rows.append([*range(start), *picked, *range(start + now, n)])
    longest = max(map(len, rows))
    out = {
        "hidden": np.stack([np.pad(hidden[b, r], ((0, longest - len(r)), (0, 0))) for b, r in enumerate(rows)]),
        "attention_mask": np.array([[i < len(r) for i in range(longest)] for r in rows]),
        "position_ids": np.array([[i if i < len(r) else 0 for i in range(longest)] for r in rows]),
        "kept": np.array(kept),
    }
    valid = np.arange(max(lengths)) < np.array(lengths)[:, None]
    params = {"image_position": starts, "image_tokens": full, "text_after": after, "ratios": ratios, "stage": stage}
    params |= {"num_heads": heads, "head_dim": d, "rope_base": 10000}
    given = {"hidden": hidden, "attention_mask": valid, "wq": wq, "wk": wk, "norm_weight": scale}
    write(folder, "pyramiddrop", case, params, given, out)


def snapkv(folder: Path, case: str, n: int, window: int, kernel: int, ratio: float) -> None:
    keys, values, queries = noise(1, 2, 2, n, 4), noise(2, 2, 2, n, 4), noise(3, 2, 4, n, 4)
    scores, m = np.zeros((2, 2, n), np.float32), max(1, int(n * (1 - ratio)))
    for layer in range(2):
        for g in range(2):
            for h in (2 * g, 2 * g + 1):
                rows = [
                    np.append(probabilities(queries[layer, h, i] @ keys[layer, g, : i + 1].T / 2), np.zeros(n - 1 - i))
                    for i in range(n - window, n)
                ]
                votes = np.pad(np.mean(rows, 0)[: n - window], kernel // 2)
                scores[layer, g, : n - window] += [votes[i : i + kernel].sum() / kernel / 2 for i in range(n - window)]
        scores[layer, :, n - window :] = scores[layer].max() + 1
    kept = [[best(head, m) for head in layer] for layer in scores]
    params = {"compression_ratio": ratio, "window_size": window, "kernel_size": kernel}
    write(folder, "snapkv", case, params, {"keys": keys, "values": values, "queries": queries},
          {"scores": scores, "kept": kept})  # fmt: skip


def streaming_llm(folder: Path, case: str, n: int, sinks: int, ratio: float) -> None:
    keys, m = noise(1, 2, 3, n, 4), int(n * (1 - ratio))
    scores = np.ones((2, 3, n), np.float32)
    scores[..., sinks : sinks + n - m] = 0
    kept = np.broadcast_to([i for i in range(n) if not sinks <= i < sinks + n - m], (2, 3, m))
    params = {"compression_ratio": ratio, "n_sink": sinks}
    write(folder, "streaming_llm", case, params, {"keys": keys, "values": keys}, {"scores": scores, "kept": kept})


def everything(folder: Path) -> int:
    """Write all cases; returns how many."""
    divprune(folder, "few", 21, 0.1)
    divprune(folder, "all", 9, 1)
    fastervlm(folder, "few", 20, 3)
    fastervlm(folder, "more_than_there_are", 10, 12)
    fastv(folder, "rank", 3, 14, 4, {"attention_rank": 5}, 5)
    fastv(folder, "half_to_even", 0, 9, 2, {"fastv_r": 0.5}, 4)
    fastv(folder, "all", 3, 9, 2, {"fastv_r": 0.0}, 9)
    fastv(folder, "none", 3, 9, 2, {"attention_rank": 0}, 0)
    tome(folder, "plain", 16, 5)
    tome(folder, "class", 17, 5, cls=True)
    tome(folder, "distill", 18, 4, cls=True, distill=True)
    tome(folder, "distill_alone", 18, 4, distill=True)
    tome(folder, "most", 11, 99, cls=True)
    tome(folder, "nothing", 11, 0, cls=True, distill=True)
    tome_kth(folder, "kth", 14, 4)
    tome_kth(folder, "half", 12, 2)
    pitome(folder, "vision", 21, 0.8, 0.3, True, "vision")
    pitome(folder, "bsm", 21, 0.7, 0.3, True, "bsm")
    pitome(folder, "text", 20, 0.75, 0.5, False, "text")
    pyramiddrop(folder, "no_image", [3, -1, 0], [6, 17, 2], 0)
    pyramiddrop(folder, "last", [3], [6], 2)
    snapkv(folder, "half", 30, 6, 5, 0.5)
    snapkv(folder, "little", 40, 8, 7, 0.25)
    streaming_llm(folder, "half", 31, 4, 0.5)
    streaming_llm(folder, "no_sinks", 31, 0, 0.7)
    return 25


def test_cases_pass(tmp_path: Path) -> None:
    count = everything(tmp_path)
    status, lines = conform(tmp_path)
    assert [line for line in lines if not line.startswith("PASS")] == [f"{count} passed, 0 failed, 0 skipped"]
    assert lines[-1] == f"{count} passed, 0 failed, 0 skipped"
    assert status == 0


def test_failures_and_skips_are_told(tmp_path: Path) -> None:
    streaming_llm(tmp_path, "fine", 31, 4, 0.5)
    fastervlm(tmp_path, "fine", 20, 3)
    write(tmp_path, "not_a_method", "any", {}, {"x": noise(1, 2)}, {"y": noise(1, 2)})
    good = {"features": noise(1, 1, 6, 2), "cls_attn": probabilities(noise(2, 1, 2, 6))}
    score = good["cls_attn"].mean(1)
    two = {"visual_token_num": 2}
    write(tmp_path, "fastervlm", "value", two, good, {"scores": score + 1e-2})
    write(tmp_path, "fastervlm", "within_tolerance", two, good, {"scores": score + 1e-6})
    write(tmp_path, "fastervlm", "whole_numbers_exactly", two, good, {"kept": np.array([[0, 0]])})
    write(tmp_path, "fastervlm", "truth", two, good, {"mask": np.zeros((1, 6), bool)})
    write(tmp_path, "fastervlm", "kind", two, good, {"scores": np.zeros((1, 6), np.int64)})
    write(tmp_path, "fastervlm", "shape", two, good, {"scores": score[0]})
    write(tmp_path, "fastervlm", "unknown", two, good, {"entropy": score})
    write(tmp_path, "fastervlm", "crash", {}, good, {"scores": score})
    write(tmp_path, "fastervlm", "empty", two, good, {})
    write(tmp_path, "fastervlm", "alone", two, good, {"scores": score})
    (tmp_path / "fastervlm" / "alone.npz").unlink()
    (tmp_path / "fastervlm" / "torn.json").write_text("{", encoding="utf-8")
    (tmp_path / "README.md").write_text("not a case", encoding="utf-8")
    status, lines = conform(tmp_path)
    told = dict(line.split(" ", 2)[1::-1] for line in lines[:-1])
    failing = ["value", "whole_numbers_exactly", "truth", "kind", "shape", "unknown", "crash", "empty", "alone", "torn"]
    assert told == {
        "streaming_llm/fine": "PASS",
        "fastervlm/fine": "PASS",
        "fastervlm/within_tolerance": "PASS",
        "not_a_method/any": "SKIP",
        **{f"fastervlm/{case}": "FAIL" for case in failing},
    }
    reasons = "\n".join(lines)
    for words in (
        "scores: off by up to 0.01",
        "kept: 2 of 2 values differ",
        "mask: 2 of 6 values differ",
        "scores: float32 instead of int64",
        "scores: shape (1, 6) instead of (6,)",
        "entropy: not computed",
        "KeyError: 'visual_token_num'",
        "holds no outputs",
        "cannot be read",
        "SKIP not_a_method/any no method of that name is registered",
    ):
        assert words in reasons, f"{words!r} not in\n{reasons}"
    assert lines[-1] == "3 passed, 10 failed, 1 skipped"
    assert status == 1


def test_skips_alone_are_no_failure(tmp_path: Path) -> None:
    write(tmp_path, "not_a_method", "any", {}, {"x": noise(1, 2)}, {"y": noise(1, 2)})
    assert conform(tmp_path) == (
        0,
        ["SKIP not_a_method/any no method of that name is registered", "0 passed, 0 failed, 1 skipped"],
    )


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    status, lines = conform(tmp_path / "none")
    assert status == 2
    assert "no folder" in lines[0]


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published vectors are not beside this checkout")
def test_published_vectors() -> None:
    status, lines = conform(PUBLISHED)
    assert [line for line in lines if line.startswith("FAIL")] == []
    assert status == 0
    assert int(lines[-1].split()[0]) >= 17
