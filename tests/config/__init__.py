"""Configuration: what is merged, what is refused and in which words, and the pages that describe the keys."""
