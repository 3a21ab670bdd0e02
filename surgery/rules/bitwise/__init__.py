"""Operators on bits, and powers and remainders of whole numbers, by arithmetic that is exact.

Numbers are taken as TensorRT holds them: int32 for up to 16 bits, int64 for 32 and 64 bits (a uint64 above 2**63 is
the negative int64 of the same bits). What TensorRT computes exactly at any size is sums, differences, products and
comparisons. Its quotients and remainders of whole numbers are those of float32 (NVIDIA/TensorRT issue 4702:
18542495 % 32 is -1, for int64 too): they are exact below 2**24 and corrected by what is left over above it.
The lowest number is never an operand: it has no negative, which an optimizer that turns a - b around may not know.
"""

PARTS = (
    "words",
    "logic",
    "casts",
    "powers",
)
"""Its modules, in the order in which rules are read."""
