"""Lists that loops append to become stacks, also where sizes alone decide the number of rounds."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from surgery.graph.convert import export_graph, import_graph
from surgery.graph.evaluate import Evaluator
from surgery.graph.fold import fold_constants
from surgery.graph.lists import stack_lists
from surgery.graph.scope import SEQUENCE_OPS
from surgery.graph.tidy import drop_dead
from surgery.graph.walk import all_nodes

HEAD = (
    "<int64 zero = {0}, int64 one = {1}, int64[1] first = {0}, bool true = {1}> {"
    " shape = Shape (x) n = Gather (shape, zero) empty = SequenceEmpty <dtype = 1> ()"
)


def parse(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> g {text}')


def stacked(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    graph, header = import_graph(model)
    fold_constants(graph)
    found = stack_lists(graph)
    drop_dead(graph)
    return export_graph(graph, header), found


def check(text: str, *sizes: int) -> onnx.ModelProto:
    """All lists are gone, and the outputs are what ONNX Runtime makes of the original, for other sizes too."""
    model = parse(text)
    after, found = stacked(model)
    assert found
    assert not any(n.op_type in SEQUENCE_OPS for n in all_nodes(after.graph.node))
    for size in sizes:
        x = np.random.default_rng(size).normal(size=(size, 3, 2)).astype(np.float32)
        want, got = (Evaluator(m).run({"x": x}) for m in (model, after))
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-6)
    return after


ROUND = (
    "body = b (int64 i, bool c, float[3, 2] h, seq(float[3, 2]) s) =>"
    " (bool c2, float[3, 2] h2, seq(float[3, 2]) s2) {"
    " c2 = Identity (c) row = Gather (x, i) t = Add (row, h) h2 = Tanh (t) s2 = SequenceInsert (s, h2) }"
)


JOINS = [
    "axis = 0", "axis = 1", "axis = -1", "axis = 0, new_axis = 1", "axis = 2, new_axis = 1",
    "axis = -2, new_axis = 1",
]  # fmt: skip


@pytest.mark.parametrize("join", JOINS)
def test_a_list_is_joined(join: str) -> None:
    rank = "float[p, q, r]" if "new" in join else "float[p, q]"
    check(
        f"(float[n, 3, 2] x) => ({rank} y, float[3, 2] last) {HEAD} h0 = Gather (x, zero)"
        f" last, l = Loop <{ROUND}> (n, true, h0, empty) y = ConcatFromSequence <{join}> (l) }}",
        1, 2, 5,
    )  # fmt: skip


def test_entries_of_a_list_are_read_in_another_loop_behind_what_was_there_before() -> None:
    after = check(
        f"(float[n, 3, 2] x) => (float[p, 3, 2] y, int64 k) {HEAD} h0 = Gather (x, zero)"
        f" begun = SequenceConstruct (h0) last, l = Loop <{ROUND}> (n, true, h0, begun) k = SequenceLength (l)"
        " y = Loop <body = w (int64 i, bool c) => (bool c2, float[3, 2] e) { c2 = Identity (c) a = Sub (k, i)"
        " at = Sub (a, one) e = SequenceAt (l, at) }> (k, true) }",
        1, 4,
    )  # fmt: skip
    # The length is the number of rounds and what was there: nothing asks what the loop made for its shape.
    made = {o for n in after.graph.node if n.op_type == "Loop" for o in n.output}
    assert not any(n.op_type == "Shape" and n.input[0] in made for n in after.graph.node)


def test_a_row_for_each_round_is_gathered() -> None:
    after = check(
        f"(float[n, 3, 2] x) => (float[p, q, r] y) {HEAD}"
        " l = Loop <body = b (int64 i, bool c, seq(float[1, 3, 2]) s) => (bool c2, seq(float[1, 3, 2]) s2) {"
        " c2 = Identity (c) j = Add (i, one) from = Unsqueeze (i, first) to = Unsqueeze (j, first)"
        " row = Slice (x, from, to, first) e = Exp (row) s2 = SequenceInsert (s, e) }> (n, true, empty)"
        " y = ConcatFromSequence <axis = 0> (l) }",
        1, 3,
    )  # fmt: skip
    kinds = [n.op_type for n in all_nodes(after.graph.node)]
    assert kinds.count("Slice") <= 1  # of the shape of what is joined
    assert kinds.count("Gather") == 2


@pytest.mark.parametrize(
    "step",
    [
        "s2 = SequenceInsert (s, row, zero)",  # in front
        "k = SequenceLength (s) f = Cast <to = 1> (k) r = Add (row, f) s2 = SequenceInsert (s, r)",  # read
        "t = SequenceInsert (s, row) s2 = SequenceInsert (t, row)",  # two a round
    ],
)
def test_other_lists_stay(step: str) -> None:
    model = parse(
        f"(float[n, 3, 2] x) => (float[p, 3, 2] y) {HEAD}"
        " l = Loop <body = b (int64 i, bool c, seq(float[3, 2]) s) => (bool c2, seq(float[3, 2]) s2) {"
        f" c2 = Identity (c) row = Gather (x, i) {step} }}> (n, true, empty)"
        " y = ConcatFromSequence <axis = 0, new_axis = 1> (l) }"
    )
    after, found = stacked(model)
    assert found == []
    assert any(n.op_type == "SequenceInsert" for n in all_nodes(after.graph.node))
