"""Models with control flow, sequences and padded tensors, through rewrite, build and verify."""

from __future__ import annotations

import pytest
from onnx import parser

import surgery
from surgery.report import Report

TAKEN: dict[str, str] = {
    "doubles in branches": """(double[3] x, bool c) => (double[3] y) { y = If (c)
        <then_branch = t () => (double[3] o) { o = Neg (x) },
        else_branch = e () => (double[3] q) { q = Exp (x) }> }""",
    "doubles in a scan": """(double[N, 3] x, double[3] s) => (double[3] f, double[N, 3] y) { f, y = Scan
        <num_scan_inputs = 1, body = b (double[3] a, double[3] xi) => (double[3] a2, double[3] o)
        { a2 = Add (a, xi) o = Mul (a2, xi) }> (s, x) }""",
    "bytes that wrap in a long loop": """(float[3] x) => (float[3] y) <int64 n = {500}, bool c = {1},
        int8[3] i = {1, 2, 3}>
        { z, y0 = Loop (n, c, i, x) <body = b (int64 k, bool ci, int8[3] a, float[3] f)
        => (bool co, int8[3] a2, float[3] f2)
        { co = Identity (ci) a2 = Add (a, i)
        g = Cast <to = 1> (a) f2 = Add (f, g)
        }>
        y = Neg (y0) }""",
    "an operator that is refused, in a body": """(float[3, 3] x) => (float y)
        <int64 n = {5}, bool c = {1}, float z = {0.0}>
        { y = Loop (n, c, z) <body = b (int64 k, bool ci, float a) => (bool co, float a2)
        { co = Identity (ci) d = Det (x) a2 = Add (a, d) }> }""",
    "a branch in a loop, in doubles": """(double[3] x) => (double[3] y) <int64 n = {99}, bool c = {1}>
        { y = Loop (n, c, x) <body = b (int64 k, bool ci, double[3] f) => (bool co, double[3] f2)
        { co = Identity (ci) s = ReduceMax <keepdims = 0> (f) z = Constant <value = double {2.0}> () l = Less (s, z)
        f2 = If (l) <then_branch = t () => (double[3] o) { o = Add (f, z) },
        else_branch = e () => (double[3] q) { q = Sub (f, x) }> }> }""",
    "a list that is split and put together": """(float[4, 3] x) => (float[4, 3] y) <int64 one = {1}>
        { s = SplitToSequence <axis = 0, keepdims = 1> (x, one) y = ConcatFromSequence <axis = 0> (s) }""",
    "a shape decides the branch": """(float[2, 3] x) => (float[6] y) <int64 two = {2}, int64[1] m = {-1}>
        { d = Shape (x) r = Size (d) c = Equal (r, two) y = If (c) <then_branch = t () => (float[6] o)
        { o = Reshape (x, m) }, else_branch = e () => (float[6] q) { q = Flatten (x) }> }""",
}


def run(text: str, **options: object) -> Report:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> g {text}')
    return surgery.run("generic", model, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", TAKEN.values(), ids=TAKEN)
def test_bodies_become_what_the_target_takes(text: str) -> None:
    report = run(text)
    assert report.failure is None, report.failure
    assert report.verification["graph"]["status"] == "passed"


def test_what_decides_a_loop_is_asked_for_by_name_and_taken() -> None:
    text = """(int64 n, bool c, float[3] x) => (float[3] y, float[n, 3] all) { y, all = Loop (n, c, x)
        <body = b (int64 k, bool ci, float[3] a) => (bool co, float[3] a2, float[3] s)
        { co = Identity (ci) a2 = Add (a, x) s = Mul (a2, x) }> }"""
    report = run(text)
    assert report.exit_code == 4
    assert report.failure is not None
    assert sorted(report.failure.needs_constant) == ["c", "n"]
    assert "--constant c=true" in (report.failure.fix or "")
    report = run(text, constants={"n": 4, "c": True})
    assert report.failure is None, report.failure


def test_a_state_that_grows_without_end_is_refused() -> None:
    report = run("""(float[1] x) => (float[m] y) <int64 n = {9223372036854775807}, float t = {9.0}, bool c = {1}>
        { y = Loop (n, c, x) <body = b (int64 k, bool ci, float[p] a) => (bool co, float[q] a2)
        { a2 = Concat <axis = 0> (a, x) s = ReduceSum <keepdims = 0> (a2) co = Less (s, t) }> }""")
    assert report.exit_code == 4
    assert report.failure is not None
    assert report.failure.code == "control-flow"
    assert "loop-state-shape-changes" in (report.failure.cause or "")


def test_branches_of_other_ranks_need_the_condition() -> None:
    report = run("""(float[3] x, bool c) => (float y) <int64[1] a = {0}> { y = If (c)
        <then_branch = t () => (float[3] o) { o = Neg (x) },
        else_branch = e () => (float[1, 3] q) { q = Unsqueeze (x, a) }> }""")
    assert report.failure is not None
    assert report.failure.needs_constant == ("c",)
    assert "if-branch-shape-mismatch" in (report.failure.cause or "")


HEAD = """<int64 zero = {0}, int64 n1 = {1}, int64[1] one = {1}, int64[1] z1 = {0}, int64[1] two = {2},
    int64[1] m = {-1}, int64 last = {-1},
    float h = {0.3}, float hh = {0.6}> { c = Greater (x, h) i = NonZero (c) t = Transpose (i) """
VALUES = "v = GatherND (x, t) "
PADDED = {
    "a column": ("float", "g = Gather <axis = 0> (i, zero) y = Cast <to = 1> (g)", 1),
    "a sum over the rest": ("float", "f = Cast <to = 1> (t) y = ReduceSum <keepdims = 0> (f, one)", 1),
    "columns side by side": (
        "int64", "a, b = Split <axis = 1, num_outputs = 2> (t) y = Concat <axis = 1> (b, a)", 1
    ),
    "arithmetic": ("int64", "s = Mul (t, two) y = Add (s, t)", 1),
    "what the positions point at": ("float", VALUES + "y = Exp (v)", 1),
    "a sum of all": ("int64", "y = ReduceSum <keepdims = 0> (i, one)", 0),
    "one behind the other": ("int64", "y = Concat <axis = 0> (t, t)", 1),
    "three behind each other": (
        "float", VALUES + "w = Neg (v) k = Slice (v, z1, two, z1) y = Concat <axis = 0> (k, v, w)", 1
    ),
    "the true shape": ("int64", "y = Shape (i)", 0),
    "a flat view": ("int64", "y = Reshape (t, m)", 1),
    "rows one behind the other": ("int64", "y = Reshape (i, m)", 1),
    "as many as there are": (
        "float", VALUES + "s = Shape (v) k = Min (s, two) a, b = TopK (v, k) y = Identity (a)", 1
    ),
    "a mean": ("float", VALUES + "y = ReduceMean <keepdims = 0> (v)", 0),
    "the largest": ("float", VALUES + "y = ReduceMax <keepdims = 0> (v)", 0),
    "the first two": ("float", VALUES + "y = Slice (v, z1, two, z1)", 1),
    "all but the last": ("float", VALUES + "y = Slice (v, z1, m, z1)", 1),
    "all but the first": ("float", VALUES + "e = Shape (v) y = Slice (v, one, e, z1)", 1),
    "some of some": ("int64", VALUES + "g = Greater (v, hh) y = NonZero (g)", 1),
    "a value for each": (
        "float", "s = Shape (i) n = Gather (s, one) e = Concat <axis = 0> (n, two) y = Expand (h, e)", 1
    ),
    "numbers for each": ("int64", "s = Shape (i) n = Gather (s, n1) y = Range (zero, n, n1)", 1),
    "written back": ("float", VALUES + "w = Neg (v) y = ScatterND (x, t, w)", 0),
    "assigned": (
        "float",
        "s = Shape (t) r = Gather (s, zero) u = Unsqueeze (r, z1) q = ConstantOfShape <value = float[1] {7.0}> (u)"
        " y = ScatterND (x, t, q)",
        0,
    ),
    "summed over": ("float", "f = Cast <to = 1> (t) ft = Transpose (f) y = MatMul (ft, f)", 0),
    "shares of one": ("float", VALUES + "y = Softmax <axis = 0> (v)", 1),
    "where the largest is": ("int64", VALUES + "y = ArgMax <axis = 0, keepdims = 0> (v)", 0),
    "the last one": ("float", VALUES + "y = Gather (v, last)", 0),
    "chosen by a mask": (
        "float", VALUES + "g = Less (v, hh) w = Compress <axis = 0> (v, g) y = Neg (w)", 1
    ),
    "a matrix for each": (
        "float", VALUES + "u = Unsqueeze (v, one) q = Transpose (u) y = MatMul (u, q)", 2
    ),
}  # fmt: skip


NUMBERS = ("rows one behind the other",)
"""What needs rooms that are numbers."""

NEED_ONE = ("a mean", "the largest", "where the largest is", "the last one")
"""What has no value where nothing is chosen."""


@pytest.mark.parametrize("shape", ["4, 5", "n, 5"])
@pytest.mark.parametrize("what", PADDED)
def test_sizes_from_data_stay_behind_a_count(what: str, shape: str) -> None:
    kind, nodes, counts = PADDED[what]
    shape = shape if what not in (*NEED_ONE, *NUMBERS) else "4, 5"
    report = run(f"(float[{shape}] x) => ({kind} y) {HEAD}{nodes} }}")
    assert report.failure is None, report.failure
    assert [(c.inverse or {})["op"] for c in report.io_changes] == ["slice_by_count"] * counts


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ("y, z = Split <axis = 0, num_outputs = 2> (t)", "a Split of a padded axis"),
        (VALUES + 'p = Concat <axis = 0> (z1, z1) q = Add (p, one) y = Pad <mode = "reflect"> (v, q)', "Pad"),
    ],
)
def test_what_cannot_be_padded_is_refused(nodes: str, why: str) -> None:
    report = run(f"(float[4, 5] x) => (int64 y) {HEAD}{nodes} }}")
    assert report.failure is not None
    assert report.failure.code == "data-dependent-shape"
    assert why in report.failure.message


IF = """(float[N, 4] x) => (float[N, 4] y) <float[4, 4] w = {{{eye}}}, float z = {{0.0}}> {{
    s = ReduceSum <keepdims = 0> (x) c = Greater (s, z) y = If (c)
    <then_branch = t () => (float[N, 4] o) {{ m = {then} o = Relu (m) }},
    else_branch = e () => (float[N, 4] q) {{ k = MatMul (x, w) q = Log (k) }}> }}"""
EYE = ", ".join("1.0" if a == b else "0.5" for a in range(4) for b in range(4))


def operators(text: str) -> list[str]:
    report = run(text, target="tensorrt-rtx")
    assert report.failure is None, report.failure
    assert report.model is not None
    return [n.op_type for n in report.model.graph.node]


def test_small_branches_with_products_of_free_size_are_both_computed() -> None:
    report = run(IF.format(eye=EYE, then="MatMul (x, w)"), target="tensorrt-rtx")
    assert report.failure is None, report.failure
    assert report.verification["graph"]["status"] == "passed"
    assert report.model is not None
    assert "If" not in [n.op_type for n in report.model.graph.node]
    (edit,) = [e for e in report.edits if e.rule == "resolve-structure"]
    assert "inside a conditional" in edit.assumptions[0]


@pytest.mark.parametrize(
    "text",
    [
        IF.format(eye=EYE, then="MatMul (x, w)").replace("[N, 4]", "[3, 4]"),
        IF.format(eye=EYE, then="Mul (x, z)").replace("MatMul (x, w)", "Mul (x, z)"),
        IF.format(eye=EYE, then="CumSum (x, i)").replace("float z =", "int64 i = {0}, float z ="),
    ],
    ids=["sizes are known", "no product", "an operator that is not among the sure ones"],
)
def test_other_branches_stay(text: str) -> None:
    assert "If" in operators(text)


def test_a_loop_over_a_batch_that_is_fixed_by_shape() -> None:
    """One list entry per image, of what is found in it: the batch is free, and known if a shape fixes it."""
    text = """(float[b, 4] x, float[b] w) => (float[b, 5] y) <bool go = {1}, int64 zero = {0}, int64[1] first = {0},
        int64[1] full = {5}, float least = {0.0}>
        { s = Shape (x) n = Gather (s, zero) start = SequenceEmpty ()
          all = Loop (n, go, start) <body = body (int64 k, bool ci, seq(float[5]) l) => (bool co, seq(float[5]) l2)
          { co = Identity (ci) row = Gather <axis = 0> (x, k) one = Gather <axis = 0> (w, k) p = Greater (row, least)
            f = NonZero (p) i = Squeeze (f, first) v = Gather (row, i) many = Shape (v) room = Sub (full, many)
            pads = Concat <axis = 0> (first, room) padded = Pad (v, pads, one) l2 = SequenceInsert (l, padded) }>
          y = ConcatFromSequence <axis = 0, new_axis = 1> (all) }"""
    report = run(text)
    assert report.failure is not None
    assert report.failure.code == "needs-constant"
    assert "--shape x=1x4" in report.failure.fix
    report = run(text, shapes={"x": ((2, 4),) * 3})
    assert report.failure is None, report.failure
    assert report.verification["graph"]["status"] == "passed"
    assert report.model is not None
    assert [d.dim_value for t in report.model.graph.input for d in t.type.tensor_type.shape.dim] == [2, 4, 2]


def test_what_a_size_decides_is_asked_for_as_a_size() -> None:
    """How many parts there are follows from the size of an input: its values would be of no help."""
    text = """(float[b, t, 8] x) => (int64 k) <int64 three = {3}>
        { s = SplitToSequence <axis = 1> (x, three) k = SequenceLength (s) }"""
    failure = run(text).failure
    assert failure is not None
    assert failure.code == "needs-constant"
    assert failure.fix is not None
    assert "--shape x=" in failure.fix
    assert "--constant" not in failure.fix
    counted = """(float[b, t] x) => (float[b, u] y) <float two = {2.0}, int64 one = {1}, bool true = {1},
        int64[1] last = {1}> { s = Shape (x) n = Gather (s, one) f = Cast <to = 1> (n) h = Div (f, two) c = Ceil (h)
        k = Cast <to = 7> (c) y = Loop <body = l (int64 i, bool g, float[b, v] z) => (bool g2, float[b, w] z2) {
        g2 = Identity (g) z2 = Concat <axis = 1> (z, x) }> (k, true, x) }"""
    failure = run(counted).failure
    assert failure is not None
    assert failure.fix is not None
    assert "--shape x=" in failure.fix
