"""Operators that TensorRT takes with another number of dims only."""

from __future__ import annotations

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
