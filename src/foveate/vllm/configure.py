"""What happens when vLLM makes an engine's configuration: the plan is checked, and what it needs is switched on."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models.config import VerifyAndUpdateConfig

from ..errors import PlanError
from . import settings

#: Any share above 0 switches on vLLM's handling of shortened media; how much is dropped is the plan's to say.
SWITCH = 0.5
_DONE = "foveate_configured"


class Configure(VerifyAndUpdateConfig):
    """Called for each of our architectures when its configuration is made."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Check the plan and prepare the configuration for it.

        Raises:
            PlanError: the plan cannot run in vLLM, or two kinds of pruning are asked for.
        """
        config, media = model_config.hf_config, model_config.multimodal_config
        if media is None or getattr(config, _DONE, False):
            return
        if wrong := [k for k in media.mm_processor_kwargs or {} if k.startswith(settings.KEY)]:
            raise PlanError(f"{wrong[0]} is for single requests; for the engine set it by hf_overrides")
        plan = settings.engine(config, str(config.model_type))
        if plan is None:
            return
        if media.video_pruning_rate:
            raise PlanError(
                f"vLLM's own pruning of videos cannot run together with {plan}; leave out video_pruning_rate"
            )
        setattr(config, settings.PLAN, plan)
        setattr(config, settings.KEEP, None)
        setattr(config, _DONE, True)
        media.video_pruning_rate = SWITCH
        _positions(config.get_text_config())


def extended(before: type[Any] | None) -> type[Any]:
    """What is called for an architecture: first what vLLM had for it, if anything, then :class:`Configure`."""
    if before is None:
        return Configure
    if issubclass(before, Configure):
        return before
    theirs = before

    class Both(Configure):
        verify_and_update_config = staticmethod(theirs.verify_and_update_config)

        @staticmethod
        def verify_and_update_model_config(model_config: Any) -> None:
            theirs.verify_and_update_model_config(model_config)
            Configure.verify_and_update_model_config(model_config)

    return Both


def _positions(text: Any) -> None:
    """Let a model that counts positions one by one take three, all equal: only then can vLLM give a token its own.

    Raises:
        PlanError: its rotary embedding has no such form in vLLM.
    """
    rope = text.rope_parameters
    if "mrope_section" in rope:
        return
    if (kind := rope.get("rope_type", "default")) not in ("default", "yarn"):
        raise PlanError(f"tokens keep their positions, and vLLM cannot be told them under {kind} rotary embeddings")
    half = int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads) // 2
    third = half // 3
    rope["mrope_section"] = [half - 2 * third, third, third]
