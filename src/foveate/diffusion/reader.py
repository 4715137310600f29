"""How the engine reads a masked model: all of a text at once, or again some positions of it over what is remembered.

Two kinds of Hugging Face model are read as they are. A model that is bidirectional by itself (LLaDA's and Dream's own
code, masked encoders) gives logits for ids. An ordinary decoder (Llama, Qwen) whose weights were trained as a denoiser
is opened by a mask that lets every position see every other, and then its keys and values can be reused.
"""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import UnsupportedCallError, UnsupportedModelError

#: Families whose own forward is bidirectional although it looks like a decoder's, and whose cache is not transformers'.
OWN = ("llada", "llada_moe", "dream", "sdar")
#: Families whose logits at a position are for the next one.
SHIFTED = ("dream",)


class Reader(Protocol):
    """A masked model in the middle of one text."""

    def whole(self, ids: Tensor, start: int, stop: int, *, remember: bool = False) -> Tensor:
        """Read all of ids (B, L); logits (B, stop - start, V) of those positions. remember: for :meth:`part`."""
        ...

    def part(self, ids: Tensor, at: Tensor) -> Tensor:
        """Read only the positions ``at`` (B, k), whose tokens are ids (B, k), over what is remembered of the others.

        What is remembered of these positions is replaced. Returns logits (B, k, V).
        """
        ...


def read_with(model: Any, valid: Tensor | None = None, shift: bool | None = None) -> Reader:
    """The reader of a model.

    Args:
        model: a Hugging Face model, any callable ids (B, L) -> logits (or an object with ``logits``), or a reader.
        valid: (B, L) bool, False at padding.
        shift: whether logits at a position are for the next one, as in Dream; None: by the model's type.
    """
    kind = str(getattr(getattr(model, "config", None), "model_type", "")).lower()
    shift = kind in SHIFTED if shift is None else shift
    if hasattr(model, "whole") and hasattr(model, "part"):
        reader: Reader = model
    elif hasattr(model, "prepare_inputs_for_generation") and kind not in OWN:
        if model.config.is_encoder_decoder:
            raise UnsupportedModelError(f"a masked model has no separate encoder. Got {type(model).__name__}.")
        reader = _Opened(model, valid)
    elif callable(model):
        reader = _Plain(model, valid)
    else:
        raise UnsupportedModelError(f"a masked model is called with ids and gives logits. Got {type(model).__name__}.")
    return _Shifted(reader) if shift else reader


class _Plain:
    """A model that is bidirectional by itself; it remembers nothing."""

    def __init__(self, model: Any, valid: Tensor | None) -> None:
        self.model, self.valid = model, valid
        named = inspect.signature(getattr(model, "forward", model)).parameters
        self.masks = "attention_mask" in named
        if valid is not None and not bool(valid.all()) and not self.masks:
            raise UnsupportedCallError(f"{type(model).__name__} takes no attention_mask, so rows must be equally long")

    def whole(self, ids: Tensor, start: int, stop: int, *, remember: bool = False) -> Tensor:
        if remember:
            raise UnsupportedCallError(
                f"{type(self.model).__name__} keeps no cache that can be reused; call generate with cache=None"
            )
        mask = {"attention_mask": self.valid[:, : ids.shape[1]].long()} if self.masks and self.valid is not None else {}
        out = self.model(ids, **mask)
        logits: Tensor = getattr(out, "logits", out)
        return logits[:, start:stop]

    def part(self, ids: Tensor, at: Tensor) -> Tensor:
        raise UnsupportedCallError("nothing is remembered of this text")


class _Opened:
    """A decoder of transformers whose attention is opened to both sides by its mask."""

    def __init__(self, model: Any, valid: Tensor | None) -> None:
        self.model, self.valid = model, valid
        self.cache: Any = None
        self.ranged = "logits_to_keep" in inspect.signature(model.forward).parameters

    def whole(self, ids: Tensor, start: int, stop: int, *, remember: bool = False) -> Tensor:
        from ..stores.overwrite import OverwriteCache

        self.cache = OverwriteCache(self.model.config.get_text_config().num_hidden_layers) if remember else None
        at = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        return self._read(ids, at, ids.shape[1], start, stop)

    def part(self, ids: Tensor, at: Tensor) -> Tensor:
        if self.cache is None:
            raise UnsupportedCallError("nothing is remembered of this text; read the whole of it first")
        self.cache.at = at
        length = self.cache.layers[0].keys.shape[2]
        return self._read(ids, at, length, 0, ids.shape[1])

    def _read(self, ids: Tensor, at: Tensor, length: int, start: int, stop: int) -> Tensor:
        b, k = ids.shape
        valid = ids.new_ones(b, length, dtype=torch.bool) if self.valid is None else self.valid[:, :length]
        places = (valid.cumsum(-1) - 1).clamp(min=0)
        dtype = self.model.dtype
        mask = torch.zeros(b, 1, k, length, dtype=dtype, device=ids.device)
        mask = mask.masked_fill(~valid[:, None, None], torch.finfo(dtype).min)
        more = {"logits_to_keep": torch.arange(start, stop, device=ids.device)} if self.ranged else {}
        logits: Tensor = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=places.gather(1, at),
            past_key_values=self.cache,
            use_cache=self.cache is not None,
            **more,
        ).logits
        return logits if self.ranged else logits[:, start:stop]


class _Shifted:
    """A model whose logits at a position are for the next one: those of the position to the left are asked for."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.ids: Tensor | None = None

    def whole(self, ids: Tensor, start: int, stop: int, *, remember: bool = False) -> Tensor:
        if start < 1:
            raise UnsupportedCallError("a model that predicts the next position needs a token before the first mask")
        self.ids = ids
        return self.reader.whole(ids, start - 1, stop - 1, remember=remember)

    def part(self, ids: Tensor, at: Tensor) -> Tensor:
        """at: consecutive positions; the one before them is read again too."""
        assert self.ids is not None
        self.ids = self.ids.scatter(1, at, ids)
        before = at[:, :1] - 1
        ids = torch.cat([self.ids.gather(1, before), ids], 1)
        return self.reader.part(ids, torch.cat([before, at], 1))[:, :-1]
