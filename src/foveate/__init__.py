"""foveate: keep what the question needs. Cheap multimodal LLMs on Hugging Face models as they are."""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .method import Keep, Many, OneOf, Range, method, option
from .reduction import Reduction
from .spec import Plan, methods, parse
from .tokens import Entries, Tokens

if TYPE_CHECKING:
    from .apply import apply
    from .ask import Answer, ask
    from .edit import edit_cache
    from .load import Loaded, load
    from .stores.saved import load_cache, save_cache
    from .stream import Stream

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Entries",
    "Keep",
    "Loaded",
    "Many",
    "OneOf",
    "Plan",
    "Range",
    "Reduction",
    "Stream",
    "Tokens",
    "apply",
    "ask",
    "edit_cache",
    "load",
    "load_cache",
    "method",
    "methods",
    "option",
    "parse",
    "save_cache",
]

#: Names whose modules import transformers; they are read when first used, so that ``import foveate`` stays light.
_LATER = {
    "load_cache": "stores.saved",
    "save_cache": "stores.saved",
    "Answer": "ask",
    "Loaded": "load",
    "Stream": "stream",
    "apply": "apply",
    "ask": "ask",
    "edit_cache": "edit",
    "load": "load",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Importing the file ``foveate/ask.py`` must not put the module where the function ``foveate.ask`` belongs."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _LATER and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
