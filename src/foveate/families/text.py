"""Text-only language models."""

from . import Family

FAMILY = Family(types=("llama", "qwen2", "qwen3", "mistral", "gemma3_text"), kind="lm")
