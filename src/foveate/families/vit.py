"""Plain vision transformers."""

from . import Family

FAMILY = Family(
    types=("vit", "deit", "clip", "clip_vision_model", "siglip", "siglip_vision_model", "dinov2"),
    kind="vit",
    pool="one",
)
