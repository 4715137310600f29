"""Cache slots that blend the entries which are not kept whole, with weights from small convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv1d

from ..reduction import Reduction

Layer = tuple[Tensor, Tensor | None]


def conv_weights(x: Tensor, convs: Sequence[Layer], activation: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """x (R, n, D), convs: weight (out, in, width) and bias of each -> (R, M, n) shares of n that sum to 1.

    The activation follows every convolution, the last included; width is padded so that n stays.
    """
    y = x.float().mT
    for weight, bias in convs:
        y = conv1d(y, weight, bias, padding="same")
        y = y if activation is None else activation(y)
    return y.softmax(-1)


def blended(whole: Tensor, rest: Tensor, heavy: Tensor, shares: Tensor, blend: float | Tensor, n: int) -> Reduction:
    """Whole entries beside slots that are each a mix of one entry and of all others that are not whole.

    whole (R, K) and rest (R, n - K) ascending positions, heavy (R, M): index in ``rest`` of the entry that each slot
    takes, ascending, and whose place it has; shares (R, M, n - K); blend: the part of the mix in a slot.
    """
    rows, k = whole.shape
    m = heavy.shape[1]
    one = torch.zeros_like(shares).scatter(2, heavy[..., None], 1.0)
    mix = one * (1 - blend) + shares * blend
    matrix = shares.new_zeros(rows, k + m, n)
    matrix[:, :k] = matrix[:, :k].scatter(2, whole[..., None], 1.0)
    matrix[:, k:] = matrix[:, k:].scatter(2, rest[:, None].expand(-1, m, -1), mix)
    keep, order = torch.cat([whole, rest.gather(1, heavy)], 1).sort(-1)
    return Reduction.dense(matrix.gather(1, order[..., None].expand(-1, -1, n)), keep)
