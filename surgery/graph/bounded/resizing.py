"""Resizing of what is padded along axes that keep their size: samples, channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.graph.bounded.dims import Dim
from surgery.graph.bounded.handlers import on
from surgery.graph.bounded.work import No

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.work import Bounds

MOVING = frozenset({"tf_crop_and_resize", "tf_half_pixel_for_nn"})
"""Ways to count places under which an axis that keeps its size may not stay as it is."""


@on("Resize", "Upsample")
def _resize(bounds: Bounds, node: gs.Node) -> bool:
    """An axis that is not scaled stays as it is, padding too."""
    own = dict(bounds.padded.get(node.inputs[0].name, {}))
    if not own or any(t.name in bounds.padded for t in node.inputs[1:]):
        raise No(f"the operands of a {node.op} are padded")
    if _text(node, "coordinate_transformation_mode") in MOVING:
        raise No(f"{node.op} counts places in a way that moves axes that keep their size")
    if _text(node, "keep_aspect_ratio_policy") not in ("", "stretch"):
        raise No(f"{node.op} chooses sizes by itself")
    dims = bounds.dims(node.inputs[0])
    axes = [a % len(dims) for a in node.attrs.get("axes") or range(len(dims))]
    if len(node.inputs) > 3 and node.inputs[3].name:
        _keep_sizes(bounds, node, dict(enumerate(dims)), axes)
    elif any(a in own and scale != 1 for a, scale in zip(axes, _scales(bounds, node), strict=True)):
        raise No(f"{node.op} scales a padded axis")
    bounds.pad(node.outputs[0], own)
    return False


def _keep_sizes(bounds: Bounds, node: gs.Node, dims: dict[int, Dim], axes: list[int]) -> None:
    """Give the sizes of padded axes with their padding.

    Raises:
        No: a padded axis gets another size, or sizes depend on data.
    """
    own = bounds.padded[node.inputs[0].name]
    wanted = bounds.elements(node.inputs[3])
    if wanted is None:
        raise No(f"the sizes of a {node.op} are computed from data")
    sizes = list(wanted.reshape(-1))
    for axis, size in zip(axes, sizes, strict=True):
        if axis in own and size != dims[axis]:
            raise No(f"{node.op} scales a padded axis")
        if axis not in own and not size.exact:
            raise No(f"a {node.op} to a size that depends on data")
    node.inputs[3] = bounds.value(sizes, rooms=True)


def _scales(bounds: Bounds, node: gs.Node) -> list[float]:
    """The scales, an attribute or an operand.

    Raises:
        No: they are not constant.
    """
    if "scales" in node.attrs:
        return [float(s) for s in node.attrs["scales"]]
    given = [t for t in node.inputs[1:3] if t.name and t.shape != (0,)]
    value: Any = bounds.number(given[-1]) if given else None
    if value is None:
        raise No(f"the scales of a {node.op} are not constant")
    return [float(s) for s in value.reshape(-1)]


def _text(node: gs.Node, name: str) -> str:
    value = node.attrs.get(name, "")
    return value.decode() if isinstance(value, bytes) else str(value)
