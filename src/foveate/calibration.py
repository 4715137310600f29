"""Measure what work costs on this machine, once, for the guard (:mod:`foveate.sites.guard`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from .errors import CacheFileError
from .sites import costs, guard
from .sites.costs import Costs
from .spec import make
from .tokens import Tokens

TOKENS = (1, 16, 128, 512, 2048)
WIDTH, WIDE = 1024, 4096  # of the weight matrix: large enough that only the number of tokens matters
HEADS, SIZE = 8, 64
SECONDS = 0.15  # of one figure

Timer = Callable[[Callable[[], Any], torch.device], float]


def calibrate(file: Path | None = None, timer: Timer | None = None) -> dict[str, Costs]:
    """Measure every device and type of this machine and keep the result beside what other machines left there.

    Args:
        file: None for the user's cache folder. timer: (work, device) -> seconds; None takes the fastest of several.

    Raises:
        CacheFileError: the file cannot be written.
    """
    file = costs.path() if file is None else file
    try:
        kept = costs.read(file)
    except CacheFileError:  # measuring again is how a damaged file is mended
        kept = {}
    found = {}
    for device in [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]:
        for dtype in (torch.float32, torch.bfloat16, *([torch.float16] if device.type == "cuda" else [])):
            found[costs.key(device, dtype)] = measure(device, dtype, timer or fastest)
    costs.write(file, kept | found)
    return found


@torch.inference_mode()
def measure(device: torch.device, dtype: torch.dtype, timer: Timer) -> Costs:
    """Costs of one device in one type of number; see :class:`foveate.sites.costs.Costs`."""

    def ones(*shape: int) -> torch.Tensor:
        return torch.ones(*shape, dtype=dtype, device=device)

    weight, products, attention = ones(WIDTH, WIDE), [], []
    for n in TOKENS:
        x, q = ones(n, WIDTH), ones(1, HEADS, n, SIZE)
        products.append((n, 2.0 * n * WIDTH * WIDE / timer(lambda x=x: x @ weight, device)))  # type: ignore[misc]
        spent = timer(lambda q=q: scaled_dot_product_attention(q, q, q, is_causal=True), device)  # type: ignore[misc]
        attention.append((n, 4.0 * n * n * HEADS * SIZE / spent))
    # the operations that the guard counts, as they are in a method: dispatch and Python are most of them
    method, few = make("divprune", {"keep": 32}), Tokens(torch.rand(1, 64, 16, device=device))
    step = timer(lambda: method.reduce(few), device) / guard.steps(method, 32)
    block = nn.TransformerEncoderLayer(SIZE, 1, SIZE, batch_first=True, device=device, dtype=dtype).eval()
    one = ones(1, 1, SIZE)
    return Costs(
        tuple(products),
        tuple(attention),
        step,
        timer(lambda: _unfused(block, one), device),
    )


def _unfused(block: nn.TransformerEncoderLayer, x: torch.Tensor) -> torch.Tensor:
    """A layer step by step, as the layers of language models run; torch would do this one in a single call."""
    y = block.norm1(x)
    q = k = v = (y @ block.self_attn.in_proj_weight[:SIZE].T)[:, None]
    y = x + block.self_attn.out_proj(scaled_dot_product_attention(q, k, v, is_causal=True)[:, 0])
    out: torch.Tensor = y + block.linear2(torch.relu(block.linear1(block.norm2(y))))
    return out


def fastest(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of the fastest run within :data:`SECONDS`: other work on the machine only ever makes it slower."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    work()
    wait()
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < SECONDS:
        start = time.perf_counter()
        work()
        wait()
        best = min(best, time.perf_counter() - start)
    return max(best, 1e-9)
