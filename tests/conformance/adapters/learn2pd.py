"""Learn2PD: the filter is a perceptron whose matrices the case gives for row vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from denoiser import counted, decode
from torch import Tensor

from foveate.diffusion.filter import Filter
from foveate.diffusion.schedules.learn2pd import Learn2PD


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    net = Filter(given["W1"].shape[0], given["W1"].shape[1])
    names = {"up.weight": given["W1"].T, "up.bias": given["b1"], "down.weight": given["W2"].T, "down.bias": given["b2"]}
    net.load_state_dict(names)
    schedule = Learn2PD(net, params["accept_threshold"])
    return counted(decode(params, given, schedule, steps=params["steps"]))
