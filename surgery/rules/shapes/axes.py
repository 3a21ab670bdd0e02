"""Sizes of axes, and operands that are given per axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch
from surgery.rules.engine.site import Dim, Operand


@dataclass(frozen=True)
class Along:
    """Operands of a node that are given per axis: where each of them is for an axis.

    Attributes:
        axes: The operand with the axes; None if they are the first ones in order.
        number: How many entries the operands have; None if not known.
        rank: Of the tensor.
    """

    axes: Operand | None
    number: Dim
    rank: int

    def place(self, r: int) -> int | None:
        """Position of axis `r` among the entries, where that is known; -1 if it is not among them."""
        if self.axes is None:
            if not isinstance(self.number, int):
                return r
            return r if r < self.number else -1
        if self.axes.value is None:
            return None
        known = [int(a) % self.rank for a in np.ravel(self.axes.value)]
        return known.index(r) if r in known else -1

    def entry(self, b: Body, operand: Operand, r: int, default: int, offset: int = 0) -> str:
        """The operand's entry for axis `r` as int64 of rank 0; entries start at `offset`."""
        place = self.place(r)
        if place == -1:
            return b.const(default, "int64")
        if place is not None:
            if operand.value is not None:
                return b.const(np.ravel(operand.value)[place + offset], "int64")
            return b.cast(b.gather(operand.name, b.const(place + offset, "int64"), axis=0), np.int64)
        assert self.axes is not None
        if not isinstance(self.number, int):
            raise NoMatch("the number of axes is not known")
        axes = b.cast(self.axes.name, np.int64)
        hit = b.logical_or(b.equal(axes, b.const(r, "int64")), b.equal(axes, b.const(r - self.rank, "int64")))
        none = b.const(-1, "int64")
        places = b.where(hit, b.const(np.arange(self.number), "int64"), none)
        found = b.reduce("ReduceMax", places, 0, keepdims=False)  # of an axis that is named twice the last
        entry = b.gather(
            operand.name, b.add(b.maximum(found, b.const(0, "int64")), b.const(offset, "int64")), axis=0
        )
        return b.where(b.equal(found, none), b.const(default, "int64"), b.cast(entry, np.int64))


def length(b: Body, x: Operand, dim: Dim) -> str | None:
    """A dim as int64 of rank 0: a number, or one that the input has under that name."""
    if isinstance(dim, int):
        return b.const(dim, "int64")
    shape = list(x.shape or ())
    if dim is None or dim not in shape:
        return None
    return b.gather(b.op("Shape", x.name), b.const(shape.index(dim), "int64"), axis=0)


def counted(b: Body, dim: Dim, size: str) -> str:
    """0, 1, 2 ... up to a size."""
    if isinstance(dim, int):
        return b.const(np.arange(dim), "int64")
    return b.op("Range", b.const(0, "int64"), size, b.const(1, "int64"))
