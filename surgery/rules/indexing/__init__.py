"""Scattering with reductions, selection by constant masks, reversal, n-gram counting."""

PARTS = (
    "updates",
    "scatter",
    "selection",
    "ngrams",
)
"""Its modules, in the order in which rules are read."""
