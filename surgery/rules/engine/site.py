"""What a rule sees of a node: operator, attributes with their defaults, operands with type, shape and value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.rules.engine.rule import NeedsConstant, NoMatch

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

Dim = int | str | None


@dataclass(frozen=True)
class Operand:
    """An input or output of a node.

    Attributes:
        name: Name to use in the replacement.
        dtype: numpy dtype (of ml_dtypes for bfloat16 and the like), or None if unknown.
        shape: Dims: a number, a symbolic name, or None; None as a whole if even the rank is unknown.
        used: For an output: whether anything reads it.
        constant: Whether the value is known.
        boundary: For an output: whether it is an output of the graph.
        shape_only: Whether it depends on shapes and constants alone (then TensorRT computes it on the host).
    """

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[Dim, ...] | None
    used: bool = True
    constant: bool = False
    shape_only: bool = False
    boundary: bool = False
    read: Callable[[], NDArray[Any]] | None = field(default=None, compare=False, repr=False)

    @property
    def rank(self) -> int:
        """Number of dims; NoMatch if unknown."""
        if self.shape is None:
            raise NoMatch(f"the rank of {self.name} is not known")
        return len(self.shape)

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape as numbers; NoMatch if a dim is not known."""
        if self.shape is None or not all(isinstance(d, int) and d >= 0 for d in self.shape):
            raise NoMatch(f"the shape of {self.name} is not known: {self.shape}")
        return tuple(int(d) for d in self.shape)  # type: ignore[arg-type]

    def dim(self, axis: int) -> Dim:
        """The dim of an axis that it has; None if that, or the rank, is not known."""
        return None if self.shape is None else self.shape[axis]

    @property
    def static(self) -> bool:
        """Whether every dim is a known number."""
        return self.shape is not None and all(isinstance(d, int) and d >= 0 for d in self.shape)

    @cached_property
    def value(self) -> NDArray[Any] | None:
        """The value of a constant, else None."""
        return self.read() if self.constant and self.read is not None else None


@dataclass(frozen=True)
class Site:
    """A node as rules see it.

    Attributes:
        op: Operator.
        domain: Its domain, "" for ONNX's own.
        opset: Version of the default domain in this model; what a rule writes has to be right in it.
        attributes: Attributes that the node has (Python numbers, lists, str, numpy arrays, GraphProto).
        inputs: Operands; None for one that is left out.
        outputs: Results; None for one that is left out.
        target: Name of the target, e.g. ``tensorrt-rtx-1.7``.
    """

    op: str
    domain: str
    opset: int
    attributes: Mapping[str, Any]
    inputs: tuple[Operand | None, ...]
    outputs: tuple[Operand | None, ...]
    target: str = ""

    def has(self, i: int) -> bool:
        """Whether input `i` is given."""
        return i < len(self.inputs) and self.inputs[i] is not None

    def input(self, i: int) -> Operand:
        """Input `i`; NoMatch if it is left out."""
        operand = self.inputs[i] if i < len(self.inputs) else None
        if operand is None:
            raise NoMatch(f"input {i} is left out")
        return operand

    def x(self, i: int = 0) -> str:
        """Name of input `i`; NoMatch if it is left out."""
        return self.input(i).name

    def optional(self, i: int) -> str:
        """Name of input `i`, "" if it is left out."""
        return self.x(i) if self.has(i) else ""

    def out(self, i: int = 0) -> Operand:
        """Output `i`; NoMatch if it is left out."""
        operand = self.outputs[i] if i < len(self.outputs) else None
        if operand is None:
            raise NoMatch(f"output {i} is left out")
        return operand

    def used(self, i: int) -> bool:
        """Whether output `i` is there and something reads it."""
        operand = self.outputs[i] if i < len(self.outputs) else None
        return operand is not None and operand.used

    def dtype(self, i: int = 0) -> np.dtype[Any]:
        """Dtype of input `i`; NoMatch if unknown."""
        found = self.input(i).dtype
        if found is None:
            raise NoMatch(f"the dtype of {self.x(i)} is not known")
        return found

    def kind(self, i: int = 0) -> str:
        """Kind of input `i`'s dtype: ``f`` (all floats, bfloat16 and the like too), ``i``, ``u`` or ``b``."""
        dtype = self.dtype(i)
        return "f" if dtype.kind == "V" or "float" in dtype.name else dtype.kind

    def const(self, i: int) -> NDArray[Any]:
        """Value of input `i`; NoMatch if it is not constant."""
        value = self.input(i).value
        if value is None:
            raise NoMatch(f"input {i} ({self.x(i)}) is not constant")
        return value

    def need(self, i: int, why: str) -> NDArray[Any]:
        """Value of input `i`, which only the user may know.

        For operands that the schema uses as axes, shape, size, k, depth, repeats, trip count, mode or condition,
        where no form without the value exists.

        Raises:
            NeedsConstant: it is not constant.
        """
        value = self.input(i).value
        if value is None:
            raise NeedsConstant(i, why)
        return value

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute; the schema's default, else `default`, where the node does not have it."""
        if name in self.attributes:
            return self.attributes[name]
        found = _schema_defaults(self.op, self.domain, self.opset).get(name)
        return default if found is None else found


@lru_cache(maxsize=4096)
def _schema_defaults(op: str, domain: str, opset: int) -> dict[str, Any]:
    import onnx

    try:
        schema = onnx.defs.get_schema(op, opset, domain) if not domain else onnx.defs.get_schema(op, domain)
    except onnx.defs.SchemaError:
        return {}
    defaults = {}
    for name, attribute in schema.attributes.items():
        if attribute.default_value.type:
            defaults[name] = python_value(attribute.default_value)
    return defaults


def python_value(attribute: onnx.AttributeProto) -> Any:
    """An attribute as Python numbers, str, lists, numpy arrays or GraphProto."""
    import onnx

    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if attribute.type == onnx.AttributeProto.STRINGS:
        return [v.decode("utf-8", "surrogateescape") for v in value]
    if attribute.type == onnx.AttributeProto.TENSOR:
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(value)
    return value
