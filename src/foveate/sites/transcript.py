"""The text of one call of generate as it grows: settling tokens, stopping, streaming, and the result."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.generation import GenerateDecoderOnlyOutput


class Transcript:
    """Tokens are settled one after the other, as in a plain decoding loop: criteria and streamers see no difference.

    Attributes:
        ids: (B, n) the text so far.
        open: (B,) int64, 1 for rows still going on.
        rows: how many of them there are.
    """

    def __init__(self, ids: Tensor, stopping: Any, config: Any, streamer: Any) -> None:
        self.ids, self._stopping, self._config, self._streamer = ids, stopping, config, streamer
        self.open = torch.ones(ids.shape[0], dtype=torch.long, device=ids.device)
        self.rows = ids.shape[0]
        self.pads = any(hasattr(s, "eos_token_id") for s in stopping)
        self.pad = config._pad_token_tensor.to(ids.device) if self.pads else ids.new_zeros(())
        wanted = config.return_dict_in_generate
        self._scores: tuple[Tensor, ...] | None = () if wanted and config.output_scores else None
        self._logits: tuple[Tensor, ...] | None = () if wanted and config.output_logits else None

    @property
    def going(self) -> Tensor:
        """(B,) bool: rows whose drafts count. Without an end-of-text criterion, generate lets finished rows go on."""
        return self.open == 1 if self.pads else torch.ones_like(self.open, dtype=torch.bool)

    @property
    def all_going(self) -> bool:
        """Whether that is all of them."""
        return not self.pads or self.rows == len(self.ids)

    @property
    def room(self) -> int:
        """Tokens that may still come."""
        return int(self._config.max_length) - self.ids.shape[1]

    def padded(self, tokens: Tensor) -> Tensor:
        """tokens (B, k) with those of rows that no longer go on replaced by the padding token."""
        return tokens if self.all_going else torch.where(self.going[:, None], tokens, self.pad)

    def settle(self, tokens: Tensor, scores: Tensor, logits: Tensor) -> int:
        """Append tokens (B, k) until a row finishes; returns how many were (what follows is drafted anew).

        scores, logits: (B, >= k, V) at the positions of the tokens, with and without logits processors.
        """
        for j in range(tokens.shape[1]):
            self.ids = torch.cat([self.ids, self.padded(tokens[:, j : j + 1])], 1)
            if self._scores is not None:
                self._scores += (scores[:, j].clone(),)
            if self._logits is not None:
                self._logits += (logits[:, j].clone(),)
            self.open = self.open & ~self._stopping(self.ids, self._scores)
            if self._streamer is not None:
                self._streamer.put(self.ids[:, -1].cpu())
            rows, self.rows = self.rows, int(self.open.sum())
            if self.rows < rows:
                break
        return j + 1

    def result(self, cache: Any) -> Any:
        """What generate returns."""
        if self._streamer is not None:
            self._streamer.end()
        if not self._config.return_dict_in_generate:
            return self.ids
        return GenerateDecoderOnlyOutput(
            sequences=self.ids, scores=self._scores, logits=self._logits, past_key_values=cache
        )
