"""The study of the cache: what policies and stores leave of a model's answers, of its bytes and of its time."""
