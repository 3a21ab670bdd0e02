"""What bodies share: lowered forms of operators from the rules, sizes, and computing in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.rules.engine.rule import Lowering, NeedsConstant, NoMatch
from surgery.rules.engine.site import Operand, Site


class WholeNumberBody(Body):
    """Writes smaller and larger ones of integers by comparisons, where Min and Max take no integers yet."""

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Append one node with one output and return its name."""
        if self.opset >= 12 or op_type not in ("Min", "Max"):
            return super().op(op_type, *inputs, **attributes)
        one, two = inputs
        return self.where(self.less(one, two) if op_type == "Min" else self.greater(one, two), one, two)


def lowered(
    b: Body,
    node: ConfiguredNode,
    rule: Lowering,
    op: str,
    operands: Sequence[tuple[str, TensorType] | None],
    attributes: Mapping[str, Any],
    *,
    opset: int | None = None,
) -> str:
    """An ONNX operator in the form that a rule writes where TensorRT does not take it.

    Args:
        b: Where the nodes go.
        node: The plugin node that needs it.
        rule: The rule.
        op: The operator.
        operands: Name and type of its inputs; None for one that is left out.
        attributes: Its attributes.
        opset: Opset whose defaults of attributes hold; the model's if None.

    Raises:
        ConversionError: the rule does not cover this configuration; with its reason.
    """
    inputs = tuple(Operand(o[0], np.dtype(o[1].dtype), o[1].shape) if o else None for o in operands)
    first = inputs[0]
    output = Operand("", first.dtype if first else None, None)
    site = Site(op, "", opset or node.opset, attributes, inputs, (output,))
    try:
        written = rule.build(site, b)
    except (NoMatch, NeedsConstant) as reason:
        raise node.refuse(f"{op} has no lowered form here: {reason}") from reason
    if not isinstance(written, str):
        raise node.refuse(f"rule {rule.name} did not write one tensor")
    return written


def given(node: ConfiguredNode, index: int) -> TensorType:
    """Type of an input.

    Raises:
        ConversionError: it is left out.
    """
    found = node.inputs[index] if index < len(node.inputs) else None
    if found is None:
        raise node.refuse(f"input {index} is missing")
    return found


def rank_of(node: ConfiguredNode, index: int) -> int:
    """Rank of an input.

    Raises:
        ConversionError: it is not known.
    """
    shape = given(node, index).shape
    if shape is None:
        raise node.refuse(f"the rank of {node.input_names[index]!r} is not known")
    return len(shape)


def size(b: Body, node: ConfiguredNode, index: int, axis: int) -> str:
    """A dim of an input, int64 of shape [1]: a constant if it is known."""
    shape = given(node, index).shape
    dim = shape[axis] if shape is not None else None
    if isinstance(dim, int):
        return b.ints(dim)
    return b.gather(b.op("Shape", node.input_names[index]), b.ints(axis), 0)


def numbers(b: Body, count: str) -> str:
    """0, 1, ... below a count of shape [1]; int64."""
    if b.opset >= 27:  # no TensorRT of this time takes the Range of these opsets
        ones = b.op("Expand", b.const(1, np.int64), count)
        return b.sub(b.op("CumSum", ones, b.const(0, np.int64)), b.const(1, np.int64))
    return b.op("Range", b.const(0, np.int64), b.squeeze(count, 0), b.const(1, np.int64))


def same_shape(b: Body, value: str, like: str) -> str:
    """A value reshaped like another one."""
    return b.op("Reshape", value, b.op("Shape", like))


def wide(b: Body, node: ConfiguredNode, index: int) -> str:
    """An input as float32."""
    name = node.input_names[index]
    return name if given(node, index).dtype == "float32" else b.cast(name, np.float32)


def narrow(b: Body, node: ConfiguredNode, value: str, index: int = 0) -> str:
    """A float32 value in the dtype of an input."""
    dtype = given(node, index).dtype
    return value if dtype == "float32" else b.cast(value, np.dtype(dtype))


def weights(value: Any, *shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A tensor attribute as float32 of a shape; -1 is inferred."""
    return np.asarray(value, np.float32).reshape(shape)


def mixed_floats(types: Sequence[TensorType | None], *indices: int) -> list[str]:
    """A problem if these inputs are not of one dtype (those left out do not count)."""
    found = sorted({t.dtype for i in indices if i < len(types) and (t := types[i]) is not None})
    return [f"the inputs have different dtypes: {', '.join(found)}"] if len(found) > 1 else []


def type_id_problems(
    attributes: Mapping[str, Any], types: Sequence[TensorType | None], known: Mapping[int, str]
) -> list[str]:
    """A problem if `type_id` does not name the dtype of the first input."""
    wanted = known.get(attributes["type_id"])
    if not types or types[0] is None or types[0].dtype == wanted:
        return []
    return [f"type_id {attributes['type_id']} stands for {wanted}, but the input is {types[0].dtype}"]
