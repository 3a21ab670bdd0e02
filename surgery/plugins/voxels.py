"""The body of VoxelGeneratorPlugin: points of a cloud gathered by pillar.

Source: plugin/voxelGeneratorPlugin and plugin/common/kernels/voxelGeneratorKernels.cu of NVIDIA/TensorRT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode
from surgery.plugins.lowered import numbers, size

F = np.float32
NONE = 2**31 - 1
"""Number of a point that is none, sorted behind all others."""


@dataclass(frozen=True)
class Grid:
    """The pillars of a frame.

    Attributes:
        low: Smallest x, y and z.
        high: x, y and z that no point reaches.
        side: Size of a pillar.
        rows: Pillars along y.
        columns: Pillars along x.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    side: tuple[float, ...]
    rows: int
    columns: int

    @classmethod
    def of(cls, a: Mapping[str, Any]) -> Grid:
        """The grid that attributes describe, with numbers of pillars rounded in float32."""
        low, high, side = a["point_cloud_range"][:3], a["point_cloud_range"][3:], a["voxel_size"]
        columns, rows = (int(np.rint((F(high[i]) - F(low[i])) / F(side[i]))) for i in (0, 1))
        return cls(tuple(low), tuple(high), tuple(side), rows, columns)

    @property
    def cells(self) -> int:
        """Pillars of a frame."""
        return self.rows * self.columns


def emit_voxels(b: Body, node: ConfiguredNode) -> list[str]:
    """Features [N, V, P, F], coordinates [N, V, 4] and number of pillars [N]."""
    a = node.attributes
    grid = Grid.of(a)
    most, slots = a["max_num_points_per_voxel"], a["max_voxels"]
    points = node.input_names[0]
    frame = b.unsqueeze(numbers(b, size(b, node, 0, 0)), 1)
    cells = b.mul(size(b, node, 0, 0), b.ints(grid.cells))  # of all frames
    found = _points_of_cells(b, _cells(b, node, grid, frame, cells), cells, most)
    first = b.squeeze(b.slice(found, 0, 0, 1), 0)
    occupied = b.reshape(b.cast(b.logical_not(b.less(first, b.const(0, np.int64))), np.int64), -1, grid.cells)
    count = b.reduce("ReduceSum", occupied, 1)
    cell = _cells_of_slots(b, node, occupied, frame, slots)  # [N, V]
    used = b.less(b.unsqueeze(b.const(np.arange(slots), np.int64), 0), count)
    chosen = b.gather(b.transpose(found, 1, 0), cell, 0)  # [N, V, P]
    numbered = b.where(b.logical_not(b.less(chosen, b.const(0, np.int64))), chosen, b.const(NONE, np.int64))
    numbered = b.where(b.unsqueeze(used, 2), numbered, b.const(NONE, np.int64))
    ordered, _ = b.node(
        "TopK",
        [b.cast(numbered, np.int32), b.ints(most)],
        outputs=2,
        attributes={"axis": -1, "largest": 0, "sorted": 1},
    )
    ordered = b.cast(ordered, np.int64)
    real = b.less(ordered, b.const(NONE, np.int64))
    inner = b.sub(cell, b.mul(frame, b.const(grid.cells, np.int64)))
    row = b.div(inner, b.const(grid.columns, np.int64))
    column = b.sub(inner, b.mul(row, b.const(grid.columns, np.int64)))
    taken = b.gather(b.reshape(points, -1, 4), b.where(real, ordered, b.const(0, np.int64)), 0)
    features = _features(b, grid, taken, b.unsqueeze(real, 3), row, column)
    zero = b.mul(row, b.const(0, np.int64))
    places = b.concat([b.unsqueeze(v, 2) for v in (zero, zero, row, column)], 2)
    places = b.where(b.unsqueeze(used, 2), places, b.const(0, np.int64))
    return [
        b.slice(features, 3, 0, a["voxel_feature_num"]),
        b.cast(places, np.int32),
        b.cast(_smaller(b, b.squeeze(count, 1), slots), np.int32),
    ]


def _smaller(b: Body, value: str, limit: int) -> str:
    most = b.const(limit, np.int64)
    return b.where(b.less(value, most), value, most)


def _cells(b: Body, node: ConfiguredNode, grid: Grid, frame: str, cells: str) -> str:
    """The cell of each point of all frames, int64 [N * M]; the number of cells where a point does not count."""
    tests, steps = [], []
    for i in range(3):
        value = b.gather(node.input_names[0], b.const(i, np.int64), 2)
        tests += [
            b.logical_not(b.less(value, b.scalar(grid.low[i]))),
            b.less(value, b.scalar(grid.high[i])),
        ]
        steps.append(b.op("Floor", b.div(b.sub(value, b.scalar(grid.low[i])), b.scalar(grid.side[i]))))
    order = b.unsqueeze(numbers(b, size(b, node, 0, 1)), 0)
    tests.append(b.less(order, b.unsqueeze(b.cast(node.input_names[1], np.int64), 1)))
    counts = reduce(b.logical_and, tests)
    column, row = (b.cast(b.where(counts, s, b.scalar(0.0)), np.int64) for s in steps[:2])
    # A quotient that rounds up to the number of columns counts for the next row, as in the kernel.
    cell = b.add(b.mul(row, b.const(grid.columns, np.int64)), column)
    counts = b.logical_and(counts, b.less(cell, b.const(grid.cells, np.int64)))
    everywhere = b.add(cell, b.mul(frame, b.const(grid.cells, np.int64)))
    return b.reshape(b.where(counts, everywhere, cells), -1)


def _points_of_cells(b: Body, target: str, cells: str, most: int) -> str:
    """Numbers of points of each cell, [most, cells], -1 for none: rounds in which one point of each cell wins."""
    count = b.op("Shape", target)
    room = b.add(b.add(cells, b.ints(1)), count)  # TensorRT scatters no more than a tensor has elements
    table = b.op("Expand", b.const(-1, np.int64), room)
    ids = numbers(b, count)
    inner = b.nested()
    step, go, left = (inner.fresh(s) for s in ("iteration", "condition", "left"))
    written = inner.op("ScatterElements", table, left, ids, axis=0)
    wins = inner.equal(inner.gather(written, left, 0), ids)
    after = inner.where(wins, cells, left)
    winners = inner.op("Slice", written, b.ints(0), cells, b.ints(0))
    graph = inner.subgraph(
        "one_point_of_every_cell",
        [(step, np.int64), (go, np.bool_), (left, np.int64)],
        [(inner.always(), np.bool_), (after, np.int64), (winners, np.int64)],
    )
    _, found = b.loop(most, [target], graph, scans=1)
    return found


def _cells_of_slots(b: Body, node: ConfiguredNode, occupied: str, frame: str, slots: int) -> str:
    """The cell in each slot, [N, V]: the occupied ones in order; any cell in a slot that stays free."""
    slot = b.sub(b.op("CumSum", occupied, b.const(1, np.int64)), b.const(1, np.int64))
    keep = b.logical_and(b.cast(occupied, np.bool_), b.less(slot, b.const(slots, np.int64)))
    behind = b.mul(size(b, node, 0, 0), b.ints(slots))
    place = b.reshape(b.where(keep, b.add(slot, b.mul(frame, b.const(slots, np.int64))), behind), -1)
    count = b.op("Shape", place)
    table = b.op("Expand", b.const(0, np.int64), b.add(b.add(behind, b.ints(1)), count))
    written = b.op("ScatterElements", table, place, numbers(b, count), axis=0)
    return b.reshape(b.op("Slice", written, b.ints(0), behind, b.ints(0)), -1, slots)


def _features(b: Body, grid: Grid, points: str, real: str, row: str, column: str) -> str:
    """Each point (x, y, z, intensity), less the mean of its pillar, less the centre of its pillar; [N, V, P, 10]."""
    zero = b.scalar(0.0)
    place = b.slice(points, 3, 0, 3)
    count = b.maximum(b.reduce("ReduceSum", b.cast(real, F), 2), b.scalar(1.0))
    mean = b.div(b.reduce("ReduceSum", b.where(real, place, zero), 2), count)
    centre = []
    for i, step in enumerate((column, row)):
        along = b.add(b.scalar(F(grid.side[i]) / F(2)), b.mul(b.cast(step, F), b.scalar(grid.side[i])))
        centre.append(b.unsqueeze(b.add(along, b.scalar(grid.low[i])), 2, 3))
    height = b.scalar(F(grid.side[2]) / F(2) + F(grid.low[2]))
    centre.append(b.add(b.mul(centre[0], zero), height))
    every = b.concat([points, b.sub(place, mean), b.sub(place, b.concat(centre, 3))], 3)
    return b.where(real, every, zero)
