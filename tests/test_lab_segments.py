"""The lab's attention over segments against the one of transformers."""

from __future__ import annotations

import pytest
import torch

from foveate.lab import segments
from foveate.lab.data import Diet
from foveate.lab.models import make, small
from foveate.lab.supervise import look


@pytest.mark.parametrize("kind", ["image", "video"])
def test_is_what_the_tower_computes(kind: str) -> None:
    sizes = small("video")
    model = make("video", sizes)
    diet = Diet("video", sizes, "dense", batch=3)
    batch = next(b for b in map(diet.make, range(40)) if b.kind == kind)
    wanted = look(model, batch, sizes).pooler_output
    segments.use(model.model.visual)
    got = look(model, batch, sizes).pooler_output
    torch.testing.assert_close(torch.cat(tuple(got)), torch.cat(tuple(wanted)), atol=1e-5, rtol=1e-5)
