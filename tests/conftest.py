"""Every test starts from the same seeds and uses one thread, as several workers share the cores."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def local_ray() -> Iterator[None]:
    """One small Ray for the test; starting it takes longer than the test where the machine is busy."""
    pytest.importorskip("ray.data")
    import ray

    handler = signal.getsignal(signal.SIGTERM)  # Ray leaves its own behind
    try:
        ray.init(num_cpus=1, include_dashboard=False, object_store_memory=150 * 2**20, log_to_driver=False)
    except Exception as error:  # Ray raises a bare Exception when its processes do not come up in time
        ray.shutdown()
        pytest.skip(f"no local Ray can be started here: {error}")
    yield
    ray.shutdown()
    signal.signal(signal.SIGTERM, handler)
