"""foveate: keep what the question needs. Cheap multimodal LLMs on Hugging Face models as they are."""

from .method import Keep, Many, OneOf, Range, method, option
from .reduction import Reduction
from .spec import Plan, methods, parse
from .tokens import Entries, Tokens

__version__ = "0.1.0"

__all__ = [
    "Entries",
    "Keep",
    "Many",
    "OneOf",
    "Plan",
    "Range",
    "Reduction",
    "Tokens",
    "method",
    "methods",
    "option",
    "parse",
]
