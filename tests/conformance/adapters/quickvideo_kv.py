"""QuickVideo: the newest entries of a cache are a group; those before it stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from adapters.quickvideo import NAMES
from foveate import Entries, Reduction
from foveate.cache.quickvideo import QuickVideo
from foveate.parts.kv_scores import received_since
from foveate.parts.select import top


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    new, past = int(params["n_new"]), int(params["n_past"])
    k = params["top_k"] or 0
    if params["top_p"] is not None and params["top_p"] >= 0:
        k = min(k or new, int(new * params["top_p"]))
    decay = params.get("decay_type") or "none"
    layer, layers = int(params["layer"]), int(params["n_layers"])
    shrink = QuickVideo(decay=decay, factor=float(params["decay_factor"] or 1))
    left = shrink.decayed(k, layer, layers)
    if left <= 0 or new <= left:
        return {"kept": torch.arange(past + new)}
    how = params["predict_type"]
    if how == "attention_weights_sum":
        (attention,) = (v for name, v in given.items() if name not in ("keys", "values"))
        attention = attention.reshape(-1, *attention.shape[-2:]).mean(0, keepdim=True)[:, -new:]
        kept = top(received_since(attention), left)[0]
    else:
        keys, values = (given[name][None, :, given[name].shape[1] - new :] for name in ("keys", "values"))
        method = QuickVideo(keep=left, group=new, score=NAMES[how])
        chosen: Reduction = method.reduce(Entries(keys, values, scaling=keys.shape[-1] ** -0.5))
        kept = chosen.keep[0]
    return {"kept": torch.cat([torch.arange(past), past + kept])}
