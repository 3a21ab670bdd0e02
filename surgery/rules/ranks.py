"""Operators that TensorRT takes with another number of dims only."""

from __future__ import annotations

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Site


@lowering(
    "arg-of-a-vector",
    "ArgMax",
    "ArgMin",
    why="TensorRT's TopK layer, which computes ArgMax and ArgMin, wants at least two dims.",
    samples=[
        "(float[7] x) => (int64[1] y) { y = ArgMax (x) }",
        "(float[7] x) => (int64 y) { y = ArgMin <keepdims = 0> (x) }",
        "(float16[n] x) => (int64 y) { y = ArgMax <axis = -1, keepdims = 0> (x) }",
        Sample("(int32[5] x) => (int64 y) { y = ArgMax <keepdims = 0, select_last_index = 1> (x) }"),
        "(double[7] x) => (int64[1] y) { y = ArgMax (x) }",
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int64 bfloat16",
            "(T[7] x) => (int64[1] y) { y = ArgMax (x) }",
        ),
    ],
    near_misses=["(float[2, 3] x) => (int64[2, 1] y) { y = ArgMax <axis = 1> (x) }"],
)
def arg_of_a_vector(site: Site, b: Body) -> str:
    """The same along the last axis of a matrix of one row."""
    if site.input(0).rank != 1:
        raise NoMatch("not a vector")
    extra = {"select_last_index": site.attr("select_last_index", 0)} if site.opset >= 12 else {}
    found = b.op(site.op, b.unsqueeze(site.x(), 0), axis=1, keepdims=1, **extra)
    return b.squeeze(found, 0) if site.attr("keepdims", 1) else b.squeeze(found, 0, 1)


@lowering(
    "arg-of-whole-numbers",
    "ArgMax",
    "ArgMin",
    when="always",
    why="Whole numbers are often equal, as where the first of some token is looked for; ONNX asks for the first or "
    "last of equals, and TensorRT's TopK layer, which computes ArgMax and ArgMin, promises no order among them.",
    samples=[
        "(int64[b, s] x) => (int64[b] y) { y = ArgMax <axis = 1, keepdims = 0> (x) }",
        "(int32[2, 7] x) => (int64[2, 1] y) { y = ArgMin <axis = -1> (x) }",
        "(int64[3, 5, 4] x) => (int64[3, 1, 4] y) { y = ArgMax <axis = 1, select_last_index = 1> (x) }",
        Sample("(int32[5] x) => (int64 y) { y = ArgMax <keepdims = 0> (x) }", feeds={"x": (0, 2)}),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16",
            "(T[2, 7] x) => (int64[2, 1] y) { y = ArgMax <axis = 1> (x) }",
        ),
    ],
    near_misses=["(float[2, 3] x) => (int64[2, 1] y) { y = ArgMax <axis = 1> (x) }"],
)
def arg_of_whole_numbers(site: Site, b: Body) -> str:
    """The least, or largest, of the places that hold the extreme number."""
    operand = site.input(0)
    if site.kind(0) not in "iu" or not operand.rank:
        raise NoMatch("no whole numbers, or no dims")
    axis = int(site.attr("axis", 0)) % operand.rank
    last = bool(site.attr("select_last_index", 0))
    extreme = b.reduce("ReduceMax" if site.op == "ArgMax" else "ReduceMin", site.x(), axis)
    size = b.gather(b.op("Shape", site.x()), b.const(axis, np.int64), 0)
    zero, one = b.const(0, np.int64), b.const(1, np.int64)
    places = b.op("Range", zero, size, one)
    outer = operand.rank - 1 - axis
    places = b.unsqueeze(places, *range(1, outer + 1)) if outer else places
    outside = b.const(-1, np.int64) if last else size
    found = b.where(b.equal(site.x(), extreme), places, outside)
    keep = bool(site.attr("keepdims", 1))
    return b.reduce("ReduceMax" if last else "ReduceMin", found, axis, keepdims=keep)


@lowering(
    "topk-of-a-vector",
    "TopK",
    why="TensorRT's TopK layer wants at least two dims.",
    samples=[
        "(float[7] x) => (float[3] v, int64[3] i) { k = Constant <value_ints = [3]> () v, i = TopK (x, k) }",
        "(float[7] x) => (float[2] v, int64[2] i) "
        "{ k = Constant <value_ints = [2]> () v, i = TopK <largest = 0> (x, k) }",
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 double",
            "(T[7] x) => (T[3] v, int64[3] i) { k = Constant <value_ints = [3]> () v, i = TopK (x, k) }",
        ),
    ],
    near_misses=[
        "(float[2, 7] x) => (float[2, 3] v, int64[2, 3] i) { k = Constant <value_ints = [3]> () v, i = TopK (x, k) }"
    ],
    rank=10,
)
def topk_of_a_vector(site: Site, b: Body) -> list[str]:
    """The same along the last axis of a matrix of one row."""
    if site.input(0).rank != 1:
        raise NoMatch("not a vector")
    attributes = {"axis": 1, "largest": site.attr("largest", 1), "sorted": site.attr("sorted", 1)}
    found = b.node("TopK", [b.unsqueeze(site.x(), 0), site.x(1)], outputs=2, attributes=attributes)
    return [b.squeeze(f, 0) for f in found]
