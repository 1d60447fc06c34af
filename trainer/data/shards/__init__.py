"""Data sets as tar shards: what is in them, how they are written, fetched from elsewhere and kept on this machine."""
