"""Sampling an image at computed places, and moving its pixels: grids, boxes, deformed kernels, blocks."""

PARTS = (
    "pixels",
    "grids",
    "deformed",
    "blocks",
)
"""Its modules, in the order in which rules are read."""
