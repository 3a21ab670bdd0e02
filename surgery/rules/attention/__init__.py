"""Attention and what comes with it: caches that are written in place, statistics of normalizations."""

PARTS = (
    "heads",
    "operators",
    "caches",
    "statistics",
)
"""Its modules, in the order in which rules are read."""
