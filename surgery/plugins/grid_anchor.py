"""The bodies of GridAnchor_TRT and GridAnchorRect_TRT: prior boxes as constants.

Source: plugin/gridAnchorPlugin and plugin/common/kernels/gridAnchorLayer.cu of NVIDIA/TensorRT.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery.graph.body import Body
from surgery.heads.gridanchor import GridAnchors, find_layers, recover_layers, shortest
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.fitting import Fitted
from surgery.plugins.from_numbers import FromNumbers


def grids(a: Mapping[str, Any], *, rectangular: bool) -> list[tuple[int, int]]:
    """(H, W) of each feature map."""
    sizes = a["featureMapShapes"]
    if rectangular:
        return list(zip(sizes[0::2], sizes[1::2], strict=True))
    return [(s, s) for s in sizes]


def problems(a: Mapping[str, Any], *, rectangular: bool) -> list[str]:
    """Problems that the attributes have with each other."""
    expected = a["numLayers"] * (2 if rectangular else 1)
    found = []
    if len(a["featureMapShapes"]) != expected:
        found.append(f"featureMapShapes has {len(a['featureMapShapes'])} entries; expected {expected}")
    if len(a["aspectRatios"]) < 3:
        found.append("aspectRatios has fewer than the 3 entries that layer 0 uses")
    return found


def prior_shapes(a: Mapping[str, Any], layer: int) -> list[tuple[float, float]]:
    """(width, height) of the prior boxes of one cell, in parts of the image."""
    low, high, layers = a["minSize"], a["maxSize"], a["numLayers"]
    ratios: Sequence[float] = a["aspectRatios"]

    def scale(k: int) -> float:
        return float(low + (high - low) * k / (layers - 1))

    if layer == 0:
        pairs = list(zip(ratios[:3], (0.1, scale(0), scale(0)), strict=True))
    else:
        following = 1.0 if layer == layers - 1 else scale(layer + 1)
        pairs = [(r, scale(layer)) for r in ratios]
        pairs.append((1.0, math.sqrt(scale(layer) * following)))
    return [(s * math.sqrt(r), s / math.sqrt(r)) for r, s in pairs]


def priors(a: Mapping[str, Any], layer: int, height: int, width: int) -> NDArray[np.float32]:
    """The output of one layer: [2, H * W * P * 4, 1], boxes (xmin, ymin, xmax, ymax) over variances.

    Computed in double precision and rounded once; the kernel computes in single precision.
    """
    shapes = np.array(prior_shapes(a, layer), np.float64)
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    centre = np.stack([x, y], axis=-1)[:, :, None, :]
    boxes = np.concatenate([centre - shapes / 2, centre + shapes / 2], axis=-1).reshape(-1)
    variances = np.tile(np.array(a["variance"], np.float64), len(boxes) // 4)
    return np.stack([boxes, variances]).astype(np.float32)[:, :, None]


def emit(b: Body, node: ConfiguredNode, *, rectangular: bool) -> list[str]:
    """One value per feature map."""
    maps = grids(node.attributes, rectangular=rectangular)
    return [b.const(priors(node.attributes, i, h, w)) for i, (h, w) in enumerate(maps)]


def output_types(node: ConfiguredNode, *, rectangular: bool) -> list[TensorType]:
    """Types of the outputs, one per feature map."""
    a = node.attributes
    return [
        TensorType("float32", (2, h * w * len(prior_shapes(a, i)) * 4, 1))
        for i, (h, w) in enumerate(grids(a, rectangular=rectangular))
    ]


def from_numbers(arrays: Sequence[NDArray[Any]], *, rectangular: bool) -> list[FromNumbers]:
    """Constants that are the outputs of one node: prior boxes of regular grids with the same variances.

    Args:
        arrays: Constants of a graph.
        rectangular: Whether feature maps may have any shape.
    """
    alike: dict[bytes, list[int]] = {}
    for i, array in enumerate(arrays):
        variance = _variance(array)
        if variance is not None:
            alike.setdefault(variance.tobytes(), []).append(i)
    found: list[FromNumbers] = []
    for key, members in alike.items():
        by_scale = sorted(members, key=lambda i: _largest(arrays[i]))
        for order in (by_scale, members) if by_scale != members else (members,):
            found += _nodes(arrays, order, np.frombuffer(key, np.float32), rectangular=rectangular)
    return found


def _nodes(
    arrays: Sequence[NDArray[Any]], order: Sequence[int], variance: NDArray[np.float32], *, rectangular: bool
) -> Iterator[FromNumbers]:
    """Constants in some order, as many together as fit: a graph may hold the anchors of several nodes."""
    start = 0
    numbers = tuple(shortest(float(v)) for v in variance)
    while start < len(order) - 1:
        for end in range(len(order), start + 1, -1):
            grid = _grid([arrays[i] for i in order[start:end]])
            if grid is not None and (rectangular or grid.square):
                made = replace(grid, square=not rectangular)
                yield FromNumbers(made.attributes(numbers), tuple(order[start:end]))
                start = end - 1
                break
        start += 1


def _largest(array: NDArray[Any]) -> float:
    """Area of the largest box: the scale grows from one feature map to the next."""
    boxes = array[0, :, 0].reshape(-1, 4)
    return float(np.max((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])))


def _variance(array: NDArray[Any]) -> NDArray[np.float32] | None:
    """The four variances that row 1 of an output repeats."""
    shape = array.shape
    if array.dtype != np.float32 or len(shape) != 3 or shape[::2] != (2, 1) or not shape[1] or shape[1] % 4:
        return None
    rows: NDArray[np.float32] = array[1, :, 0].reshape(-1, 4)
    return rows[0] if np.array_equal(rows, np.broadcast_to(rows[0], rows.shape)) else None


def _grid(arrays: Sequence[NDArray[Any]]) -> GridAnchors | None:
    boxes = [a[0, :, 0].reshape(-1, 4)[:, [1, 0, 3, 2]] for a in arrays]
    layers = []
    for one in boxes:
        grids_of_one = find_layers(one)
        if isinstance(grids_of_one, str) or len(grids_of_one) != 1:
            return None
        layers += grids_of_one
    made = recover_layers(np.concatenate(boxes), layers)
    return None if isinstance(made, str) else made


def without_inputs(name: str, types: Sequence[TensorType | None]) -> Fitted | None:
    """What a node that was given inputs is to be given: nothing.

    TensorRT's own class neither counts nor reads its inputs (gridAnchorPlugin.cpp, configurePlugin and enqueue); the
    UFF converter left what the collapsed scope had read on it.
    """
    if not types:
        return None
    return Fitted(
        (),
        f"{name}: its {len(types)} inputs are dropped: the plugin reads none, sizes come from featureMapShapes",
    )
