"""Inputs that bring out what a post-processing does."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


def scattered(
    rng: np.random.Generator, batch: int, count: int, classes: int, *, spread: float = 0.4, size: float = 0.12
) -> Pair:
    """Boxes [B, N, 4] around the unit square, some beyond its border, and distinct scores [B, N, C] in (0, 1)."""
    centre = rng.uniform(-spread, 1 + spread, (batch, count, 2))
    extent = rng.uniform(0.3 * size, size, (batch, count, 2))
    boxes = np.concatenate([centre - extent / 2, centre + extent / 2], axis=-1).astype(np.float32)
    return boxes, distinct(rng, (batch, count, classes))


def distinct(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Scores in (0.02, 0.98), all different within an image, in random order."""
    batch, rest = shape[0], int(np.prod(shape[1:]))
    ramp = np.linspace(0.02, 0.98, rest, dtype=np.float64)
    return np.stack([rng.permutation(ramp) for _ in range(batch)]).reshape(shape).astype(np.float32)


def few(rng: np.random.Generator, batch: int, count: int, classes: int, kept: int) -> Pair:
    """As :func:`scattered`, all inside, with all scores zero but `kept` of them per image."""
    boxes, scores = scattered(rng, batch, count, classes, spread=-0.2)
    zero = np.zeros_like(scores)
    for image in range(batch):
        for k in range(min(kept, count)):
            zero[image, (7 * k + 1) % count, k % classes] = 0.9 - 0.05 * k
    return boxes, zero


def clustered(rng: np.random.Generator, batch: int, count: int, classes: int) -> Pair:
    """Heavily overlapping boxes: most are suppressed."""
    hubs = rng.uniform(0.1, 0.9, (batch, max(1, count // 40), 2))
    centre = hubs[:, rng.integers(0, hubs.shape[1], count)] + rng.normal(0, 0.01, (batch, count, 2))
    extent = rng.uniform(0.1, 0.2, (batch, count, 2))
    boxes = np.concatenate([centre - extent / 2, centre + extent / 2], axis=-1).astype(np.float32)
    return boxes, distinct(rng, (batch, count, classes))


def tied(rng: np.random.Generator, batch: int, count: int, classes: int, levels: int = 12) -> Pair:
    """Scores quantised to a few levels, zero among them, and some boxes given twice."""
    boxes, scores = clustered(rng, batch, count, classes)
    twins = rng.integers(0, count, (count // 5, 2))
    boxes[:, twins[:, 0]] = boxes[:, twins[:, 1]]
    return boxes, (np.floor(scores * levels) / levels).astype(np.float32)


def degenerate(rng: np.random.Generator, batch: int, count: int, classes: int) -> Pair:
    """Boxes of no area, with swapped corners, far outside, and very large ones."""
    boxes, scores = scattered(rng, batch, count, classes)
    kind = rng.integers(0, 8, count)
    boxes[:, kind == 0, 2:] = boxes[:, kind == 0, :2]
    boxes[:, kind == 1] = boxes[:, kind == 1][..., [2, 3, 0, 1]]
    boxes[:, kind == 2] += 3
    boxes[:, kind == 3] *= 50
    return boxes, scores


def families(rng: np.random.Generator, batch: int, count: int, classes: int) -> dict[str, Pair]:
    """One input of each kind, by name; what a proof runs through."""
    boxes, scores = scattered(rng, batch, count, classes)
    return {
        "scattered": (boxes, scores),
        "clustered": clustered(rng, batch, count, classes),
        "ties": tied(rng, batch, count, classes),
        "degenerate": degenerate(rng, batch, count, classes),
        "few": few(rng, batch, count, classes, 3),
        "none": (boxes, np.zeros_like(scores)),
    }


def like(value: NDArray[Any], boxes: NDArray[Any]) -> NDArray[Any]:
    """`boxes` [B, N, 4] in the layout of `value` ([B, N, 4] or [B, N, 1, 4])."""
    return boxes.reshape(boxes.shape[0], *value.shape[1:])
