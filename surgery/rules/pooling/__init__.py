"""Pooling: windows as gathers with constant positions, axis by axis where the reduction allows it."""

PARTS = (
    "sliding",
    "maximum",
    "means",
    "unpooling",
)
"""Its modules, in the order in which rules are read."""
