"""``foveate.edit_cache``: change a few tokens of a prompt that was read already, and read only those.

He et al., "Let the Code LLM Edit Itself When You Edit the Code" (Positional Integrity Encoding), ICLR 2025.
https://arxiv.org/abs/2407.03157

The tokens behind an edit of another length stand at other positions. Their cached keys are turned by the difference,
which is what taking the rotary embedding off and putting the right one on comes to; values have no positions. What they
have seen of the text before the edit is not made new, so everything behind it is an approximation: exact are the tokens
up to the end of the edit, in all layers, and all tokens in the first layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .apply import _busy
from .errors import UnsupportedCallError
from .sites.edit import edit
from .sites.model import anatomy


@torch.no_grad()
def edit_cache(model: Any, cache: Any, start: int, stop: int, ids: Tensor | None = None, offset: int = 0) -> None:
    """Put other tokens in the place of the tokens ``start:stop`` that a cache holds; the cache is changed.

    Args:
        model: a transformers model with rotary embeddings, without a plan on it.
        cache: what it filled: a dynamic cache, full attention in all layers. A plan may have shortened it, as long as
            all heads hold the same tokens.
        start, stop: positions in the text as read, padding included, 0 <= start <= stop <= length; of all rows.
        ids: (B, m) int64, the new tokens, or None to take tokens out. Insert with start == stop.
        offset: how far the model's positions are ahead of the tokens' numbers at ``start``, as after an image in
            Qwen-VL (``rope_deltas``, usually negative), or behind padding on the left.

    Several edits: from the last one to the first.

    Raises:
        InputError: positions or ids that do not fit the cache.
        UnsupportedCallError: the cache cannot be edited (sliding windows, packed or uneven heads), or a plan is on.
        UnsupportedModelError: the model has no rotary embedding, or one whose frequencies follow the length.
    """
    parts = anatomy(model)
    if _busy(parts):
        raise UnsupportedCallError("a plan is on this model; leave foveate.apply before editing its cache")
    edit(parts, cache, start, stop, ids, offset)
