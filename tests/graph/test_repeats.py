"""Loops that repeat rows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from surgery.graph.convert import export_graph, import_graph
from surgery.graph.evaluate import Evaluator
from surgery.graph.fold import fold_constants
from surgery.graph.repeats import resolve_repeats
from surgery.graph.tidy import drop_dead

LOOP = """
(float[n, 3] x, int64[n] r) => (float[k, 3] y) {
   ones = Constant<value_ints = [1, 1, 1, 1]>()
   zero = Constant<value_int = 0>()
   yes = Constant<value = bool {1}>()
   s = Shape(WHAT)
   i = Constant<value_ints = [0]>()
   n = Gather(s, i)
   p = SplitToSequence<axis = 0>(r, ones)
   q = SplitToSequence<axis = 0>(x, ones)
   e = SequenceEmpty()
   z = Loop(n, yes, e) <
     body = b (int64 at, bool c, seq(float) old) => (bool c2, seq(float) new) {
       c2 = Identity(c)
       times = SequenceAt(p, at)
       row = SequenceAt(q, AT)
       one = Constant<value_ints = [1]>()
       three = Constant<value_ints = [3]>()
       u = Unsqueeze(row, PLACE)
       shape = Concat<axis = 0>(SHAPE)
       w = Expand(u, shape)
       flat = Constant<value_ints = [-1, 3]>()
       f = Reshape(w, flat)
       new = SequenceInsert(old, f)
     }
   >
   y = ConcatFromSequence<axis = 0>(z)
}
"""


def resolve(**words: str) -> tuple[onnx.ModelProto, onnx.ModelProto, int]:
    text = LOOP
    known = {"WHAT": "x", "AT": "at", "PLACE": "one", "SHAPE": "one, times, three"}
    for word, value in {**known, **words}.items():
        text = text.replace(word, value)
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> g {text}')
    graph, header = import_graph(model)
    fold_constants(graph)
    count = len(resolve_repeats(graph, {}))
    drop_dead(graph)
    return model, export_graph(graph, header), count


@pytest.mark.parametrize("times", [[1, 0, 2, 3], [0, 0, 0, 1], [4, 1, 0, 0]])
@pytest.mark.parametrize(
    "words",
    [{}, {"WHAT": "r"}, {"SHAPE": "one, times, one"}],
    ids=["as exported", "as many as there are numbers", "rows broadcast"],
)
def test_rows_are_gathered(words: dict[str, str], times: list[int]) -> None:
    model, after, count = resolve(**words)
    if words.get("WHAT") == "r":
        assert count == 0  # nothing says that there are as many rows
        return
    assert count == 1
    assert not {"Loop", "SplitToSequence", "ConcatFromSequence"} & {n.op_type for n in after.graph.node}
    onnx.checker.check_model(after)
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    feeds = {"x": x, "r": np.asarray(times, np.int64)}
    expected, got = Evaluator(model, threads=1).run(feeds), Evaluator(after, threads=1).run(feeds)
    np.testing.assert_array_equal(expected["y"], np.repeat(x, times, axis=0))
    np.testing.assert_array_equal(got["y"], expected["y"])


@pytest.mark.parametrize(
    "words",
    [{"AT": "zero"}, {"SHAPE": "times, one, three"}, {"SHAPE": "one, times, times"}],
    ids=["always the first row", "in front of the batch", "numbers twice"],
)
def test_other_loops_stay(words: dict[str, str]) -> None:
    _, after, count = resolve(**words)
    expected = 1 if words.get("SHAPE") == "times, one, three" else 0
    assert count == expected  # in front of the only row is the same as behind it
    assert ("Loop" in {n.op_type for n in after.graph.node}) == (not expected)
