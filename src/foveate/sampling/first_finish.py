"""First finish search: draw several answers at once and take the one that is complete first.

"First Finish Search: Efficient Test-Time Scaling in Large Language Models", 2025. https://arxiv.org/abs/2505.18149

In reasoning, short traces are right more often than long ones, and waiting for the first of n costs less than for one.
All samples of a prompt stop together as soon as one of them has said an end token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from ..errors import InputError


class FirstFinish(StoppingCriteria):  # type: ignore[misc]
    """Ends all samples of a prompt once one of them has ended, for ``generate(stopping_criteria=[...])``.

    samples: rows of each prompt (``num_return_sequences``). prompt: tokens before the generated ones. ends: end tokens.
    """

    def __init__(self, samples: int, prompt: int, ends: list[int]) -> None:
        if samples < 1 or not ends:
            raise InputError(f"give at least one sample and one end token. Got {samples} and {ends}.")
        self.samples, self.prompt, self.ends = samples, prompt, ends

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """input_ids (B * samples, n) -> (B * samples,) bool."""
        ended = torch.isin(input_ids[:, self.prompt :], torch.tensor(self.ends, device=input_ids.device)).any(-1)
        return ended.view(-1, self.samples).any(-1).repeat_interleave(self.samples)


@dataclass(frozen=True)
class First:
    """The answer that was complete first for each prompt.

    Attributes:
        ids: (B, n) int64, prompt and answer, padded on the right with the end token.
        finished: (B,) bool, False where no sample ended within the length; the first one is given then.
        lengths: (B,) int64 new tokens, the end token's included.
        spent: new tokens over all samples.
    """

    ids: Tensor
    finished: Tensor
    lengths: Tensor
    spent: int


def first_finish(model: Any, input_ids: Tensor, *, samples: int = 4, seed: int = 0, **given: Any) -> First:
    """Draw ``samples`` answers to each prompt and return the first complete one; of several, the first in order.

    input_ids: (B, P) int64. given: more arguments of ``model.generate``, such as max_new_tokens, temperature, or
    pixel_values. seed: of the draws; torch's own random state is left as it was.

    Raises:
        InputError: the model names no end token, so nothing could ever finish.
    """
    config = given.get("generation_config") or model.generation_config
    end = given.get("eos_token_id", config.eos_token_id)
    if end is None:
        raise InputError("no end token is known, so no answer can finish; give eos_token_id=...")
    ends = [end] if isinstance(end, int) else list(end)
    prompt = input_ids.shape[1]
    criteria = [*(given.pop("stopping_criteria", None) or ()), FirstFinish(samples, prompt, ends)]
    given.setdefault("pad_token_id", ends[0])
    devices = [input_ids.device] if input_ids.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        options = {**given, "do_sample": True, "num_return_sequences": samples, "stopping_criteria": criteria}
        out = model.generate(input_ids=input_ids, **options)
    new = out[:, prompt:].view(len(input_ids), samples, -1)
    ended = torch.isin(new, torch.tensor(ends, device=out.device))
    n = new.shape[-1]
    length = torch.where(ended.any(-1), ended.long().argmax(-1) + 1, n)  # (B, samples)
    finished = ended.any(-1)
    best = torch.where(finished, length, n + 1).argmin(-1)  # the first of the shortest
    rows = torch.arange(len(input_ids), device=out.device)
    whole = out.view(len(input_ids), samples, -1)[rows, best]
    lengths = length[rows, best]
    past = torch.arange(n, device=out.device) >= lengths[:, None]
    whole[:, prompt:] = whole[:, prompt:].masked_fill(past, ends[0])
    return First(whole, finished[rows, best], lengths, int(torch.where(finished, length, n).sum()))
