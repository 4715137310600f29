"""KeyDiff by blocks: the layers of a case are the rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foveate import Entries
from foveate.cache.keydiff import KeyDiff


def run(params: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys = given["keys"]
    method = KeyDiff(keep=1 - float(params["compression_ratio"]), block=int(params["block_size"]))
    return {"kept": method.reduce(Entries(keys, keys)).keep.view(*keys.shape[:2], -1)}
