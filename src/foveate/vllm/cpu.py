"""vLLM 0.32's runner for CPUs loads a model without asking whether its media are shortened; the others do ask."""

from __future__ import annotations

import functools
from typing import Any


def mend() -> None:
    """Let the CPU runner set what other runners set when a model is loaded, if it did not. Safe to call twice."""
    from vllm.model_executor.models.interfaces import supports_multimodal_pruning
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    load = CPUModelRunner.load_model
    if getattr(load, "mended", False):
        return

    @functools.wraps(load)
    def load_model(self: Any, *args: Any, **kwargs: Any) -> None:
        load(self, *args, **kwargs)
        model, media = self.get_model(), self.model_config.multimodal_config
        self.is_multimodal_pruning_enabled = (
            media is not None and supports_multimodal_pruning(model) and media.is_multimodal_pruning_enabled()
        )
        self.requires_sequential_video_encoding = hasattr(model, "requires_sequential_video_encoding")

    load_model.mended = True  # type: ignore[attr-defined]
    CPUModelRunner.load_model = load_model
