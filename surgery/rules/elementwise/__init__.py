"""Elementwise operators, activations, products of matrices and Einsum in the forms that TensorRT refuses."""

PARTS = (
    "activations",
    "products",
    "einsum",
)
"""Its modules, in the order in which rules are read."""
