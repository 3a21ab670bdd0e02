"""Quantised operators as casts and exact arithmetic in float32 and int32."""

PARTS = (
    "common",
    "linear",
    "products",
)
"""Its modules, in the order in which rules are read."""
