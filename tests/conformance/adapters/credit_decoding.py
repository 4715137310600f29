"""CreditDecoding; without credit it is the threshold rule that the case counts the forwards of as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from denoiser import counted, decode
from torch import Tensor

from foveate.diffusion.schedules.creditdecoding import CreditDecoding


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    options = (params["threshold"], params["credit_alpha"], params["boost_gamma"], params["decay_beta"])
    plain = decode(params, given, CreditDecoding(options[0], alpha=0.0))
    out = counted(decode(params, given, CreditDecoding(*options)))
    return out | {"n_forward_plain": torch.tensor(plain.report.forwards)}
