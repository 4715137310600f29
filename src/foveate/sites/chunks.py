"""Generation that prefills in chunks of its own is refused: an image's tokens come all at once."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from ..errors import UnsupportedCallError


def refuse(model: Any, stack: ExitStack) -> None:
    """Let ``model.generate(prefill_chunk_size=...)`` fail with a clear message until the stack is closed."""
    plain = getattr(model, "_prefill", None)
    if plain is None:  # a bare encoder or decoder does not generate
        return
    own = vars(model).get("_prefill")

    def prefill(*args: Any, **kwargs: Any) -> Any:
        config = kwargs.get("generation_config", args[1] if len(args) > 1 else None)
        if (size := getattr(config, "prefill_chunk_size", None)) is not None:
            raise UnsupportedCallError(
                "the model must be given the whole prompt; call generate without prefill_chunk_size. "
                f"Got {size}; foveate.apply(..., chunk={size}) reads it in pieces after that."
            )
        return plain(*args, **kwargs)

    vars(model)["_prefill"] = prefill
    if own is None:
        stack.callback(vars(model).pop, "_prefill")
    else:
        stack.callback(vars(model).__setitem__, "_prefill", own)
