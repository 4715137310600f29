"""foveate as a model of lmms-eval: ``lmms-eval --model foveate --model_args pretrained=...,plan=...``.

lmms-eval finds it by the entry-point group ``lmms_eval.models``; nothing of lmms-eval is imported before that.
"""

from __future__ import annotations

from typing import Any


def manifests() -> list[Any]:
    """What lmms-eval registers: the name of the model and of its class."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [ModelManifest(model_id="foveate", chat_class_path="foveate.lmms.model.Foveate")]
