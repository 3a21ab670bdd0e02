"""Values of constants and attributes, as patterns and rules compare them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from surgery.graph.convert import is_external, value_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


def constant_value(tensor: Any) -> NDArray[Any] | None:
    """The value of a constant whose data is in the model, else None."""
    if not isinstance(tensor, gs.Constant) or is_external(tensor):
        return None
    return value_of(tensor)


def same_constant(a: Any, b: Any) -> bool:
    """Whether two tensors are constants of one dtype, shape and value."""
    if a is b:
        return True
    first, second = constant_value(a), constant_value(b)
    if first is None or second is None:
        return False
    same = first.dtype == second.dtype and first.shape == second.shape
    return same and first.tobytes() == second.tobytes()


def equal_value(found: NDArray[Any], wanted: Any) -> bool:
    """Whether a constant is a value, as exactly as its dtype can hold it; one number may have any rank."""
    other = np.asarray(wanted)
    if found.size == 1 and other.size == 1:
        found, other = found.reshape(()), other.reshape(())
    if found.shape != other.shape or found.dtype.kind in "SUO" or other.dtype.kind in "SUO":
        return found.shape == other.shape and np.array_equal(found, other)
    real = found.dtype.kind not in "iub"
    if not real:
        return bool(np.all(found == other))
    step = 2 * float(np.spacing(np.float32(1)))
    if found.dtype.itemsize < 4:
        step = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(found.dtype.name, 0.0)
    a, b = found.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return bool(np.all((a == b) | (np.abs(a - b) <= step * np.abs(b)) | (np.isnan(a) & np.isnan(b))))


def equal_attribute(found: Any, wanted: Any) -> bool:
    """Whether two attributes are equal; real numbers as float32, which is what ONNX stores."""
    if isinstance(found, np.ndarray) or isinstance(wanted, np.ndarray):
        same = isinstance(found, np.ndarray) and isinstance(wanted, np.ndarray)
        return same and found.dtype == wanted.dtype and np.array_equal(found, wanted)
    if isinstance(found, (list, tuple)) and isinstance(wanted, (list, tuple)):
        pairs = zip(found, wanted, strict=False)
        return len(found) == len(wanted) and all(equal_attribute(a, b) for a, b in pairs)
    if isinstance(found, float) or isinstance(wanted, float):
        numbers = isinstance(found, (int, float)) and isinstance(wanted, (int, float))
        return numbers and bool(np.float32(found) == np.float32(wanted))
    return bool(found == wanted)


def plain(value: Any) -> Any:
    """An attribute as Python values: tensors as arrays, types as ONNX's numbers for them."""
    if isinstance(value, gs.Constant):
        return value_of(value)
    if isinstance(value, (type, np.dtype)):
        import onnx

        return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(value)))
    return value


def tensor_dtype(tensor: Any) -> np.dtype[Any] | None:
    """A tensor's dtype as numpy has it, or None."""
    dtype = tensor.dtype
    if dtype is None or isinstance(dtype, np.dtype):
        return dtype
    if isinstance(dtype, (int, np.integer)) and not isinstance(dtype, type):
        import onnx

        dtype = onnx.helper.tensor_dtype_to_np_dtype(int(dtype))
    known: np.dtype[Any] = np.dtype(dtype)
    return known


@lru_cache(maxsize=4096)
def schema_defaults(op: str, domain: str, opset: int) -> Mapping[str, Any]:
    """Defaults of an operator's attributes; nothing for an operator that ONNX does not define."""
    import onnx

    try:
        schema = onnx.defs.get_schema(op, opset, domain) if not domain else onnx.defs.get_schema(op, domain)
    except onnx.defs.SchemaError:
        return {}
    found: dict[str, Any] = {}
    for name, attribute in schema.attributes.items():
        if attribute.default_value.type:
            given = onnx.helper.get_attribute_value(attribute.default_value)
            found[name] = given.decode() if isinstance(given, bytes) else given
    return found
