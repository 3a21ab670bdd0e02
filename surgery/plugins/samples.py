"""Inputs for the samples of a plugin: what `samples.yaml` describes, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from surgery.plugins.attach import attach_bodies
from surgery.plugins.definition import PluginDefinition, TensorType
from surgery.plugins.registry import Registry
from surgery.plugins.schema import Sample, SampleInput

Array = NDArray[np.float32]


def sample_inputs(sample: Sample, seed: int = 0) -> list[Array]:
    """One float32 array per input, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return [_fill(rng, given) for given in sample.inputs]


def sample_model(
    definition: PluginDefinition, sample: Sample, *, opset: int = 17, open_batch: bool = False
) -> onnx.ModelProto:
    """A model of one plugin node, configured as the sample says, with its body attached.

    Args:
        definition: The plugin.
        sample: One of its samples.
        opset: Default-domain opset.
        open_batch: Declare dimension 0 of the inputs as the symbol `batch` wherever the sample's first
            input has the same number there.
    """
    names = [i.name for i in definition.file.inputs[: len(sample.inputs)]]
    shapes = [_declared(i.shape, sample.inputs[0].shape[0], open_batch) for i in sample.inputs]
    number = sample.outputs or len(definition.file.outputs)
    outputs = [f"out_{i}" for i in range(number)]
    node = definition.make_node(sample.name, names, outputs, sample.attributes)
    types = definition.output_types(node, [TensorType("float32", s) for s in shapes])
    graph = onnx.helper.make_graph(
        [node],
        sample.name,
        [onnx.helper.make_tensor_value_info(n, 1, s) for n, s in zip(names, shapes, strict=True)],
        [_value(n, t) for n, t in zip(outputs, types, strict=True)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    return attach_bodies(model, Registry([definition]))


def _declared(shape: Sequence[int], batch: int, open_batch: bool) -> tuple[int | str | None, ...]:
    if open_batch and len(shape) > 2 and shape[0] == batch:
        return ("batch", *shape[1:])
    return tuple(shape)


def _value(name: str, known: TensorType) -> onnx.ValueInfoProto:
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(known.dtype))
    return onnx.helper.make_tensor_value_info(name, element, known.shape)


def _fill(rng: np.random.Generator, given: SampleInput) -> Array:
    shape, low, high = given.shape, given.low, given.high
    value: NDArray[Any]
    if given.fill == "normal":
        value = rng.normal(low, high, shape)
    elif given.fill == "prior":
        value = _priors(rng, shape)
    elif given.fill in ("corners", "center"):
        span = high - low
        centre = low + span * rng.uniform(0.1, 0.9, (*shape[:-1], 2))
        size = span * rng.uniform(0.05, 0.35, (*shape[:-1], 2))
        parts = [centre, size] if given.fill == "center" else [centre - size / 2, centre + size / 2]
        value = np.concatenate(parts, axis=-1)
    else:
        value = rng.uniform(low, high, shape)
    if given.levels:
        step = (high - low) / given.levels
        value = low + np.round((value - low) / step) * step
    if given.duplicates:
        value = value[:, rng.integers(0, max(shape[1] // 3, 1), shape[1])]
    return value.astype(np.float32)


def _priors(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[Any]:
    """Corners over variances, [..., 2, 4 * N, 1]."""
    lead, number = tuple(shape[:-3]), shape[-2] // 4
    centre = rng.uniform(0.2, 0.8, (*lead, number, 2))
    size = rng.uniform(0.1, 0.4, (*lead, number, 2))
    corners = np.concatenate([centre - size / 2, centre + size / 2], axis=-1).reshape(*lead, 1, -1)
    variances = np.tile([0.1, 0.12, 0.2, 0.25], (*lead, 1, number))
    return np.concatenate([corners, variances], axis=-2)[..., None]
