"""Where things are in a Hugging Face model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..families import Family, families

#: config fields that name a placeholder token, by what it stands for.
_VISUAL = {"image": ("image_token_id", "image_token_index"), "video": ("video_token_id", "video_token_index")}


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The parts of a model that stages act on; a part the model lacks is None or empty."""

    model: Any
    family: Family
    name: str
    decoder: Any
    layers: tuple[nn.Module, ...]
    encoder: Any
    blocks: tuple[nn.Module, ...]
    prefix: int
    image_ids: tuple[int, ...]
    video_ids: tuple[int, ...]

    @property
    def core(self) -> Any:
        """The model without its head: what sees ``input_ids`` and ``pixel_values``."""
        return self.model.base_model

    @property
    def visual_ids(self) -> tuple[int, ...]:
        """Token ids that are placeholders of visual tokens."""
        return self.image_ids + self.video_ids

    def visual(self, ids: Tensor) -> Tensor:
        """ids (B, n) -> (B, n) bool, True at placeholders of visual tokens."""
        return torch.isin(ids, torch.tensor(self.visual_ids, device=ids.device, dtype=ids.dtype))

    @property
    def feature_block(self) -> int:
        """0-based index of the block whose output the projector reads, the last one if it reads several."""
        at = getattr(self.model.config, "vision_feature_layer", -1)
        read = at if isinstance(at, list | tuple) else [at]
        # hidden states count the embedding too: index -1 is the last block's output, 1 the first block's
        return max(int(len(self.blocks) + i if i < 0 else i - 1) for i in read)

    @property
    def lead(self) -> int:
        """How many of the tower's leading tokens (see ``prefix``) the LLM is given as well."""
        full = getattr(self.model.config, "vision_feature_select_strategy", None) == "full"
        return self.prefix if full and self.family.pool == "one" else 0

    @property
    def windows(self) -> tuple[int | None, ...]:
        """Sliding-window width of each decoder layer, None where it attends to everything."""
        config = self.decoder.config
        width = getattr(config, "sliding_window", None)
        kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * len(self.layers)
        return tuple(width if kind == "sliding_attention" else None for kind in kinds)

    @property
    def unit(self) -> int:
        """Patches in one merge group of a packed tower."""
        return int(getattr(self.encoder, "spatial_merge_size", 1)) ** 2


def anatomy(model: Any) -> Anatomy:
    """Find the parts of a model.

    Raises:
        UnsupportedModelError: when the model is not of a known family, or its layers cannot be found.
    """
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    known = families()
    if kind not in known:
        raise UnsupportedModelError(
            f"{type(model).__name__} (model type {kind!r}) is not supported; supported are {', '.join(sorted(known))}"
        )
    family = known[kind]
    decoder = model.get_decoder() if family.kind != "vit" else None
    encoder = _encoder(model) if family.kind == "vlm" else None
    if family.kind == "vit":
        encoder = getattr(model, "vision_model", model)  # CLIP and SigLIP come with a text half
    layers = _longest(decoder) if decoder is not None else ()
    blocks = _longest(encoder) if encoder is not None else ()
    if (decoder is not None and not layers) or (encoder is not None and not blocks):
        raise UnsupportedModelError(f"{type(model).__name__}: the list of its layers was not found")
    ids = {what: _ids(config, fields) for what, fields in _VISUAL.items()} if family.kind == "vlm" else {}
    return Anatomy(
        model=model,
        family=family,
        name=type(model).__name__,
        decoder=decoder,
        layers=layers,
        encoder=encoder,
        blocks=blocks,
        prefix=_prefix(encoder) if encoder is not None else 0,
        image_ids=ids.get("image", ()),
        video_ids=ids.get("video", ()),
    )


def _encoder(model: Any) -> Any:
    found = model.get_encoder(modality="image")
    return None if found is model or found is model.base_model else found


def _longest(module: nn.Module) -> tuple[nn.Module, ...]:
    lists = [tuple(m) for m in module.modules() if isinstance(m, nn.ModuleList)]
    return max(lists, key=len, default=())


def _ids(config: Any, fields: tuple[str, ...]) -> tuple[int, ...]:
    found = {getattr(config, f, None) for f in fields}
    return tuple(sorted(i for i in found if isinstance(i, int)))


def _prefix(encoder: nn.Module) -> int:
    """Class, distillation and register tokens in front of the patches."""
    count = 0
    for name, p in encoder.named_parameters():
        last = name.rsplit(".", 1)[-1]
        if last in ("cls_token", "class_embedding", "distillation_token"):
            count += 1
        elif last == "register_tokens":
            count += p.shape[1]
    return count


def attention_of(layer: nn.Module) -> nn.Module:
    """The attention module of a layer or block."""
    for name in ("self_attn", "attn", "attention"):
        if isinstance(found := getattr(layer, name, None), nn.Module):
            inner = getattr(found, "attention", None)  # older towers wrap it together with its output projection
            return inner if isinstance(inner, nn.Module) else found
    raise UnsupportedModelError(f"no attention module was found in {type(layer).__name__}")


def norms_of(layer: nn.Module) -> list[nn.Module]:
    """The normalisation modules of a layer, in the order they were made (before attention, before the MLP, ...)."""
    return [m for m in layer.children() if "norm" in type(m).__name__.lower()]


def mlp_of(block: nn.Module) -> nn.Module:
    """The MLP of a block."""
    for name, found in block.named_children():
        if "mlp" in name or "ffn" in name:
            return found
    raise UnsupportedModelError(f"no MLP was found in {type(block).__name__}")
