"""The rewrite stage: what it asks for, what it tells about changes of contract, what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import surgery
from surgery.graph.evaluate import Evaluator
from surgery.report import Report
from surgery.verify.inverse import apply_inverses, apply_to_inputs
from tests.installed import installed

Arrays = dict[str, np.ndarray[Any, Any]]
PREPARE = "tensorrt-rtx-1.6"
"""A target that is not installed: the run ends with the prepared model, verified in ONNX Runtime."""


def parse(text: str, opset: int = 18, imports: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}{imports}]> g {text}')


def run(text: str, target: str | None = PREPARE, opset: int = 18, **options: Any) -> Report:
    return surgery.run("generic", parse(text, opset), target=target, **options)


def good(report: Report) -> onnx.ModelProto:
    assert report.failure is None, report.failure
    assert report.verification["graph"]["status"] == "passed"
    assert report.model is not None
    onnx.checker.check_model(report.model)
    return report.model


def compare(text: str, report: Report, feeds: Arrays, opset: int = 18) -> None:
    """The result's outputs, after the inverses and nothing else, are the original's."""
    inverses = [c.inverse for c in report.io_changes if c.inverse]
    got = Evaluator(good(report), threads=1).run(apply_to_inputs(feeds, inverses))
    want = Evaluator(parse(text, opset), threads=1).run(feeds)
    back = apply_inverses(got, inverses)
    assert set(back) == set(want)
    for name, value in want.items():
        assert back[name].dtype == value.dtype
        np.testing.assert_allclose(back[name], value, rtol=1e-5, atol=1e-6)


# -- operands that have to be known -------------------------------------------------------------------------


@installed
def test_an_operand_is_asked_for_by_the_name_of_its_input() -> None:
    text = "(float[4, n] x, int64[1] k) => (float[4, p] v, int64[4, p] i) { v, i = TopK (x, k) }"
    report = run(text, None)
    failure = report.failure
    assert failure is not None
    assert (report.exit_code, failure.code, failure.stage) == (4, "needs-constant", "rewrite")
    assert failure.needs_constant == ("k",)
    assert failure.message.startswith("g: 'k' must be known when the engine is built: ")
    assert failure.fix == "give it: --constant k=[1]"
    assert "TopK" in (failure.cause or "")
    assert report.engine is None
    good(run(text, None, constants={"k": [2]}))


@installed
def test_an_operand_is_traced_back_through_arithmetic() -> None:
    text = (
        "(float[4, n] x, int64 k, int64 more) => (float[4, p] v, int64[4, p] i) <int64[1] z = {0}>"
        " { s = Add (k, more) u = Unsqueeze (s, z) v, i = TopK (x, u) }"
    )
    failure = run(text, None).failure
    assert failure is not None
    assert failure.needs_constant == ("k", "more")
    assert failure.fix == "give it: --constant k=1 --constant more=1"
    failure = run(text, None, constants={"k": 1}).failure
    assert failure is not None
    assert failure.needs_constant == ("more",)
    good(run(text, None, constants={"k": 1, "more": 1}))


@installed
def test_an_operand_that_data_decides_cannot_be_given() -> None:
    text = (
        "(float[4, n] x) => (float[4, p] v, int64[4, p] i) <int64[1] z = {0}> { m = ReduceMax <keepdims = 0> (x)"
        " e = Exp (m) c = Cast <to = 7> (e) u = Unsqueeze (c, z) v, i = TopK (x, u) }"
    )
    failure = run(text, None).failure
    assert failure is not None
    assert (failure.code, failure.needs_constant) == ("needs-constant", ())
    assert "'u'" in failure.message
    assert "--constant" not in (failure.fix or "")


# -- sizes that data decides --------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [-9.0, 0.0, 1.0])
def test_an_output_of_unknown_size_is_padded_and_counted(threshold: float) -> None:
    text = (
        f"(float[4, 3] x) => (int64[2, k] y) <float t = {{{threshold}}}>"
        " { c = Greater (x, t) n = NonZero (c) y = Identity (n) }"
    )
    report = run(text)
    model = good(report)
    (change,) = report.io_changes
    assert change.name == "y"
    assert change.inverse == {
        "op": "slice_by_count",
        "name": "y",
        "count": "y_count",
        "axis": 1,
        "added": True,
    }
    outputs = {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim] for o in model.graph.output}
    assert outputs == {"y": [2, 12], "y_count": []}
    compare(text, report, {"x": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)})


def test_two_outputs_of_one_size_share_the_count() -> None:
    text = (
        "(float[6] x) => (float[k] y, float[k] z)"
        " { c = Cast <to = 9> (x) a = Compress <axis = 0> (x, c) y = Exp (a) z = Neg (a) }"
    )
    report = run(text)
    model = good(report)
    assert [c.inverse["count"] for c in report.io_changes if c.inverse] == [model.graph.output[-1].name] * 2
    assert len(model.graph.output) == 3
    compare(text, report, {"x": np.array([0, 1, 0, 0, -2, 3], np.float32)})


# -- dtypes -------------------------------------------------------------------------------------------------


def test_retyped_inputs_and_outputs_are_told_with_the_way_back() -> None:
    text = "(double[2, 3] x, int16[3] s) => (double[2, 3] y, int16[3] z) { y = Exp (x) z = Add (s, s) }"
    report = run(text)
    inverses = {c.name: c.inverse for c in report.io_changes}
    assert inverses == {
        "x": {"op": "cast_input", "name": "x", "to": "float32"},
        "s": {"op": "cast_input", "name": "s", "to": "int32"},
        "y": {"op": "cast", "name": "y", "to": "float64"},
        "z": {"op": "cast", "name": "z", "to": "int16"},
    }
    texts = {c.name: c.what for c in report.io_changes}
    assert texts["x"] == "the input is float32 instead of float64, rounded"
    assert texts["s"] == "the input is int32 instead of int16; a value that does not fit is an error"
    assert [e.rule for e in report.edits].count("retype") == 1
    feeds = {"x": np.linspace(-1, 1, 6).reshape(2, 3), "s": np.array([-20000, 3, 30000], np.int16)}
    compare(text, report, feeds)


def test_values_that_do_not_fit_are_refused() -> None:
    text = "(uint64[2] x) => (uint64[2] y) <uint64[2] k = {1, 9223372036854775808}> { y = Max (x, k) }"
    failure = run(text).failure
    assert failure is not None
    assert (failure.code, failure.stage) == ("dtype", "rewrite")
    assert "'k'" in failure.message
    text = "(uint64[2] x) => (uint64[2] y) <uint64[2] k = {1, 9223372036854775807}> { y = Max (x, k) }"
    report = run(text)
    compare(text, report, {"x": np.array([5, 6], np.uint64)})
    with pytest.raises(ValueError, match="do not fit into int64"):
        apply_to_inputs(
            {"x": np.array([5, 2**63], np.uint64)}, [c.inverse for c in report.io_changes if c.inverse]
        )


def test_quantization_is_written_out_before_its_dtype_is_carried() -> None:
    text = (
        "(uint8[2, 4] x) => (float[2, 4] y, uint8[2, 4] z) <float s = {0.5}, uint8 k = {3}>"
        " { z = Add (x, x) y = DequantizeLinear (z, s, k) }"
    )
    report = run(text)
    model = good(report)
    assert not {n.op_type for n in model.graph.node} & {"DequantizeLinear"}
    inverses = [c.inverse for c in report.io_changes if c.inverse]
    got = Evaluator(model, threads=1).run(
        apply_to_inputs({"x": np.array([[0, 1, 2, 127], [128, 129, 200, 255]], np.uint8)}, inverses)
    )
    assert apply_inverses(got, inverses)["z"].tolist() == [[0, 2, 4, 254], [0, 2, 144, 254]]


# -- what stays ---------------------------------------------------------------------------------------------


def test_a_model_that_the_target_takes_stays_as_it_is() -> None:
    text = "(float[n, 3] x) => (float[n, 3] y) { a = Relu (x) y = Softmax (a) }"
    report = run(text)
    assert (report.edits, report.io_changes) == ([], [])
    assert not [w for w in report.warnings if "rule" in w]
    assert [n.op_type for n in good(report).graph.node] == ["Relu", "Softmax"]
    assert {s.name: s.summary for s in report.stages}["rewrite"] == "nothing has to be rewritten"


def test_a_rule_that_does_not_apply_says_why() -> None:
    text = "(float[n, m, m] x) => (float[n] y) { y = Det (x) }"
    report = run(text)
    assert [m for m in report.misses if m[1:3] == ("Det", "det-by-elimination")]
    assert report.to_dict()["misses"][0].keys() == {"node", "op", "rule", "reason"}
    assert not [w for w in report.warnings if "rule" in w]


def test_old_operator_sets() -> None:
    text = (
        "(float[1, 1, 2, 2] x) => (float[1, 1, 4, 6] y) <float[4] s = {1, 1, 2, 3}>"
        " { a = Upsample (x, s) y = Neg (a) }"
    )
    feeds = {"x": np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)}
    compare(text, run(text, opset=9), feeds, opset=9)


# -- where new nodes come from ------------------------------------------------------------------------------


def test_every_new_node_says_which_rule_wrote_it_for_which_node() -> None:
    text = "(float[2, 3, 3] x) => (float[2] y) { [before] a = Exp (x) [det] y = Det (a) }"
    report = run(text)
    model = good(report)
    for node in model.graph.node:
        told = {p.key: p.value for p in node.metadata_props}
        if node.name == "before":
            assert "surgery.rule" not in told
        else:
            assert told["surgery.rule"] == "det-by-elimination"
            assert told["surgery.from"] == "det"
    (edit,) = report.edits
    assert (edit.rule, edit.nodes_before, edit.verified) == ("det-by-elimination", ("det",), "passed")
    assert {n.name for n in model.graph.node} - {"before"} <= set(edit.nodes_after)


def test_two_runs_give_the_same_bytes_and_report() -> None:
    text = (
        "(float[2, 3, 3] x, double[4] d) => (float[2] y, int64[3, k] z, double[4] e)"
        " { y = Det (x) z = NonZero (x) e = Exp (d) }"
    )
    first, second = run(text), run(text)
    assert good(first).SerializeToString(deterministic=True) == good(second).SerializeToString(
        deterministic=True
    )
    assert first.edits == second.edits
    assert first.io_changes == second.io_changes
