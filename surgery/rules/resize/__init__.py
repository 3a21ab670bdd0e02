"""Resize and Upsample: a product with a matrix of weights, or a gather, along every axis that changes."""

PARTS = (
    "axes",
    "interpolation",
    "operators",
)
"""Its modules, in the order in which rules are read."""
