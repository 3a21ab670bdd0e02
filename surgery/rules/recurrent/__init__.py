"""RNN, GRU and LSTM: the whole operators as a Scan over their cells, and simpler repairs where those are enough."""

PARTS = (
    "cells",
    "scan",
    "operators",
)
"""Its modules, in the order in which rules are read."""
