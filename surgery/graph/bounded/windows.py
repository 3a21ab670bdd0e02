"""Convolutions and pooling along padded axes.

What is behind the real entries is made what padding of the operator itself is: 0, or less than anything. A window
that begins among the real entries then sees the same as in the model, so what is real of the result stands in front.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.bounded import sums
from surgery.graph.bounded.dims import Dim
from surgery.graph.bounded.handlers import lowest
from surgery.graph.bounded.spans import known_sum, note, terms_of

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.work import Bounds

WINDOWED = frozenset({"AveragePool", "Conv", "ConvTranspose", "MaxPool"})
"""Operators that are handled here."""


def windows(bounds: Bounds, node: gs.Node) -> bool:
    """Change a node that moves windows along padded axes.

    Raises:
        No: what it makes of real entries depends on where the padding begins.
    """
    from surgery.graph.bounded.work import No

    source = node.inputs[0]
    own = dict(bounds.padded[source.name])
    inner = sorted(a for a in own if a > 1)
    if (
        1 in own
        or any(t.name in bounds.padded for t in node.inputs[1:])
        or len([t for t in node.outputs if t.name]) > 1
    ):
        raise No(f"{node.op} works along a padded axis")
    geometry = _Geometry(bounds, node)
    found = {0: own[0]} if 0 in own else {}
    for axis in inner:
        found[axis] = geometry.size(axis)
    fill = lowest(source) if node.op == "MaxPool" else 0
    node.inputs[0] = bounds.masked(source, fill, inner)
    bounds.pad(node.outputs[0], found)
    return False


class _Geometry:
    """Strides and the like of a node.

    Args:
        bounds: What is known of sizes.
        node: The node.
    """

    def __init__(self, bounds: Bounds, node: gs.Node) -> None:
        from surgery.graph.bounded.work import No

        self.bounds, self.node = bounds, node
        self.dims = bounds.dims(node.inputs[0])
        count = len(self.dims) - 2
        kernel = node.attrs.get("kernel_shape")
        if not kernel and node.op in ("Conv", "ConvTranspose"):
            kernel = [d.number for d in bounds.dims(node.inputs[1])[2:]]
        padding = node.attrs.get("auto_pad", "NOTSET")
        self.padding = padding.decode() if isinstance(padding, bytes) else padding
        if not kernel or None in kernel or node.attrs.get("ceil_mode", 0) or node.attrs.get("output_shape"):
            raise No(f"{node.op} works along a padded axis in a way that is not known")
        self.kernel = [int(k) for k in kernel]
        self.steps = [int(s) for s in node.attrs.get("strides") or [1] * count]
        self.wide = [int(d) for d in node.attrs.get("dilations") or [1] * count]
        self.pads = [int(p) for p in node.attrs.get("pads") or [0] * 2 * count]
        self.extra = [int(p) for p in node.attrs.get("output_padding") or [0] * count]
        self.count = count

    def size(self, axis: int) -> Dim:
        """True size of the result along an axis behind the first two."""
        from surgery.graph.bounded.work import No

        place = axis - 2
        reach = self.wide[place] * (self.kernel[place] - 1) + 1
        step = self.steps[place]
        both = self.pads[place] + self.pads[place + self.count]
        if self.padding == "VALID":
            both = 0
        elif self.padding.startswith("SAME"):
            if step != 1:
                raise No(f"{self.node.op} pads as the true size wants")
            both = reach - 1
        if self.node.op == "ConvTranspose":
            more = reach - step + self.extra[place] - both
            return moved(self.bounds, self.dims[axis] * Dim(step), more)
        if self.node.op == "AveragePool" and both and not self.node.attrs.get("count_include_pad", 0):
            raise No("an AveragePool along a padded axis that leaves padding out")
        return moved(self.bounds, self.dims[axis], both + step - reach, step)


def moved(bounds: Bounds, dim: Dim, more: int, step: int = 1) -> Dim:
    """A count with a number added, over another one, rounded down; not below 0."""
    terms = sums.plus(terms_of(bounds, dim), {(): more} if more else {})
    parts = sums.whole_part(terms, step) if step > 1 else terms
    if step == 1:
        known = known_sum(bounds, terms)
        if known is not None and more >= 0:
            return known
    room = bounds.exact("Add", bounds.room(dim), Dim(more))
    value: Any = bounds.scalar(dim)
    if more:
        value = bounds.emit("Add", value, np.asarray(more, np.int64))
    if step > 1:
        room = bounds.exact("Div", room, Dim(step))
        value = bounds.emit("Div", value, np.asarray(step, np.int64))
    if more < 0:
        zero = np.asarray(0, np.int64)
        below = bounds.emit("Less", value, zero, dtype=np.bool_)
        value = bounds.emit("Where", below, zero, value, dtype=np.int64)
    found = bounds.atom(f"div(({dim}+{more}),{step})", value, 0, room)
    return found if parts is None or step > 1 else note(bounds, found, parts)
