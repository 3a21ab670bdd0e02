"""Operators that shape, cut, pad and fill tensors, where a shape, size, start or axis is an input.

Each form keeps the operand at run time where the size of the output does not depend on it, or reads the operand off
the output's declared shape, which is the model's own promise about it.
"""

PARTS = (
    "axes",
    "declared",
    "cutting",
    "padding",
    "triangles",
)
"""Its modules, in the order in which rules are read."""
