"""Operators of classic machine learning (``ai.onnx.ml``) on numbers: scaling, linear models, trees, machines."""

PARTS = (
    "common",
    "features",
    "linear",
    "forest",
    "trees",
    "machines",
)
"""Its modules, in the order in which rules are read."""
