"""Recovering the generator of a set of anchors: GridAnchor_TRT attributes from the boxes alone.

Arithmetic of GridAnchor_TRT and GridAnchorRect_TRT: NVIDIA/TensorRT release/10.16, plugin/gridAnchorPlugin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CENTRE_TOLERANCE = 1e-4
BOX_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Layer:
    """Anchors of one feature map: its height and width in cells, and (height, width) of each prior."""

    rows: int
    columns: int
    sizes: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class GridAnchors:
    """Attributes of the plugin that makes these anchors.

    Attributes:
        layers: The feature maps found.
        min_size: Scale of the first layer.
        max_size: Scale of the last layer.
        aspect_ratios: Width over height of the priors of all layers but the first.
        square: True if every feature map is square (GridAnchor_TRT, else GridAnchorRect_TRT).
        max_error: Largest difference between the plugin's boxes and the given ones.
    """

    layers: tuple[Layer, ...]
    min_size: float
    max_size: float
    aspect_ratios: tuple[float, ...]
    square: bool
    max_error: float

    @property
    def plugin(self) -> str:
        """Name of the plugin."""
        return "GridAnchor_TRT" if self.square else "GridAnchorRect_TRT"

    def attributes(self, variances: tuple[float, ...]) -> dict[str, Any]:
        """Attributes of the plugin node."""
        shapes = [
            n
            for layer in self.layers
            for n in ((layer.rows,) if self.square else (layer.rows, layer.columns))
        ]
        return {
            "minSize": self.min_size,
            "maxSize": self.max_size,
            "aspectRatios": list(self.aspect_ratios),
            "variance": list(variances),
            "featureMapShapes": shapes,
            "numLayers": len(self.layers),
        }


def find_layers(anchors: NDArray[Any]) -> list[Layer] | str:
    """Split anchors [N, 4] (ymin, xmin, ymax, xmax) into regular grids, or say where that fails."""
    boxes = np.asarray(anchors, np.float64)
    centre = np.stack([(boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2], axis=1)
    size = np.stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]], axis=1)
    layers: list[Layer] = []
    start = 0
    while start < len(boxes):
        if not np.all((centre[start] > 0) & (centre[start] <= 0.5 + CENTRE_TOLERANCE)):
            return f"anchor {start} is not the first cell of a grid over the unit square"
        rows, columns = (max(1, round(0.5 / c)) for c in centre[start])
        same = np.all(np.abs(centre[start:] - centre[start]) < CENTRE_TOLERANCE, axis=1)
        priors = int(len(same) if same.all() else np.argmin(same))
        count = rows * columns * priors
        if start + count > len(boxes):
            return f"layer {len(layers)} is no full grid of {rows} x {columns} cells"
        y, x = np.meshgrid(
            (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij"
        )
        want = np.repeat(np.stack([y.ravel(), x.ravel()], axis=1), priors, axis=0)
        if np.max(np.abs(centre[start : start + count] - want)) > CENTRE_TOLERANCE:
            return f"centres of layer {len(layers)} are not those of a grid of {rows} x {columns} cells"
        block = size[start : start + count].reshape(-1, priors, 2)
        if np.max(np.abs(block - block[0])) > CENTRE_TOLERANCE:
            return f"priors of layer {len(layers)} differ from cell to cell"
        typical = np.median(block, axis=0)
        layers.append(Layer(rows, columns, tuple((float(h), float(w)) for h, w in typical)))
        start += count
    return layers


def recover(anchors: NDArray[Any]) -> GridAnchors | str:
    """The plugin's attributes for anchors [N, 4] (ymin, xmin, ymax, xmax), or why it cannot make them."""
    layers = find_layers(anchors)
    return layers if isinstance(layers, str) else recover_layers(anchors, layers)


def recover_layers(anchors: NDArray[Any], layers: Sequence[Layer]) -> GridAnchors | str:
    """The same where it is known which anchors belong to which feature map."""
    if len(layers) < 2:
        return "there is one layer; the plugin's scale formula needs two"
    if len(layers[0].sizes) != 3:
        return f"the first layer has {len(layers[0].sizes)} priors; the plugin makes 3"
    counts = {len(layer.sizes) for layer in layers[1:]}
    if len(counts) != 1:
        return f"layers have different numbers of priors: {sorted(counts)}"
    ratios = tuple(shortest(w / h) for h, w in layers[1].sizes[:-1])
    if len(ratios) < 3:
        return f"layers have {len(ratios)} aspect ratios; the plugin needs 3"
    scale = [float(np.sqrt(h * w)) for h, w in (layers[0].sizes[1], *(n.sizes[0] for n in layers[1:]))]
    low, high = shortest(scale[0]), shortest(scale[-1])
    square = all(n.rows == n.columns for n in layers)
    made = generate(tuple(layers), low, high, ratios)
    error = float(np.max(np.abs(made - np.asarray(anchors, np.float64))))
    if error > BOX_TOLERANCE:
        return f"the plugin's scales and ratios give boxes that differ by {error:g}"
    return GridAnchors(tuple(layers), low, high, ratios, square, error)


def generate(
    layers: tuple[Layer, ...], low: float, high: float, ratios: tuple[float, ...]
) -> NDArray[np.float64]:
    """Boxes [N, 4] (ymin, xmin, ymax, xmax) as the plugin's kernel computes them."""
    last = len(layers) - 1
    scales = [low + (high - low) * k / last for k in range(len(layers))] + [1.0]
    blocks = []
    for k, layer in enumerate(layers):
        if k == 0:
            priors = [(0.1, ratios[0]), (scales[0], ratios[1]), (scales[0], ratios[2])]
        else:
            priors = [(scales[k], r) for r in ratios] + [(float(np.sqrt(scales[k] * scales[k + 1])), 1.0)]
        half = np.asarray([[s / np.sqrt(r) / 2, s * np.sqrt(r) / 2] for s, r in priors])
        y, x = np.meshgrid(
            (np.arange(layer.rows) + 0.5) / layer.rows,
            (np.arange(layer.columns) + 0.5) / layer.columns,
            indexing="ij",
        )
        centre = np.repeat(np.stack([y.ravel(), x.ravel()], axis=1), len(priors), axis=0)
        reach = np.tile(half, (layer.rows * layer.columns, 1))
        blocks.append(np.concatenate([centre - reach, centre + reach], axis=1))
    return np.concatenate(blocks)


def shortest(value: float) -> float:
    """The shortest number within float32 noise of `value`: 0.2 for 0.19999998, 0.333333 kept as measured."""
    for digits in range(1, 8):
        candidate = float(f"{value:.{digits}g}")
        if abs(candidate - value) <= 3e-6 * abs(value):
            return candidate
    return float(value)
