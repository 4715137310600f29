"""Videos encoded once and kept: compressed visual tokens in a columnar store, searched by vector, asked any number of
times without decoding or encoding again."""

from .asking import ask_store
from .indexing import Indexed, find, index
from .recipe import Recipe, media_hash, model_hash
from .table import Archive

__all__ = ["Archive", "Indexed", "Recipe", "ask_store", "find", "index", "media_hash", "model_hash"]
