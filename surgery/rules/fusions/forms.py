"""Rules that only change the form: they apply where a pipeline asks for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.graph.pattern import attr, constant, either, op, value
from surgery.rules.engine.cut_site import CutSite
from surgery.rules.engine.pair import pattern_rule
from surgery.rules.engine.rule import NoMatch, Sample


@pattern_rule(
    "transpose-of-transpose",
    op(
        "Transpose",
        op("Transpose", value("x"), attrs={"perm": attr("first")}),
        attrs={"perm": attr("second")},
    ),
    why="Two permutations in a row are one.",
    optional=True,
    when="always",
    samples=[
        "(float[2, 3, 4] x) => (float[4, 2, 3] y) "
        "{ t = Transpose <perm = [1, 0, 2]> (x) y = Transpose <perm = [2, 1, 0]> (t) }",
        "(int64[n, 3] x) => (int64[n, 3] y) { t = Transpose (x) y = Transpose (t) }",
        "(float16[2, 3, 4] x) => (float16[3, 4, 2] y) "
        "{ t = Transpose <perm = [2, 1, 0]> (x) y = Transpose <perm = [1, 0, 2]> (t) }",
        "(bool[2, 3] x) => (bool[2, 3] y) { t = Transpose <perm = [1, 0]> (x) y = Transpose <perm = [1, 0]> (t) }",
    ],
    near_misses=[
        "(float[2, 3] x) => (float[2, 3] y, float[3, 2] z) { t = Transpose (x) y = Transpose (t) z = Relu (t) }"
    ],
)
def transpose_of_transpose(site: CutSite, b: Body) -> str:
    """One Transpose, or nothing where the two undo each other."""
    rank = site.tensor("x").rank
    backwards = list(range(rank))[::-1]
    first, second = site.values["first"] or backwards, site.values["second"] or backwards
    both = [first[axis] for axis in second]
    if both == list(range(rank)):
        return b.op("Identity", site.name("x"))
    return b.transpose(site.name("x"), *both)


def _lossless(a: np.dtype[Any], c: np.dtype[Any]) -> bool:
    """Whether every value of the first dtype is one of the second, of the same kind."""
    kinds = {a.kind, c.kind}
    return (kinds <= {"f"} or kinds <= {"i", "u"}) and bool(np.can_cast(a, c, "safe"))


@pattern_rule(
    "cast-of-cast",
    op("Cast", op("Cast", value("x"), attrs={"to": attr("between")}), attrs={"to": attr("to")}),
    why="A cast to a wider dtype of the same kind loses nothing, so the next one may start where it started.",
    optional=True,
    when="always",
    samples=[
        "(float16[2, n] x) => (float16[2, n] y) { c = Cast <to = 1> (x) y = Cast <to = 10> (c) }",
        "(float[2, 3] x) => (float16[2, 3] y) { c = Cast <to = 11> (x) y = Cast <to = 10> (c) }",
        "(int32[5] x) => (int32[5] y) { c = Cast <to = 7> (x) y = Cast <to = 6> (c) }",
        "(uint8[5] x) => (int16[5] y) { c = Cast <to = 6> (x) y = Cast <to = 5> (c) }",
    ],
    near_misses=[
        "(float[2, 3] x) => (float[2, 3] y) { c = Cast <to = 10> (x) y = Cast <to = 1> (c) }",
        "(float[2, 3] x) => (float[2, 3] y) { c = Cast <to = 7> (x) y = Cast <to = 1> (c) }",
    ],
)
def cast_of_cast(site: CutSite, b: Body) -> str:
    """One Cast, or nothing where the second undoes the first."""
    import onnx.helper

    x = site.tensor("x")
    between, to = (onnx.helper.tensor_dtype_to_np_dtype(int(site.values[n])) for n in ("between", "to"))
    if x.dtype is None or not _lossless(x.dtype, between) or between.kind not in "fiu":
        raise NoMatch(f"a cast to {between} may change values")
    if {between.kind, to.kind} == {"f"} or {between.kind, to.kind} <= {"i", "u"}:
        return b.op("Identity", x.name) if to == x.dtype else b.cast(x.name, to)
    raise NoMatch(f"{between} and {to} are of different kinds")


def _mean(of: Any) -> Any:
    """ReduceMean with its axes as an attribute, or as an input (from opset 18)."""
    return either(
        op("ReduceMean", of, attrs={"axes": attr("axes"), "keepdims": 1}),
        op("ReduceMean", of, constant("axes"), attrs={"keepdims": 1, "noop_with_empty_axes": 0}),
    )


def _normalized() -> Any:
    """Mean taken off, divided by the deviation, in the spellings that exporters use."""
    off = op("Sub", value("x"), _mean(value("x")))
    square = either(op("Pow", off, constant(equals=2)), op("Mul", off, off))
    deviation = op("Sqrt", op("Add", _mean(square), constant("epsilon")))
    return either(op("Div", off, deviation), op("Mul", off, op("Reciprocal", deviation)))


@pattern_rule(
    "layer-normalization",
    op("Add", op("Mul", _normalized(), value("scale")), value("bias")),
    why="LayerNormalization written out as ten nodes: one node keeps the accumulation in float32, which TensorRT "
    "asks for in half precision.",
    since=17,
    optional=True,
    when="always",
    samples=[
        Sample(
            "(float[2, 3, 8] x, float[8] s, float[8] b) => (float[2, 3, 8] y) "
            "{ two = Constant <value_float = 2.0> () e = Constant <value_float = 1e-5> () "
            "m = ReduceMean <axes = [-1]> (x) d = Sub (x, m) q = Pow (d, two) "
            "v = ReduceMean <axes = [-1]> (q) a = Add (v, e) r = Sqrt (a) n = Div (d, r) t = Mul (n, s) "
            "y = Add (t, b) }",
            opset=17,
        ),
        "(float[n, 4, 8] x, float[4, 8] s, float[4, 8] b) => (float[n, 4, 8] y) "
        "{ axes = Constant <value_ints = [1, 2]> () e = Constant <value_float = 1e-3> () m = ReduceMean (x, axes) "
        "d = Sub (x, m) q = Mul (d, d) v = ReduceMean (q, axes) a = Add (e, v) r = Sqrt (a) i = Reciprocal (r) "
        "n = Mul (d, i) t = Mul (s, n) y = Add (b, t) }",
        "(double[2, 8] x, double[8] s, double[8] b) => (double[2, 8] y) "
        "{ axes = Constant <value_ints = [-1]> () e = Constant <value = double {0.001}> () m = ReduceMean (x, axes) "
        "d = Sub (x, m) q = Mul (d, d) v = ReduceMean (q, axes) a = Add (v, e) r = Sqrt (a) n = Div (d, r) "
        "t = Mul (n, s) y = Add (t, b) }",
    ],
    near_misses=[
        # The mean is taken over another axis than the variance.
        "(float[3, 3] x, float[3] s, float[3] b) => (float[3, 3] y) { first = Constant <value_ints = [0]> () "
        "last = Constant <value_ints = [1]> () e = Constant <value_float = 1e-5> () m = ReduceMean (x, first) "
        "d = Sub (x, m) q = Mul (d, d) v = ReduceMean (q, last) a = Add (v, e) r = Sqrt (a) n = Div (d, r) "
        "t = Mul (n, s) y = Add (t, b) }",
        # The deviation is read by another node too.
        "(float[2, 3] x, float[3] s, float[3] b) => (float[2, 3] y, float[2, 1] z) "
        "{ axes = Constant <value_ints = [-1]> () e = Constant <value_float = 1e-5> () m = ReduceMean (x, axes) "
        "d = Sub (x, m) q = Mul (d, d) v = ReduceMean (q, axes) a = Add (v, e) r = Sqrt (a) n = Div (d, r) "
        "t = Mul (n, s) y = Add (t, b) z = Exp (r) }",
    ],
)
def layer_normalization(site: CutSite, b: Body) -> str:
    """LayerNormalization over the last axes."""
    x = site.tensor("x")
    given = site.constant("axes").tolist() if "axes" in site.tensors else site.values["axes"]
    axes = [int(a) for a in given or ()]
    normal = sorted(a % x.rank for a in axes)
    if not normal or normal != list(range(normal[0], x.rank)):
        raise NoMatch(f"the mean is taken over the axes {axes}, not over the last ones")
    wanted = None if x.shape is None else x.shape[normal[0] :]
    for name in ("scale", "bias"):
        if site.tensor(name).shape != wanted:
            raise NoMatch(f"{name} has another shape than the axes that are normalized")
    return b.op(
        "LayerNormalization", x.name, site.name("scale"), site.name("bias"),
        axis=normal[0] - x.rank, epsilon=float(site.constant("epsilon").item()),
    )  # fmt: skip


def _gelu() -> Any:
    """Erf form of Gelu, with the factors in any association."""
    x, half = value("x"), constant(equals=0.5)
    scaled = either(
        op("Div", x, constant(equals=2.0**0.5)),
        op("Mul", x, constant(equals=0.5**0.5)),
    )
    bell = op("Add", op("Erf", scaled), constant(equals=1.0))
    return either(
        op("Mul", op("Mul", x, bell), half),
        op("Mul", x, op("Mul", bell, half)),
        op("Mul", op("Mul", x, half), bell),
    )


@pattern_rule(
    "gelu",
    _gelu(),
    why="Gelu written out with Erf as five nodes is one operator from opset 20 on.",
    since=20,
    optional=True,
    when="always",
    samples=[
        Sample(
            "(float[2, n] x) => (float[2, n] y) { r = Constant <value_float = 1.4142135> () "
            "h = Constant <value_float = 0.5> () o = Constant <value_float = 1.0> () "
            "a = Div (x, r) e = Erf (a) p = Add (e, o) m = Mul (x, p) y = Mul (m, h) }",
            opset=20,
        ),
        Sample(
            "(double[8] x) => (double[8] y) { r = Constant <value = double {0.7071067811865476}> () "
            "h = Constant <value = double {0.5}> () o = Constant <value = double {1.0}> () "
            "a = Mul (r, x) e = Erf (a) p = Add (o, e) m = Mul (h, x) y = Mul (p, m) }",
            opset=20,
        ),
        Sample(  # the text has float16 as bits: the root of 2, 0.5 and 1
            "(float16[8] x) => (float16[8] y) { r = Constant <value = float16 {15784}> () "
            "h = Constant <value = float16 {14336}> () o = Constant <value = float16 {15360}> () "
            "a = Div (x, r) e = Erf (a) p = Add (e, o) m = Mul (p, h) y = Mul (x, m) }",
            opset=20,
        ),
    ],
    near_misses=[
        Sample(
            "(float[2, 3] x) => (float[2, 3] y) { r = Constant <value_float = 1.4> () "
            "h = Constant <value_float = 0.5> () o = Constant <value_float = 1.0> () "
            "a = Div (x, r) e = Erf (a) p = Add (e, o) m = Mul (x, p) y = Mul (m, h) }",
            opset=20,
        )
    ],
)
def gelu(site: CutSite, b: Body) -> str:
    """One node."""
    return b.op("Gelu", site.name("x"))
