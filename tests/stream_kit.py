"""What the tests of streams and of the store share: tiny models, frames, and what a decoder was given."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import foveate
from foveate.load import Loaded
from foveate.sites.model import anatomy
from foveate.video import write_video
from model_folders import make

SIZE = (84, 56)


def model(family: str, root: Path) -> Loaded:
    """A tiny random model of that family."""
    return foveate.load(make(family, root), device="cpu")


def frames(n: int, seed: int = 0) -> list[Image.Image]:
    """Frames of noise, all different."""
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)) for _ in range(n)]


def clip(path: Path, seconds: float = 8, seed: int = 0) -> Path:
    """A file of so many seconds at two frames a second: squares of random colours that jump every second."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(int(seconds)):
        cells = rng.integers(0, 255, (2, 3, 3), dtype=np.uint8)
        out += [Image.fromarray(cells).resize(SIZE, Image.Resampling.NEAREST)] * 2
    return write_video(path, out, fps=2)


@contextmanager
def watched(loaded: Loaded) -> Any:
    """Inside the block, what each prefill gives to the first and the last layer is listed: tokens and rotations."""
    given: list[dict[str, Any]] = []
    layers = anatomy(loaded.model).layers

    def see(name: str) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            x = args[0] if args else kwargs["hidden_states"]
            if x.shape[1] > 1 and name == "first":
                given.append({"first": x, "turned": kwargs.get("position_embeddings")})
            elif x.shape[1] > 1:
                given[-1]["last"] = x

        return hook

    hooks = [
        layers[i].register_forward_pre_hook(see(name), with_kwargs=True) for i, name in ((0, "first"), (-1, "last"))
    ]
    try:
        yield given
    finally:
        for h in hooks:
            h.remove()


def same(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Tokens up to rounding (a batch of another size rounds otherwise), rotations, and so positions, exactly."""
    for name in ("first", "last"):
        torch.testing.assert_close(a[name], b[name], atol=1e-5, rtol=1e-4)
    assert a["turned"] is not None
    for x, y in zip(a["turned"], b["turned"], strict=True):
        assert torch.equal(x, y)
