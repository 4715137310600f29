"""Where methods meet a Hugging Face model. All knowledge of transformers' internals lives here and in families."""
