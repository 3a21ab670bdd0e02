"""The batch of a model's inputs: which size it is, which inputs have it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.graph.infer import dims_of

if TYPE_CHECKING:
    import onnx

NAME = "batch"
"""Name of the free dim."""


class NoBatchError(Exception):
    """A batch makes no sense for this model, or it is not known how; the text says why."""


class NoAxisError(NoBatchError):
    """No input has an axis for a batch."""


class MixingError(NoBatchError):
    """A node would mix samples, or is for one; sample by sample it does not."""


def relabeled(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose inputs have a free first dim, and nothing else changed.

    Raises:
        NoBatchError: no input has a fixed batch.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    size = fixed_batch(model)
    del copy.graph.value_info[:]
    for value in batched_inputs(copy, size):
        dim = value.type.tensor_type.shape.dim[0]
        dim.ClearField("dim_value")
        dim.dim_param = NAME
    for value in copy.graph.output:
        if value.type.HasField("tensor_type"):
            for dim in value.type.tensor_type.shape.dim:
                dim.Clear()
    return copy


def free_already(model: onnx.ModelProto) -> list[str]:
    """Inputs whose first dim is free."""
    initial = {t.name for t in model.graph.initializer}
    shapes = {v.name: dims_of(v) or [] for v in model.graph.input if v.name not in initial}
    return [name for name, dims in shapes.items() if dims and not isinstance(dims[0], int)]


def fixed_batch(model: onnx.ModelProto) -> int:
    """The batch that the model is made for: the first dim that most of its inputs share.

    Raises:
        NoBatchError: the model's batch is free already, or it has no inputs of two or more axes.
    """
    initial = {t.name for t in model.graph.initializer}
    shapes = [dims_of(v) or [] for v in model.graph.input if v.name not in initial]
    free = free_already(model)
    if free:
        raise NoBatchError(f"the first dim of input {free[0]!r} is free already")
    sizes = [s[0] for s in shapes if len(s) >= 1 and isinstance(s[0], int)]
    if not sizes:
        raise NoAxisError("no input has an axis that could be a batch")
    if any(len(s) == 3 and s[0] in (3, 4) and len(shapes) == 1 for s in shapes):
        raise NoAxisError(f"the only input is one picture {shapes[0]}, without an axis for a batch")
    return max(set(sizes), key=lambda d: (sizes.count(d), -d))


def batched_inputs(model: onnx.ModelProto, size: int) -> list[onnx.ValueInfoProto]:
    """Inputs whose first dim is the batch."""
    initial = {t.name for t in model.graph.initializer}
    found = []
    for value in model.graph.input:
        dims = dims_of(value) or []
        if value.name not in initial and dims and (dims[0] == size or dims[0] == NAME):
            found.append(value)
    return found
