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

Array = NDArray[Any]


def sample_inputs(sample: Sample, seed: int = 0) -> list[Array]:
    """One array per input, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return [_fill(rng, given) for given in sample.inputs]


def filled(given: SampleInput, seed: int) -> Array:
    """The array that such a description stands for."""
    return _fill(np.random.default_rng(seed), given)


def sample_model(
    definition: PluginDefinition, sample: Sample, *, opset: int = 17, open_batch: bool = False
) -> onnx.ModelProto:
    """A model of one plugin node, configured as the sample says, with its body attached.

    Args:
        definition: The plugin.
        sample: One of its samples.
        opset: Default-domain opset.
        open_batch: Declare dimension 0 of the inputs as the symbol `batch` wherever the sample says that
            it is the batch, or else where the sample's first input has the same number there.
    """
    names = [i.name for i in definition.declared_inputs(len(sample.inputs))]
    shapes = [_declared(i, sample.inputs[0].shape[0], open_batch) for i in sample.inputs]
    dtypes = [i.dtype for i in sample.inputs]
    number = sample.outputs or len(definition.file.outputs)
    outputs = [f"out_{i}" for i in range(number)]
    node = definition.make_node(sample.name, names, outputs, sample.attributes)
    given = [TensorType(d, s) for d, s in zip(dtypes, shapes, strict=True)]
    types = definition.output_types(node, given)
    graph = onnx.helper.make_graph(
        [node],
        sample.name,
        [_value(n, t) for n, t in zip(names, given, strict=True)],
        [_value(n, t) for n, t in zip(outputs, types, strict=True)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    return attach_bodies(model, Registry([definition]))


def _declared(given: SampleInput, batch: int, open_batch: bool) -> tuple[int | str | None, ...]:
    shape = given.shape
    is_batch = len(shape) > 2 and shape[0] == batch if given.batch is None else given.batch
    if open_batch and is_batch:
        return ("batch", *shape[1:])
    return tuple(shape)


def _value(name: str, known: TensorType) -> onnx.ValueInfoProto:
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(known.dtype))
    return onnx.helper.make_tensor_value_info(name, element, known.shape)


def _fill(rng: np.random.Generator, given: SampleInput) -> Array:
    shape, low, high = given.shape, given.low, given.high
    value: NDArray[Any]
    if given.values is not None:
        return np.asarray(given.values).astype(given.dtype).reshape(shape)
    if given.fill == "distinct":
        return _distinct(rng, shape, int(low), int(high)).astype(given.dtype)
    if given.fill == "cells":
        return _cells(rng, shape, int(low), int(high)).astype(given.dtype)
    if given.fill == "image_info":
        return np.broadcast_to([low, high, 1.0], shape).astype(given.dtype)
    if given.fill == "boxes_of_images":
        return _boxes_of_images(rng, shape[0], int(low), high).astype(given.dtype)
    if given.dtype in ("int32", "int64", "bool") and given.fill == "uniform":
        return rng.integers(int(low), int(high) + 1, shape).astype(given.dtype)
    if given.fill == "normal":
        value = rng.normal(low, high, shape)
    elif given.fill == "prior":
        value = _priors(rng, shape)
    elif given.fill in ("corners", "center", "rotated"):
        span = high - low
        centre = low + span * rng.uniform(0.1, 0.9, (*shape[:-1], 2))
        size = span * rng.uniform(0.05, 0.35, (*shape[:-1], 2))
        parts = [centre - size / 2, centre + size / 2] if given.fill == "corners" else [centre, size]
        if given.fill == "rotated":
            parts.append(rng.uniform(-np.pi, np.pi, (*shape[:-1], 1)))
        value = np.concatenate(parts, axis=-1)
    else:
        value = rng.uniform(low, high, shape)
    if given.levels:
        step = (high - low) / given.levels
        value = low + np.round((value - low) / step) * step
    if given.duplicates:
        value = value[:, rng.integers(0, max(shape[1] // 3, 1), shape[1])]
    return value.astype(given.dtype)


def _boxes_of_images(rng: np.random.Generator, number: int, images: int, high: float) -> NDArray[Any]:
    """Rows (image, x0, y0, x1, y1), [number, 5]."""
    centre, size = high * rng.uniform(0, 1, (number, 2)), high * rng.uniform(0.03, 0.8, (number, 2))
    corners = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    return np.concatenate([rng.integers(0, images, (number, 1)), corners], axis=1)


def _distinct(rng: np.random.Generator, shape: Sequence[int], low: int, high: int) -> NDArray[Any]:
    """Rows of whole numbers, no two of which are equal: the digits of distinct numbers."""
    base, count = high - low, int(np.prod(shape[:-1]))
    rest = rng.permutation(base ** shape[-1])[:count]
    digits = []
    for _ in range(shape[-1]):
        rest, digit = np.divmod(rest, base)
        digits.append(digit + low)
    return np.stack(digits, axis=-1).reshape(shape)


def _cells(rng: np.random.Generator, shape: Sequence[int], rows: int, columns: int) -> NDArray[Any]:
    """Rows (image, 0, y, x) of distinct cells, [images, number, 4]."""
    images, number = shape[0], shape[1]
    value = np.zeros((images, number, 4), np.int64)
    for image in range(images):
        y, x = np.divmod(rng.permutation(rows * columns)[:number], columns)
        value[image] = np.stack([np.full(number, image), np.zeros(number, np.int64), y, x], axis=1)
    return value


def _priors(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[Any]:
    """Corners over variances, [..., 2, 4 * N, 1]."""
    lead, number = tuple(shape[:-3]), shape[-2] // 4
    centre = rng.uniform(0.2, 0.8, (*lead, number, 2))
    size = rng.uniform(0.1, 0.4, (*lead, number, 2))
    corners = np.concatenate([centre - size / 2, centre + size / 2], axis=-1).reshape(*lead, 1, -1)
    variances = np.tile([0.1, 0.12, 0.2, 0.25], (*lead, 1, number))
    return np.concatenate([corners, variances], axis=-2)[..., None]
