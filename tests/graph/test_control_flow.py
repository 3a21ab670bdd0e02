from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

from surgery.graph.control_flow import resolve_control_flow
from surgery.graph.convert import export_graph, import_graph
from surgery.graph.evaluate import Evaluator
from surgery.graph.fold import fold_constants
from surgery.graph.tidy import drop_dead
from surgery.graph.unresolved import Unresolved


def parse(text: str, opset: int = 18) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text}')


def resolve(
    model: onnx.ModelProto, *, fold: bool = True, **options: Any
) -> tuple[onnx.ModelProto, int, list[Unresolved]]:
    graph, header = import_graph(model)
    left: list[Unresolved] = []
    if fold:
        fold_constants(graph)
    count = resolve_control_flow(graph, unresolved=left, **options)
    if fold:
        fold_constants(graph)
    drop_dead(graph)
    return export_graph(graph, header), count, left


def values(model: onnx.ModelProto, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.input:
        shape = [d.dim_value or 3 for d in value.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if dtype.kind == "b":
            feeds[value.name] = np.asarray(seed % 2 == 0).reshape(shape)
        elif dtype.kind in "iu":
            feeds[value.name] = rng.integers(1, 4, shape).astype(dtype)
        else:
            feeds[value.name] = rng.normal(0, 1, shape).astype(dtype)
    return feeds


def check(text: str, ops: set[str] | None = None, *, opset: int = 18, **options: Any) -> onnx.ModelProto:
    """Resolve, compare with the original, and see that none of `ops` is left."""
    model = parse(text, opset)
    after, count, left = resolve(model, **options)
    assert count
    assert not left
    found = {n.op_type for n in after.graph.node}
    assert not found & ({"If", "Loop", "Scan"} if ops is None else ops), found
    onnx.checker.check_model(after)
    for seed in range(4):
        feeds = values(model, seed)
        expected, got = Evaluator(model, threads=1).run(feeds), Evaluator(after, threads=1).run(feeds)
        for name, value in expected.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6)
            assert got[name].dtype == value.dtype
    assert resolve(model, **options)[0] == after  # names do not depend on anything but the model
    return after


# -- If: branches that do the same on other numbers -----------------------------------------------------


def test_branches_that_differ_in_a_number_become_one() -> None:
    after = check(
        """(bool c, float[3] x) => (float[3] y) {
            y = If (c) <
                then_branch = t () => (float[3] o) {
                    two = Constant <value: tensor = float {2.0}> ()  m = Mul (x, two)  o = Exp (m) },
                else_branch = e () => (float[3] q) {
                    three = Constant <value: tensor = float {-3.0}> ()  n = Mul (x, three)  q = Exp (n) }
            > }"""
    )
    assert sorted(n.op_type for n in after.graph.node) == ["Exp", "Mul", "Where"]


RESIZE = """
        {p}s = Shape (x)
        {p}f = Cast <to = 1> ({p}s)
        {p}k = Constant <value: tensor = float[4] {{1.0, 1.0, {factor}}}> ()
        {p}m = Mul ({p}f, {p}k)
        {p}r = Round ({p}m)
        {p}i = Cast <to = 7> ({p}r)
        {p}o = Resize <mode = "nearest"> (x, , , {p}i)
        {p}y = Relu ({p}o)
"""


def resizing(condition: str, *factors: str) -> str:
    bodies = [RESIZE.format(p=p, factor=f) for p, f in zip("te", factors, strict=True)]
    return f"""(float[1,2,h,w] x, bool given) => (float[1,2,a,b] y) <int64 i2 = {{2}}, int64 i3 = {{3}}> {{
        s = Shape (x)  h = Gather <axis = 0> (s, i2)  w = Gather <axis = 0> (s, i3)
        fh = Cast <to = 1> (h)  fw = Cast <to = 1> (w)  less = LessOrEqual (fh, fw)
        y = If ({condition}) <
            then_branch = t () => (float[1,2,p,q] ty) {{ {bodies[0]} }},
            else_branch = e () => (float[1,2,r,u] ey) {{ {bodies[1]} }}
        > }}"""


@pytest.mark.parametrize("shape", [(1, 2, 4, 6), (1, 2, 6, 4), (1, 2, 5, 5)])
def test_sizes_that_a_condition_on_sizes_chooses_are_chosen_as_whole_numbers(shape: tuple[int, ...]) -> None:
    model = parse(resizing("less", "2.0, 3.0", "3.0, 2.0"))
    after, count, left = resolve(model)
    assert count
    assert not left
    (choice,) = (n for n in after.graph.node if n.op_type == "Where")
    read = {n.op_type for n in after.graph.node if choice.output[0] in n.input}
    assert read == {"Resize"}
    assert sum(n.op_type == "Resize" for n in after.graph.node) == 1
    feeds = {"x": np.random.default_rng(0).normal(0, 1, shape).astype(np.float32), "given": np.array(True)}
    want, got = (Evaluator(m, threads=1).run(feeds)["y"] for m in (model, after))
    np.testing.assert_array_equal(got, want)


def test_sizes_that_data_chooses_stay_in_branches() -> None:
    _, count, _ = resolve(parse(resizing("given", "2.0, 3.0", "3.0, 2.0")))
    assert count == 0


def test_branches_that_compute_something_else_stay() -> None:
    _, count, _ = resolve(parse(f"(bool c, float[3] x) => (float[3] y) {{ y = If (c) <{BRANCHES}> }}"))
    assert count == 0


def test_a_tensor_that_stands_for_two_others_keeps_the_branches() -> None:
    text = """(bool c, float[3] x, float[3] u, float[3] v) => (float[3] y) {
        y = If (c) <
            then_branch = t () => (float[3] o) { m = Neg (u)  n = Exp (u)  o = Add (m, n) },
            else_branch = e () => (float[3] q) { k = Neg (u)  l = Exp (v)  q = Add (k, l) }
        > }"""
    _, count, _ = resolve(parse(text))
    assert count == 0


# -- If -------------------------------------------------------------------------------------------------

BRANCHES = (
    "then_branch = t () => (float[3] o) { o = Neg (x) }, else_branch = e () => (float[3] q) { q = Exp (x) }"
)


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("shape", ["bool c = ", "bool[1] c = "])
def test_a_constant_condition_chooses_a_branch(value: int, shape: str) -> None:
    after = check(f"(float[3] x) => (float[3] y) <{shape}{{{value}}}> {{ y = If (c) <{BRANCHES}> }}")
    assert [n.op_type for n in after.graph.node] == ["Neg" if value else "Exp"]


def test_a_condition_on_static_shapes_is_known() -> None:
    check(
        "(float[2, 1, 4] x) => (float[2, 4] y) <int64 one = {1}, int64[1] ax = {1}> {"
        " s = Shape (x) d = Gather (s, one) c = Equal (d, one)"
        " y = If (c) <then_branch = t () => (float[2, 4] o) { o = Squeeze (x, ax) },"
        " else_branch = e () => (float[2, 1, 4] q) { q = Identity (x) }> }"
    )


@pytest.mark.parametrize(
    "part",
    [
        "s = Shape (x) d = Gather (s, last)",
        "s = Shape (x) d = Slice (s, low, high)",
        "s = Shape (x) e = Gather <axis = 0> (s, twice) d = ReduceMax <keepdims = 1> (e)",
        "d = Shape <start = 1, end = 2> (x)",
    ],
)
def test_a_condition_on_a_size_that_is_known_beside_free_ones(part: str) -> None:
    after = check(
        "(float[n, 1, m] x) => (float[n, m] y)"
        " <int64[1] last = {-2}, int64[1] low = {1}, int64[1] high = {2}, int64[1] one = {1},"
        f" int64[2] twice = {{1, -2}}, int64[1] ax = {{1}}> {{ {part} c = Equal (d, one)"
        " y = If (c) <then_branch = t () => (float[n, m] o) { o = Squeeze (x, ax) },"
        " else_branch = e () => (float[n, 1, m] q) { q = Identity (x) }> }"
    )
    assert [n.op_type for n in after.graph.node if n.op_type in ("If", "Squeeze", "Identity")] == ["Squeeze"]


def test_a_condition_on_a_free_size_stays() -> None:
    text = (
        "(float[n, 1, m] x) => (float y) <int64 last = {2}, int64 one = {1}> {"
        " s = Shape (x) d = Gather (s, last) c = Equal (d, one)"
        " y = If (c) <then_branch = t () => (float o) { o = ReduceSum <keepdims = 0> (x) },"
        " else_branch = e () => (float q) { q = ReduceMax <keepdims = 0> (x) }> }"
    )
    after, _, _ = resolve(parse(text))
    assert [n.op_type for n in after.graph.node][-1] == "If"


def test_branches_that_hand_outer_values_through() -> None:
    # The checker lets it pass, ONNX Runtime does not run it: so only the result is run.
    model = parse(
        "(float[3] x, float[3] z) => (float[3] y, float[3] w) <bool c = {1}> {"
        " y, w = If (c) <then_branch = t () => (float[3] x, float[3] x) { },"
        " else_branch = e () => (float[3] q, float[3] r) { q = Exp (x) r = Neg (z) }> }"
    )
    after, count, left = resolve(model)
    assert (count, left) == (1, [])
    assert [n.op_type for n in after.graph.node] == ["Identity", "Identity"]
    feeds = values(model, 1)
    got = Evaluator(after, threads=1).run(feeds)
    np.testing.assert_array_equal(got["y"], feeds["x"])
    np.testing.assert_array_equal(got["w"], feeds["x"])


def test_a_condition_holds_inside_its_own_branches() -> None:
    after = check(
        "(float[3] x, bool c) => (float[3] y) {"
        " y = If (c) <then_branch = t () => (float[3] o) {"
        f" o = If (c) <{BRANCHES.replace('(float[3] o) { o', '(float[3] o2) { o2').replace('q', 'q2')}> }},"
        " else_branch = e () => (float[3] q) { n = Not (c)"
        f" q = If (n) <{BRANCHES.replace('(float[3] o) { o', '(float[3] o3) { o3').replace('q', 'q3')}> }}> }}",
        set(),
    )
    (node,) = after.graph.node
    assert [n.op_type for a in node.attribute for n in a.g.node if n.op_type == "If"] == []


def test_branches_of_equal_shape_can_be_selected_from() -> None:
    after = check(f"(float[3] x, bool c) => (float[3] y) {{ y = If (c) <{BRANCHES}> }}", select=True)
    assert sorted(n.op_type for n in after.graph.node) == ["Exp", "Neg", "Where"]
    check(f"(float[3] x, bool[1] c) => (float[3] y) {{ y = If (c) <{BRANCHES}> }}", select=True)


def test_booleans_are_selected_without_where() -> None:
    check(
        "(float[3] x, bool c) => (bool[3] y) <float z = {0.0}> { y = If (c) <then_branch = t () => (bool[3] o)"
        " { o = Less (x, z) }, else_branch = e () => (bool[3] q) { q = Greater (x, z) }> }",
        select=True,
    )


@pytest.mark.parametrize("select", [False, True])
def test_branches_of_other_shapes_are_refused_with_the_reason(select: bool) -> None:
    for branch, said in (
        ("Concat <axis = 0> (x, x)", "of shape [6] and [3]"),
        ("Unsqueeze (x, ax)", "of rank 2 and 1"),
    ):
        text = (
            "(float[3] x, bool c) => (float y) <int64[1] ax = {0}> { y = If (c) <then_branch = t () => (float o)"
            f" {{ o = {branch} }}, else_branch = e () => (float q) {{ q = Exp (x) }}> }}"
        )
        model = parse(text)
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        for attribute in model.graph.node[0].attribute:
            attribute.g.output[0].type.tensor_type.ClearField("shape")
        _, count, left = resolve(model, select=select)
        assert count == 0
        assert [(u.op, u.tensor) for u in left] == [("If", "c")]
        assert said in left[0].reason


def test_deep_nesting_is_flattened() -> None:
    text, name = "Neg (x)", "x"
    for level in range(30):
        text = (
            f"If (c{level % 20}) <then_branch = t () => (float[3] o{level}) {{ o{level} = {text} }},"
            f" else_branch = e () => (float[3] q{level}) {{ q{level} = Exp (x) }}>"
        )
    inputs = ", ".join(f"bool c{k}" for k in range(20))
    model = parse(f"(float[3] {name}, {inputs}) => (float[3] y) {{ y = {text} }}")
    after, count, left = resolve(model)
    assert (count > 0, left) == (True, [])
    # The expected values are computed here: ONNX Runtime up to 1.27 needs twice the time per level to open a model.
    run = Evaluator(after, threads=1).run
    for off in (None, 0, 7, 19):
        feeds = values(model, 0) | {f"c{k}": np.array(k != off) for k in range(20)}
        expected = -feeds["x"] if off is None else np.exp(feeds["x"])
        np.testing.assert_allclose(run(feeds)["y"], expected, rtol=1e-5, atol=1e-6)

    def depth(nodes: Any) -> int:
        inner = [depth(a.g.node) for n in nodes for a in n.attribute if a.HasField("g")]
        return 1 + max(inner, default=-1)

    assert depth(after.graph.node) <= 17


def test_siblings_may_use_the_same_names() -> None:
    check(
        "(float[3] x) => (float[3] y, float[3] z) <bool c = {1}> {"
        " y = If (c) <then_branch = t () => (float[3] o) <float[3] w = {1.0, 2.0, 3.0}> { h = Mul (x, w)"
        " o = Neg (h) },"
        " else_branch = e () => (float[3] o) { o = Exp (x) }>"
        " z = If (c) <then_branch = t () => (float[3] o) <float[3] w = {4.0, 5.0, 6.0}> { h = Add (x, w)"
        " o = Exp (h) },"
        " else_branch = e () => (float[3] o) { o = Exp (x) }> }"
    )


# -- Loop -----------------------------------------------------------------------------------------------

ROUND = (
    "<body = b (int64 i, bool go, float[3] s) => (bool on, float[3] t, float[3] k)"
    " { f = Cast <to = 1> (i) a = Add (s, x) t = Mul (a, w) k = Add (t, f) on = Identity (go) }>"
)


@pytest.mark.parametrize("opset", [11, 13, 18, 21])
@pytest.mark.parametrize("rounds", [1, 5])
def test_a_counted_loop_is_unrolled(opset: int, rounds: int) -> None:
    check(
        f"(float[3] x) => (float[3] y, float[{rounds}, 3] ys) <int64 n = {{{rounds}}}, bool true = {{1}},"
        f" float[3] w = {{0.5, 1.5, -1.0}}> {{ y, ys = Loop (n, true, x) {ROUND} }}",
        opset=opset,
    )


def test_a_loop_without_condition_is_unrolled() -> None:
    check(
        "(float[3] x) => (float[3] y) <int64 n = {3}, float[3] w = {0.5, 1.5, -1.0}>"
        f" {{ y, ys = Loop (n, , x) {ROUND} }}"
    )


def test_a_loop_of_no_rounds_gives_its_start() -> None:
    after = check(
        "(float[3] x) => (float[3] y) <int64 n = {0}, bool true = {1}, float[3] w = {0.5, 1.5, -1.0}>"
        f" {{ y, ys = Loop (n, true, x) {ROUND} }}"
    )
    assert [n.op_type for n in after.graph.node] == ["Identity"]


def test_a_condition_that_can_be_computed_ends_the_loop() -> None:
    check(
        "(float[3] x) => (float[3] y, int64 z) <bool true = {1}, int64 zero = {0}, int64 two = {2},"
        " int64 end = {9}> {"
        " y, z = Loop (, true, x, zero) <body = b (int64 i, bool go, float[3] s, int64 c)"
        " => (bool on, float[3] t, int64 d) { t = Add (s, x) d = Add (c, two) on = Less (d, end) }> }"
    )


def test_a_growing_state_is_unrolled_however_long() -> None:
    check(
        "(float[2, 4] x) => (float[202, 4] y) <int64 n = {100}, bool true = {1}> {"
        " y = Loop (n, true, x) <body = b (int64 i, bool go, float[m, 4] s) => (bool on, float[k, 4] t)"
        " { t = Concat <axis = 0> (s, x) on = Identity (go) }> }"
    )


def test_a_long_loop_of_fixed_shapes_stays() -> None:
    text = (
        "(float[3] x) => (float[3] y, float[500, 3] ys) <int64 n = {500}, bool true = {1},"
        f" float[3] w = {{0.5, 1.5, -1.0}}> {{ y, ys = Loop (n, true, x) {ROUND} }}"
    )
    after, count, left = resolve(parse(text))
    assert (count, left) == (0, [])
    assert [n.op_type for n in after.graph.node] == ["Loop"]


def test_a_long_loop_without_condition_does_not_read_it() -> None:
    after = check(
        "(float[3] x) => (float[3] y) <int64 n = {500}, float[3] w = {0.5, 0.25, -0.5}>"
        f" {{ y, ys = Loop (n, , x) {ROUND} }}",
        set(),
    )
    (node,) = after.graph.node
    body = node.attribute[0].g
    assert node.input[1] == ""
    assert body.input[1].name not in [i for n in body.node for i in n.input]


@pytest.mark.parametrize(
    ("loop", "tensor", "said"),
    [
        (f"y, ys = Loop (r, true, x) {ROUND}", "r", "the number of rounds decides a shape"),
        (f"y, ys = Loop (n, c, x) {ROUND}", "c", "its condition, computed while it runs, decides a shape"),
        (
            f"y, ys = Loop (n, true, x) {ROUND}".replace("on = Identity (go)", "m = ReduceMax (t) z = Less (m, lim)"
            " on = Squeeze (z)"),
            "",
            "its condition, computed while it runs, decides a shape",
        ),
        (
            "y = Loop (r, true, x) <body = b (int64 i, bool go, float[m] s) => (bool on, float[k] t)"
            " { t = Concat <axis = 0> (s, x) on = Identity (go) }> ys = Neg (y)",
            "r",
            "it carries a tensor whose shape changes, and the number of rounds is not known",
        ),
    ],
)  # fmt: skip
def test_loops_that_stay_say_why(loop: str, tensor: str, said: str) -> None:
    text = (
        "(float[3] x, int64 r, bool c) => (float[a] y, float[b] ys) <int64 n = {5}, bool true = {1},"
        f" float[3] w = {{0.5, 1.5, -1.0}}, float lim = {{3.0}}> {{ {loop} }}"
    )
    _, count, left = resolve(parse(text))
    assert count == 0
    assert [(u.op, u.tensor, u.reason) for u in left] == [("Loop", tensor, said)]


def test_loops_inside_loops_and_branches() -> None:
    check(
        "(float[3] x) => (float[3] y) <int64 n = {3}, bool true = {1}, int64 one = {1}> {"
        " y = Loop (n, true, x) <body = outer (int64 i, bool go, float[3] s) => (bool on, float[3] t) {"
        "  on = Identity (go) first = Less (i, one)"
        "  t = If (first) <then_branch = a () => (float[3] u) {"
        "    u = Loop (n, , s) <body = inner (int64 j, bool go2, float[3] v) => (bool on2, float[3] w)"
        "      { on2 = Identity (go2) jf = Cast <to = 1> (j) if0 = Cast <to = 1> (i) k = Add (jf, if0)"
        "        m = Add (v, k) w = Mul (m, x) }> },"
        "   else_branch = b () => (float[3] z) { z = Sub (s, x) }> }> }"
    )


def test_a_branch_inside_a_loop_that_stays_is_chosen() -> None:
    after = check(
        f"(float[3] x, int64 n) => (float[3] y) <bool true = {{1}}, bool c = {{0}}> {{"
        " y = Loop (n, true, x) <body = b (int64 i, bool go, float[3] s) => (bool on, float[3] t)"
        f" {{ on = Identity (go) u = If (c) <{BRANCHES}> t = Add (s, u) }}> }}",
        {"If"},
    )
    assert "If" not in [n.op_type for a in after.graph.node[0].attribute for n in a.g.node]


# -- Scan -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attributes",
    [
        "",
        ", scan_input_directions = [1, 0], scan_output_directions = [0, 1]",
        ", scan_input_axes = [1, 0], scan_output_axes = [1, 0]",
        ", scan_input_axes = [-1, 0], scan_output_axes = [-1, 0], scan_output_directions = [1, 1]",
    ],
)
def test_a_scan_is_unrolled_on_request(attributes: str) -> None:
    turned = "axes" in attributes
    x, out = ("3, 4", "3, 4") if turned else ("4, 3", "4, 3")
    text = (
        f"(float[{x}] x, float[4] z, float[3] s) => (float[3] e, float[{out}] a, float[4, 3] b) {{"
        f" e, a, b = Scan <num_scan_inputs = 2{attributes}, body = body (float[3] p, float[3] q, float r)"
        " => (float[3] t, float[3] u, float[3] v) { t = Add (p, q) u = Mul (t, r) v = Sub (t, q) }> (s, x, z) }"
    )
    check(text, scans=True)
    assert resolve(parse(text))[1] == 0


def test_a_scan_of_unknown_length_stays() -> None:
    text = (
        "(float[n, 3] x, float[3] s) => (float[3] e) { e = Scan <num_scan_inputs = 1,"
        " body = body (float[3] p, float[3] q) => (float[3] t) { t = Add (p, q) }> (s, x) }"
    )
    _, count, left = resolve(parse(text), scans=True)
    assert count == 0
    assert "number of steps is not known" in left[0].reason
