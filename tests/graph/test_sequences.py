"""Sequences and optionals of known structure are computed away; others are told, with what decides them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.graph.control_flow import resolve_control_flow
from surgery.graph.convert import export_graph, import_graph
from surgery.graph.evaluate import Evaluator
from surgery.graph.fold import fold_constants
from surgery.graph.scope import SEQUENCE_OPS
from surgery.graph.sequences import MOST_ITEMS, resolve_sequences
from surgery.graph.tidy import drop_dead
from surgery.graph.unresolved import Unresolved


def parse(text: str, opset: int = 18) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g {text}')


def resolve(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int, list[Unresolved]]:
    """Sequences and control flow in turn, as a run does."""
    graph, header = import_graph(model)
    total, left = 0, []
    for _ in range(8):
        fold_constants(graph)
        left = []
        count = resolve_control_flow(graph) + resolve_sequences(graph, unresolved=left)
        total += count
        if not count:
            break
    drop_dead(graph)
    return export_graph(graph, header), total, left


def values(model: onnx.ModelProto, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.input:
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        shape = [d.dim_value or 3 for d in value.type.tensor_type.shape.dim]
        feeds[value.name] = (
            rng.integers(0, 2, shape) if kind.kind in "iub" else rng.normal(size=shape)
        ).astype(kind)
    return feeds


def check(text: str, opset: int = 18, **given: Any) -> onnx.ModelProto:
    """All of it is computed away, and the outputs are what ONNX Runtime makes of the original."""
    model = parse(text, opset)
    after, count, left = resolve(model)
    assert count
    assert left == []
    assert not {n.op_type for n in after.graph.node} & (SEQUENCE_OPS | {"If", "Loop"})
    onnx.checker.check_model(after)
    for seed in range(2):
        feeds = values(model, seed) | {k: np.asarray(v) for k, v in given.items()}
        want, got = Evaluator(model, threads=1).run(feeds), Evaluator(after, threads=1).run(feeds)
        for name, value in want.items():
            np.testing.assert_array_equal(got[name], value)
            assert got[name].dtype == value.dtype
    assert resolve(model)[0] == after, "names do not depend on the run"
    assert resolve(after)[1] == 0, "a second time there is nothing to do"
    return after


def unresolved(text: str, opset: int = 18) -> list[tuple[str, str, str]]:
    left = resolve(parse(text, opset))[2]
    return [(u.op, u.tensor, u.reason) for u in left]


# -- lists of tensors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 1, -1, -3])
def test_an_item_at_a_known_position(position: int) -> None:
    after = check(
        "(float[n, 2] x, float[3] z) => (float y0) { a = Exp (x) s = SequenceConstruct (x, a, x)"
        f" p = Constant <value_int = {position}> () i = SequenceAt (s, p) y0 = ReduceSum <keepdims = 0> (i) }}"
    )
    assert "Gather" not in {n.op_type for n in after.graph.node}


def test_an_item_at_a_computed_position() -> None:
    after = check(
        "(float[3, 2] x, int64 p) => (float[3, 2] y)"
        " { a = Neg (x) s = SequenceConstruct (x, a) y = SequenceAt (s, p) }"
    )
    assert [n.op_type for n in after.graph.node].count("Gather") == 1


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("new_axis", [0, 1])
def test_joining(new_axis: int, opset: int) -> None:
    check(
        "(float[2, 3] x, float[2, 3] z) => (float[p, q] y) { s = SequenceConstruct (x, z, x)"
        f" j = ConcatFromSequence <axis = 1, new_axis = {new_axis}> (s) y = Flatten (j) }}",
        opset,
    )


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_splitting_into_sizes(opset: int) -> None:
    after = check(
        "(float[7, n] x) => (float[p, n] y, int64 k) <int64[3] sizes = {2, 4, 1}, int64 i = {1}>"
        " { s = SplitToSequence <axis = 0> (x, sizes) y = SequenceAt (s, i) k = SequenceLength (s) }",
        opset,
    )
    assert [n.op_type for n in after.graph.node].count("Split") == 1


@pytest.mark.parametrize("keep", [0, 1])
def test_splitting_into_single_entries(keep: int) -> None:
    check(
        "(float[2, 3] x) => (float[p] y) <int64 i = {-1}>"
        f" {{ s = SplitToSequence <axis = -1, keepdims = {keep}> (x) a = SequenceAt (s, i)"
        " m = Constant <value_ints = [-1]> () y = Reshape (a, m) }"
    )


@settings(max_examples=20, deadline=None)
@given(size=st.integers(1, 9), step=st.integers(1, 9))
def test_splitting_into_equal_parts_leaves_a_rest(size: int, step: int) -> None:
    check(
        f"(float[{size}, 2] x) => (float[{size}, 2] y, int64 k) <int64 step = {{{step}}}>"
        " { s = SplitToSequence (x, step) e = Neg (x) k = SequenceLength (s) y = ConcatFromSequence <axis = 0> (s) }"
    )


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_insertions_and_removals_as_of_a_list(data: st.DataObject) -> None:
    """Random edits of a list, against Python's."""
    names, lines, current = ["x"], ["s0 = SequenceConstruct (x)"], 0
    constants = []
    for step in range(data.draw(st.integers(1, 6))):
        add = len(names) < 2 or data.draw(st.booleans())
        low, high = (-len(names), len(names)) if add else (-len(names), len(names) - 1)
        at = data.draw(st.integers(low, high))
        constants.append(f"int64 p{step} = {{{at}}}")
        if add:
            lines.append(f"t{step} = Add (x, k{step})")
            constants.append(f"float k{step} = {{{step + 1}}}")
            lines.append(f"s{current + 1} = SequenceInsert (s{current}, t{step}, p{step})")
            names.insert(at, f"t{step}")
        else:
            lines.append(f"s{current + 1} = SequenceErase (s{current}, p{step})")
            names.pop(at)
        current += 1
    text = " ".join(lines)
    after = check(
        f"(float[2] x) => (float[m] y, int64 n) <{', '.join(constants)}> {{ {text}"
        f" y = ConcatFromSequence <axis = 0> (s{current}) n = SequenceLength (s{current}) }}"
    )
    feeds = {"x": np.zeros(2, np.float32)}
    expected = [0 if n == "x" else int(n[1:]) + 1 for n in names]
    assert Evaluator(after, threads=1).run(feeds)["y"].tolist() == [v for v in expected for _ in range(2)]


def test_a_map_over_a_sequence() -> None:
    check(
        "(float[2, 3] x, float[2, 3] z, float[3] w) => (float[p, 3] y) { s = SequenceConstruct (x, z)"
        " m = SequenceMap <body = b (float[2, 3] i, float[3] u) => (float[2, 3] o)"
        " { t = Mul (i, u) o = Add (t, w) }> (s, w)"
        " y = ConcatFromSequence <axis = 0> (m) }"
    )


def test_what_a_loop_collects() -> None:
    check(
        "(float[2] x) => (float[3, 2] y) <int64 n = {3}, bool go = {1}> { e = SequenceEmpty <dtype = 1> ()"
        " s = Loop (n, go, e) <body = b (int64 i, bool c, seq(float[2]) before) => (bool d, seq(float[2]) after)"
        " { f = Cast <to = 1> (i) t = Add (x, f) after = SequenceInsert (before, t) d = Identity (c) }>"
        " y = ConcatFromSequence <axis = 0, new_axis = 1> (s) }"
    )


def test_sequences_in_a_branch() -> None:
    check(
        "(float[2] x) => (float[4] y) <bool c = {1}, int64 i = {0}> { s = SequenceConstruct (x, x)"
        " y = If (c) <then_branch = t () => (float[4] a) { a = ConcatFromSequence <axis = 0> (s) },"
        " else_branch = e () => (float[4] b) { o = SequenceAt (s, i) b = Concat <axis = 0> (o, o) }> }"
    )


# -- optionals ----------------------------------------------------------------------------------------------


def test_optionals_that_hold_something() -> None:
    after = check(
        "(float[2] x) => (float[2] y, bool h)"
        " { o = Optional (x) y = OptionalGetElement (o) h = OptionalHasElement (o) }"
    )
    assert not {n.op_type for n in after.graph.node} & {
        "Optional",
        "OptionalGetElement",
        "OptionalHasElement",
    }


def test_an_empty_optional() -> None:
    # The text syntax has no types as attributes.
    helper = onnx.helper
    kind = helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [2])
    nodes = [
        helper.make_node("Optional", [], ["o"], type=kind),
        helper.make_node("OptionalHasElement", ["o"], ["h"]),
        helper.make_node("Cast", ["h"], ["f"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", onnx.TensorProto.FLOAT, [2])], [value("y", onnx.TensorProto.FLOAT, [2])]
    )
    after, count, left = resolve(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    )
    assert count
    assert left == []
    feeds = {"x": np.array([1, 2], np.float32)}
    assert Evaluator(after, threads=1).run(feeds)["y"].tolist() == [1, 2]


# -- what stays ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "op", "tensor", "reason"),
    [
        ("(float[2] x, int64 p) => (float[m] y) { z = Concat <axis = 0> (x, x) s = SequenceConstruct (x, z)"
         " y = SequenceAt (s, p) }", "SequenceAt", "p", "do not all have one known shape"),
        ("(float[2] x) => (float[2] y) <int64 p = {2}> { s = SequenceConstruct (x, x) y = SequenceAt (s, p) }",
         "SequenceAt", "", "position 2 is outside a sequence of 2"),
        ("(float[2] x, int64 p) => (float[m] y) { s = SequenceConstruct (x, x) e = SequenceErase (s, p)"
         " y = ConcatFromSequence <axis = 0> (e) }", "SequenceErase", "p", ""),
        ("(float[6] x, int64[k] n) => (float[m] y) <int64 i = {0}>"
         " { s = SplitToSequence (x, n) y = SequenceAt (s, i) }",
         "SplitToSequence", "n", "how many there are"),
        ("(float[n, 2] x) => (float[m, 2] y) <int64 i = {0}, int64 one = {1}>"
         " { s = SplitToSequence <axis = 0> (x, one) y = SequenceAt (s, i) }",
         "SplitToSequence", "x", "how many parts"),
        (f"(float[{MOST_ITEMS + 1}] x) => (int64 n) {{ e = Exp (x) s = SplitToSequence (e) n = SequenceLength (s) }}",
         "SplitToSequence", "", "too many"),
        ("(seq(float[2]) s) => (int64 n) { n = SequenceLength (s) }", "SequenceLength", "s", ""),
    ],
)  # fmt: skip
def test_what_is_not_known_stays_and_is_told(text: str, op: str, tensor: str, reason: str) -> None:
    left = unresolved(text)
    assert (op, tensor) in [(o, t) for o, t, _ in left]
    assert reason in next(r for o, _, r in left if o == op)


def test_what_has_no_sequences_stays_as_it_is() -> None:
    model = parse("(float[2] x) => (float[2] y) { a = Exp (x) y = Neg (a) }")
    after, count, left = resolve(model)
    assert (count, left) == (0, [])
    assert [n.op_type for n in after.graph.node] == ["Exp", "Neg"]
