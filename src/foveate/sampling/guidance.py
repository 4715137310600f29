"""Classifier-free guidance for captions: away from what the model would say of any image.

Kornblith et al., "Guiding Image Captioning Models Toward More Specific Captions", ICCV 2023.
https://arxiv.org/abs/2307.16686

p(word | image)^scale / p(word)^(scale - 1): words that the image makes likelier gain, words that any caption has lose.
The scale trades how typical a caption is against how well it tells its image from others. Any vision-language model can
be guided by its own answer to the same prompt without the image; the paper fine-tunes for that, and so gains more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from ..errors import InputError


class CaptionGuidance(LogitsProcessor):  # type: ignore[misc]
    """log p(. | no image) + scale * (log p(. | image) - log p(. | no image)), for ``generate(logits_processor=[...])``.

    Args:
        model: the model that generates; it reads the prompts without images beside, with a cache of its own.
        ids: (B, P) int64 the prompts without images (and attention_mask (B, P), padded on the left).
        scale: 1 is off, 0 forgets the image; the paper likes 1.5 to 3.

    Raises:
        InputError: a scale below 0, or another number of prompts than generate works on.
    """

    def __init__(self, model: Any, ids: Tensor, scale: float = 2.0, attention_mask: Tensor | None = None) -> None:
        if scale < 0 or ids.ndim != 2:
            raise InputError(f"'scale' must not be below 0, and ids (B, P). Got {scale} and {tuple(ids.shape)}.")
        self.model, self.ids, self.scale = model, ids, scale
        self.mask = torch.ones_like(ids) if attention_mask is None else attention_mask
        self.seen: Tensor | None = None  # what generate had said at the last call, its prompt included
        self.prompt = 0  # tokens of it
        self.cache: Any = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids (R, n), scores (R, V) -> (R, V) log-probabilities, guided."""
        given = scores.float().log_softmax(-1)
        blank = self._blank(input_ids).to(given.device)
        return blank + self.scale * (given - blank)

    @torch.no_grad()
    def _blank(self, said: Tensor) -> Tensor:
        """Log-probabilities (R, V) of what follows without the images."""
        seen = self.seen
        longer = seen is not None and len(seen) == len(said) and said.shape[1] > self.prompt
        if seen is None or not longer or not torch.equal(said[:, : self.prompt], seen[:, : self.prompt]):
            self.prompt, new, self.cache = said.shape[1], said[:, :0], None  # another call of generate
        elif torch.equal(said[:, : seen.shape[1]], seen) and said.shape[1] > seen.shape[1]:
            new = said[:, seen.shape[1] :]
        else:  # beams were reordered, or words were taken back
            new, self.cache = said[:, self.prompt :], None
        self.seen = said
        return self._read(new, said.shape[1] - self.prompt)

    def _read(self, new: Tensor, words: int) -> Tensor:
        rows = len(new)
        if rows % len(self.ids):
            raise InputError(f"{len(self.ids)} prompts without images were given, and generate works on {rows} rows")
        ids = self.ids.repeat_interleave(rows // len(self.ids), 0).to(new.device)
        mask = self.mask.repeat_interleave(rows // len(self.ids), 0).to(new.device)
        mask = torch.nn.functional.pad(mask, (0, words), value=1)
        tokens = torch.cat([ids, new], 1) if self.cache is None else new
        places = (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        out = self.model(
            input_ids=tokens, attention_mask=mask, position_ids=places, past_key_values=self.cache, use_cache=True
        )
        self.cache = out.past_key_values
        return torch.as_tensor(out.logits[:, -1].float().log_softmax(-1))
