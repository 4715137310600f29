"""A plug-in for vLLM: images and videos shortened by foveate's methods of stage inputs.

vLLM finds it by the entry point ``foveate`` of the group ``vllm.general_plugins`` and calls :func:`register` in every
process. Nothing here imports vLLM before that. Which methods can run there: :func:`works`; whether a plan can, and how
many tokens it leaves: :func:`rule_of`.
"""

from __future__ import annotations

import logging
import re

from ..errors import MissingExtraError
from .layout import Layout
from .rule import Rule, rule_of, works

logger = logging.getLogger("vllm.foveate")  # as vLLM's own, so that its settings hold

__all__ = ["MODELS", "Layout", "Rule", "register", "rule_of", "works"]

#: Architectures whose class is replaced, and the modules of ours.
MODELS = {
    "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl",
    "Qwen3VLForConditionalGeneration": "qwen3_vl",
    "LlavaOnevisionForConditionalGeneration": "llava_onevision",
}
#: The first version of vLLM whose media processors have the form that ours extend.
FIRST = (0, 32)


def register() -> None:
    """Put our classes in the place of vLLM's. Without a plan they do what those do. Safe to call twice.

    With an older vLLM it only says that it does nothing, as the engine may run without a plan.

    Raises:
        MissingExtraError: vLLM is not installed.
    """
    try:
        from vllm import ModelRegistry, __version__
        from vllm.model_executor.models.config import MODELS_CONFIG_MAP
        from vllm.platforms import current_platform
    except ImportError as error:
        raise MissingExtraError("this needs vLLM: pip install 'foveate[vllm]'") from error
    version = tuple(int(n) for n in re.findall(r"\d+", str(__version__))[:2])
    if version and version < FIRST:
        logger.warning("foveate's plug-in needs vLLM 0.32 or later, and does nothing in %s", __version__)
        return
    from .configure import extended

    for architecture, module in MODELS.items():
        ModelRegistry.register_model(architecture, f"{__name__}.{module}:Model")
        MODELS_CONFIG_MAP[architecture] = extended(MODELS_CONFIG_MAP.get(architecture))
    if current_platform.is_cpu():
        from .cpu import mend

        mend()
