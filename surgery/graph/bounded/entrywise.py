"""Operators that treat entries or samples alike, behind padded operands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph.bounded.by_entry import PER_SAMPLE
from surgery.graph.bounded.dims import ONE, Dim
from surgery.graph.bounded.handlers import on, only_first
from surgery.graph.bounded.windows import WINDOWED, windows
from surgery.graph.bounded.work import No

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.work import Bounds


def per_entry(bounds: Bounds, node: gs.Node) -> bool:
    """Operands broadcast from the back; who is padded along an axis is so by the same size, or has size 1 there."""
    shapes = [(t, bounds.dims(t)) for t in node.inputs if t.name]
    rank = max(len(d) for _, d in shapes)
    found: dict[int, Dim] = {}
    for axis in range(rank):
        here = [d[axis - rank + len(d)] for _, d in shapes if axis - rank + len(d) >= 0]
        wide = {d for d in here if d != ONE}
        if len(wide) > 1 and all(d.exact for d in wide):
            continue  # nothing is padded here, whichever it is
        if len(wide) > 1:
            raise No(f"sizes {', '.join(sorted(map(str, wide)))} meet along axis {axis} of {node.op}")
        found[axis] = next(iter(wide), ONE)
    for tensor in node.outputs:
        if tensor.name:
            bounds.pad(tensor, found)
    return False


@on("RandomNormalLike", "RandomUniformLike", "Bernoulli")
def _random(bounds: Bounds, node: gs.Node) -> bool:
    """Each entry is drawn by itself, padding too."""
    bounds.pad(node.outputs[0], only_first(bounds, node))
    return False


@on(*PER_SAMPLE)
def _per_sample(bounds: Bounds, node: gs.Node) -> bool:
    own = only_first(bounds, node)
    if node.op in WINDOWED and set(own) != {0}:
        return windows(bounds, node)
    if node.op == "BatchNormalization" and 1 not in own and not node.attrs.get("training_mode", 0):
        bounds.pad(node.outputs[0], own)
        return False
    if set(own) != {0} or node.attrs.get("training_mode", 0):
        raise No(f"{node.op} works along a padded axis")
    bounds.pad(node.outputs[0], own)
    return False


@on("LayerNormalization", "RMSNormalization")
def _normalization(bounds: Bounds, node: gs.Node) -> bool:
    own = only_first(bounds, node)
    rank = len(bounds.dims(node.inputs[0]))
    if any(a >= int(node.attrs.get("axis", -1)) % rank for a in own):
        raise No(f"{node.op} works along a padded axis")
    bounds.pad(node.outputs[0], own)
    return False
