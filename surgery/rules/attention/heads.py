"""Heads, scores, masks and scales of attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch
from surgery.rules.engine.site import Operand, Site
from surgery.rules.sizes import range_of, size_of


@dataclass(frozen=True)
class Heads:
    """Query, key or value as (batch, heads, sequence, head size).

    Attributes:
        name: The tensor.
        shape: Its dims as far as they are known.
        flat: Whether the operator has it as (batch, sequence, heads * head size).
    """

    name: str
    shape: tuple[Any, ...]
    flat: bool = False


def split_heads(b: Body, x: Operand, heads: int | None) -> Heads:
    """(batch, sequence, heads * size) as (batch, heads, sequence, size); rank 4 stays."""
    if x.rank == 4:
        return Heads(x.name, tuple(x.shape or ()))
    if x.rank != 3:
        raise NoMatch(f"{x.name} has rank {x.rank}, not 3 or 4")
    if not heads:
        raise NoMatch("inputs of rank 3 need the numbers of heads")
    batch, length, hidden = x.shape or ()
    if isinstance(hidden, int) and hidden % heads:
        raise NoMatch(f"{hidden} is not a multiple of {heads} heads")
    size = hidden // heads if isinstance(hidden, int) else None
    split = b.transpose(b.reshape(x.name, 0, 0, heads, size if size is not None else -1), 0, 2, 1, 3)
    return Heads(split, (batch, heads, length, size), flat=True)


def merge_heads(b: Body, y: str) -> str:
    """(batch, heads, sequence, size) as (batch, sequence, heads * size)."""
    return b.reshape(b.transpose(y, 0, 2, 1, 3), 0, 0, -1)


def extend(b: Body, past: Operand | None, new: Heads) -> Heads:
    """A cache and what is added to it along the sequence."""
    if past is None or (past.shape is not None and past.shape[2] == 0):
        return new
    old, add = past.shape[2] if past.shape is not None else None, new.shape[2]
    length = old + add if isinstance(old, int) and isinstance(add, int) else None
    return Heads(b.concat([past.name, new.name], 2), (*new.shape[:2], length, new.shape[3]))


def groups(q: Heads, k: Heads) -> int:
    """How many query heads share a key head."""
    ours, theirs = q.shape[1], k.shape[1]
    if ours is not None and ours == theirs:
        return 1
    if not isinstance(ours, int) or not isinstance(theirs, int):
        raise NoMatch("the numbers of heads are not known")
    if theirs == 0 or ours % theirs:
        raise NoMatch(f"{ours} query heads do not share {theirs} key heads evenly")
    return ours // theirs


def grouped_matmul(b: Body, left: str, right: str, q_heads: Any, share: int) -> str:
    """Product per head where `share` heads of the left one have one of the right.

    The heads that share become rows of one matrix, so nothing is repeated in memory.
    """
    if share == 1:
        return b.op("MatMul", left, right)
    rows = b.reshape(left, 0, q_heads // share, -1, 0)
    return b.reshape(b.op("MatMul", rows, right), 0, q_heads, -1, 0)


@dataclass(frozen=True)
class Scores:
    """What the mask is made for: sizes of the query block and of all keys.

    Attributes:
        q: Query.
        k: Keys, the cache included.
        dtype: Dtype that scores are computed in.
    """

    q: Heads
    k: Heads
    dtype: np.dtype[Any]

    def rows(self, b: Body) -> str:
        """Positions of the queries in their block, (queries, 1)."""
        return b.unsqueeze(range_of(b, self.q.name, self.q.shape, 2), 1)

    def columns(self, b: Body) -> str:
        """Positions of the keys, (keys)."""
        return range_of(b, self.k.name, self.k.shape, 2)


def visible(site: Site, b: Body, scores: Scores) -> str | None:
    """Which keys a query may see by its position, or None for all: causal, windows, filled part of the cache."""
    causal = bool(site.attr("is_causal", 0))
    left = int(site.attr("left_window_size", -1))
    right = int(site.attr("right_window_size", -1))
    filled = site.x(6) if site.has(6) else None
    parts: list[str] = []
    columns = scores.columns(b)
    if causal or left >= 0 or right >= 0:
        at = absolute(site, b, scores, filled)
        if causal or right >= 0:
            ahead = at if causal or not right else b.add(at, b.const(right, np.int64))
            parts.append(b.op("LessOrEqual", columns, ahead))
        if left >= 0:
            parts.append(b.greater_equal(columns, b.sub(at, b.const(left, np.int64))))
    if filled is not None:
        parts.append(b.less(columns, b.unsqueeze(filled, 1, 2, 3)))
    allowed: str | None = None
    for part in parts:
        allowed = part if allowed is None else b.logical_and(allowed, part)
    return allowed


def absolute(site: Site, b: Body, scores: Scores, filled: str | None) -> str:
    """Positions of the queries among the keys, (queries, 1) or (batch, 1, queries, 1)."""
    rows = scores.rows(b)
    if site.has(4):
        past = site.input(4)
        return b.add(rows, size_of(b, past.name, past.shape[2] if past.shape else None, 2))
    if filled is not None:
        before = b.sub(filled, size_of(b, scores.q.name, scores.q.shape[2], 2))
        return b.add(rows, b.unsqueeze(before, 1, 2, 3))
    return rows


def bias_of(site: Site, b: Body, scores: Scores) -> tuple[str | None, bool]:
    """What is added to the scores, and whether it may disallow every key of a query."""
    forbidden = b.const(-np.inf, scores.dtype)
    zero = b.const(0, scores.dtype)
    allowed = visible(site, b, scores)
    if not site.has(3):
        if allowed is None:
            return None, False
        # A causal mask or a window always leaves a query its own position.
        return b.where(allowed, zero, forbidden), site.has(6) or int(site.attr("left_window_size", -1)) >= 0
    mask = site.input(3)
    kind = site.kind(3)
    if kind not in "bf":
        raise NoMatch("masks of whole numbers are not defined")
    name, reaches = lengthen(b, mask, scores)
    if reaches is not None:
        allowed = reaches if allowed is None else b.logical_and(allowed, reaches)
    if kind == "b":
        both = name if allowed is None else b.logical_and(allowed, name)
        return b.where(both, zero, forbidden), True
    if mask.dtype != scores.dtype:
        name = b.cast(name, scores.dtype)
    return (name if allowed is None else b.where(allowed, name, forbidden)), True


def lengthen(b: Body, mask: Operand, scores: Scores) -> tuple[str, str | None]:
    """The mask for all keys, and for which of them it has a value (None for all)."""
    given = mask.shape[-1] if mask.shape else None
    if mask.rank < 1:
        raise NoMatch("a mask has an axis for keys")
    if given is not None and given == scores.k.shape[2]:
        return mask.name, None
    last = mask.rank - 1
    columns = scores.columns(b)
    end = size_of(b, mask.name, given, last)
    inside = b.op("Min", columns, b.sub(end, b.const(1, np.int64)))
    return b.gather(mask.name, inside, axis=-1), b.less(columns, end)


def scaled(site: Site, b: Body, q: Heads, k: Heads) -> tuple[str, str]:
    """Query and key, each times the root of the scale, as the operator has it against overflow."""
    dtype = site.dtype(0)
    scale = site.attr("scale")
    if scale is None and isinstance(q.shape[3], int):
        scale = 1 / np.sqrt(np.float32(q.shape[3]))
    if scale is not None:
        if scale < 0:
            raise NoMatch("the root of a negative scale is not a number")
        root = b.const(np.sqrt(np.float32(scale)), dtype)
    else:
        size = b.cast(size_of(b, q.name, None, 3), np.float32)
        root = b.cast(b.op("Sqrt", b.div(b.scalar(1), b.op("Sqrt", size))), dtype)
    return b.mul(q.name, root), b.mul(b.transpose(k.name, 0, 1, 3, 2), root)
