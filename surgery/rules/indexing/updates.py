"""Updates of cells with a reduction: round by round, by masks, or in a loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch
from surgery.rules.engine.site import Site
from surgery.rules.sizes import count_up

if TYPE_CHECKING:
    from numpy.typing import NDArray

COMBINE = {"add": "Add", "mul": "Mul", "max": "Max", "min": "Min"}

REDUCE = {"add": "ReduceSum", "mul": "ReduceProd", "max": "ReduceMax", "min": "ReduceMin"}

MASK_LIMIT = 2**22
"""Most (target, update) pairs that are compared all at once; more go through a loop."""

ROUNDS_LIMIT = 8
"""Most updates of one target that are unrolled where the indices are constant."""

LANES_LIMIT = 2**22
"""Elements that the lanes of all rows together have at most, where they are more than the rows."""

MOST_LANES = 64
"""Lanes of a row, at most."""


@dataclass(frozen=True)
class Updates:
    """Updates of the rows of a matrix [P, S].

    Attributes:
        data: The matrix.
        rows: Positions of the rows, int64 [U], not negative.
        values: Updates [U, S].
        reduction: How they are combined with what is there.
        dtype: Dtype of the matrix.
        known: The positions where they are constant.
    """

    data: str
    rows: str
    values: str
    reduction: str
    dtype: np.dtype[Any]
    known: NDArray[Any] | None = None

    def combine(self, b: Body, old: str, new: str) -> str:
        """Both under the reduction."""
        return b.op(COMBINE[self.reduction], old, new)


def masked_reduce(b: Body, u: Updates, mask: str, values: str, data: str, axis: int) -> str:
    """Updates under a mask, reduced along an axis; where nothing is chosen, what changes nothing."""
    neutral = data if u.reduction in ("max", "min") else b.const(int(u.reduction == "mul"), u.dtype)
    return b.reduce(REDUCE[u.reduction], b.where(mask, values, neutral), axis, keepdims=False)


def by_rounds(b: Body, u: Updates) -> str | None:
    """Constant positions: one plain scatter for the first update of every row, one for the second, ..."""
    if u.known is None:
        return None
    rows = u.known.reshape(-1)
    seen: dict[int, int] = {}
    number = np.zeros(len(rows), np.int64)
    for k, row in enumerate(rows.tolist()):
        number[k] = seen.get(row, 0)
        seen[row] = int(number[k]) + 1
    if not len(rows) or number.max() >= ROUNDS_LIMIT:
        return None
    data = u.data
    for k in range(int(number.max()) + 1):
        chosen = np.flatnonzero(number == k)
        whole = len(chosen) == len(rows)
        values = u.values if whole else b.gather(u.values, b.const(chosen, np.int64), 0)
        old = b.gather(data, b.const(rows[chosen], np.int64), 0)
        data = b.op("ScatterND", data, b.const(rows[chosen, None], np.int64), u.combine(b, old, values))
    return data


def by_masks(b: Body, u: Updates, rows: int) -> str:
    """Every (row, update) pair at once."""
    mask = b.unsqueeze(b.equal(b.const(np.arange(rows)[:, None], np.int64), b.unsqueeze(u.rows, 0)), 2)
    reduced = masked_reduce(b, u, mask, b.unsqueeze(u.values, 0), b.unsqueeze(u.data, 1), 1)
    return u.combine(b, u.data, reduced)


def by_loop(b: Body, u: Updates) -> str:
    """Rounds until nothing is left: in each, one of the updates of every row wins and is applied.

    Who wins is whoever is found in a table after all have written their number to it, so a round is right
    whatever order the scatter writes duplicates in. There are as many rounds as updates of one row. So that these
    are few, every row has several lanes, which updates take in turns, and which are combined at the end; and where
    the reduction picks one of the updates, those that would change nothing any more are done. Those that do not win
    write to a row of their own behind the matrix.
    """
    size = b.op("Shape", u.data)
    rows, width, one = b.slice(size, 0, 0, 1), b.slice(size, 0, 1, 2), b.ints(1)
    count = b.op("Shape", u.rows)
    lanes = _lanes(b, b.mul(rows, width), count)
    all_rows = b.mul(rows, lanes)
    last = b.squeeze(all_rows, 0)
    if u.reduction in ("max", "min"):
        repeated = b.op("Expand", b.unsqueeze(u.data, 0), b.concat([lanes, rows, width], 0))
        extra = b.op("Expand", b.const(0, u.dtype), b.concat([one, width], 0))
        data = b.concat([b.op("Reshape", repeated, b.concat([b.ints(-1), width], 0)), extra], 0)
    else:
        more_rows = b.add(b.sub(all_rows, rows), one)
        neutral = b.const(int(u.reduction == "mul"), u.dtype)
        data = b.concat([u.data, b.op("Expand", neutral, b.concat([more_rows, width], 0))], 0)
    # TensorRT scatters no more updates than a tensor has elements: the table has room for all of them.
    room = b.add(b.add(all_rows, one), count)
    table = b.op("Expand", b.const(0, np.int64), room)
    ids = count_up(b, count)
    lane = b.sub(ids, b.mul(b.div(ids, lanes), lanes))
    targets = b.add(u.rows, b.mul(lane, rows))

    inner = b.nested()
    step, go, target, now = (inner.fresh(s) for s in ("iteration", "condition", "target", "now"))
    written = inner.op("ScatterElements", table, target, ids, axis=0)
    mine = inner.equal(inner.gather(written, target, 0), ids)
    wins = inner.logical_and(mine, inner.less(target, last))
    at = inner.where(wins, target, last)
    new = u.combine(inner, inner.gather(now, at, 0), u.values)
    after = inner.op("ScatterND", now, inner.unsqueeze(at, 1), new)
    done = inner.logical_or(wins, _idle(inner, u, inner.gather(after, target, 0))) if _picks(u) else wins
    left = inner.where(done, last, target)
    more = inner.less(inner.reduce("ReduceMin", left, 0, keepdims=False), last)
    graph = inner.subgraph(
        "one_update_of_every_row",
        [(step, np.int64), (go, np.bool_), (target, np.int64), (now, u.dtype)],
        [(more, np.bool_), (left, np.int64), (after, u.dtype)],
    )
    # In every round at least one update is done, so there are never more rounds than updates.
    carried = [b.squeeze(count, 0), b.const(True, np.bool_), targets, data]
    _, ended = b.node("Loop", carried, outputs=2, attributes={"body": graph})
    kept = b.op("Slice", ended, b.ints(0), all_rows, b.ints(0))
    apart = b.op("Reshape", kept, b.concat([lanes, rows, width], 0))
    return b.reduce(REDUCE[u.reduction], apart, 0, keepdims=False)


def _lanes(b: Body, cells: str, count: str) -> str:
    """How many lanes every row gets, int64 [1]: no more than updates, and little memory."""
    one = b.ints(1)
    fitting = b.div(b.ints(LANES_LIMIT), b.op("Max", cells, one))
    return b.op("Max", b.op("Min", fitting, b.ints(MOST_LANES), count), one)


def _picks(u: Updates) -> bool:
    """Whether the reduction picks one of its operands."""
    return u.reduction in ("max", "min")


def _idle(b: Body, u: Updates, there: str) -> str:
    """Whether an update changes nothing of what is in its row; a NaN counts as a change."""
    changed = b.logical_not(b.equal(u.combine(b, there, u.values), there))
    return b.equal(b.reduce("ReduceMax", b.cast(changed, np.int32), 1, keepdims=False), b.const(0, np.int32))


def reduction_of(site: Site) -> str:
    """The reduction; NoMatch for none and for those this file does not know."""
    reduction = str(site.attr("reduction", "none"))
    if reduction not in COMBINE:
        raise NoMatch(f"reduction {reduction!r}")
    if site.kind(0) == "b":
        raise NoMatch("booleans are not reduced")
    return reduction
