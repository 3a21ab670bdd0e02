"""What a body writes runs in every operator set, and is written the same each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from surgery.graph.body import MAX_OPSET, MIN_OPSET, Body
from surgery.graph.evaluate import Evaluator

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4) % 7 - 2
OPSETS = (11, 12, 13, 17, 18, 21)


def run(body: Body, *outputs: str, dtypes: Any = np.float32) -> list[Any]:
    """Outputs for the input x."""
    helper = onnx.helper
    kinds = [np.dtype(d) for d in (dtypes if isinstance(dtypes, tuple) else (dtypes,) * len(outputs))]
    graph = helper.make_graph(
        body.nodes, "body",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, X.shape)],
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(k), None)
            for n, k in zip(outputs, kinds, strict=True)
        ],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", body.opset)], ir_version=7)
    return list(Evaluator(model, threads=1).run({"x": X}).values())


FORMS: dict[str, tuple[Callable[[Body], str], Any]] = {
    "squeeze": (lambda b: b.squeeze(b.slice("x", 1, 0, 1), 1), X[:, 0]),
    "unsqueeze": (lambda b: b.unsqueeze("x", 0, 4), X[None, ..., None]),
    "sum": (lambda b: b.reduce("ReduceSum", "x", 1), X.sum(1, keepdims=True)),
    "max": (lambda b: b.reduce("ReduceMax", "x", 0, 2, keepdims=False), X.max((0, 2))),
    "min of all": (lambda b: b.reduce("ReduceMin", "x"), X.min(keepdims=True)),
    "product": (lambda b: b.reduce("ReduceProd", "x", -1), X.prod(-1, keepdims=True)),
    "split": (lambda b: b.split("x", 2, 2)[1], X[:, :, 2:]),
    "concat": (lambda b: b.concat(["x", "x"], 1), np.concatenate([X, X], 1)),
    "concat of one": (lambda b: b.add(b.concat(["x"], 1), b.scalar(0)), X),
    "gather": (lambda b: b.gather("x", b.ints(2, 0), 2), X[:, :, [2, 0]]),
    "topk": (lambda b: b.topk("x", 2)[0], -np.sort(-X, -1)[..., :2]),
    "reshape": (lambda b: b.reshape("x", 0, -1), X.reshape(2, 12)),
    "transpose": (lambda b: b.transpose("x", 2, 0, 1), X.transpose(2, 0, 1)),
    "where": (lambda b: b.where(b.greater_equal("x", b.scalar(1)), "x", b.scalar(9)), np.where(X >= 1, X, 9)),
    "expand": (lambda b: b.expand(b.unsqueeze("x", 0), 5, 1, 1, 1), np.broadcast_to(X, (5, 2, 3, 4))),
    "arithmetic": (lambda b: b.div(b.mul(b.sub("x", b.scalar(1)), "x"), b.scalar(2)), (X - 1) * X / 2),
    "extremes": (lambda b: b.maximum(b.minimum("x", b.scalar(3)), b.scalar(0)), np.clip(X, 0, 3)),
}


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("form", FORMS)
def test_a_form_computes_the_same_in_every_opset(form: str, opset: int) -> None:
    write, expected = FORMS[form]
    body = Body(opset)
    (value,) = run(body, write(body))
    np.testing.assert_array_equal(value, expected)


def test_not_a_number_is_not_greater_or_equal() -> None:
    for opset in (11, 12):
        body = Body(opset)
        nan = body.scalar(float("nan"))
        (value,) = run(body, body.greater_equal("x", nan), dtypes=np.bool_)
        assert not value.any()


@pytest.mark.parametrize("opset", OPSETS)
def test_a_counted_loop(opset: int) -> None:
    body = Body(opset)
    inner = body.nested()
    inner.node("Add", ["state", body.const(2.0)], outputs=["next"])
    inner.alias("state", "seen")
    go = inner.always()
    graph = inner.subgraph(
        "step",
        [("iteration", np.int64), ("condition", np.bool_), ("state", np.float32)],
        [(go, np.bool_), ("next", np.float32), ("seen", np.float32)],
    )
    last, seen = body.loop(3, ["x"], graph, scans=1)
    got, steps = run(body, last, seen)
    np.testing.assert_array_equal(got, X + 6)
    np.testing.assert_array_equal(steps, np.stack([X, X + 2, X + 4]))


def test_a_loop_until_a_condition() -> None:
    body = Body(18)
    inner = body.nested()
    inner.node("Mul", ["state", inner.const(2.0)], outputs=["next"])
    inner.node("Less", ["next", body.const(20.0)], outputs=["more"])
    graph = inner.subgraph(
        "step",
        [("iteration", np.int64), ("condition", np.bool_), ("state", np.float32)],
        [("more", np.bool_), ("next", np.float32)],
    )
    (last,) = body.loop(100, [body.const(1.0)], graph, conditional=True)
    assert run(body, body.add(last, body.mul("x", body.scalar(0))))[0].max() == 32
    assert [n.op_type for n in graph.node] == ["Mul", "Less"], "constants belong to the outermost body"


def test_equal_constants_are_written_once() -> None:
    body = Body(18)
    assert body.ints(1, 2) == body.const([1, 2], np.int64) == body.nested().ints(1, 2)
    different = {
        body.const(0.0), body.const(-0.0), body.const([0.0]), body.const(0, np.int64), body.const(0, np.int32),
        body.const(False, np.bool_), body.const([[0.0]]),
    }  # fmt: skip
    assert len(different) == 7


def test_names_are_fresh_and_the_same_each_time() -> None:
    def write() -> list[onnx.NodeProto]:
        body = Body(18)
        inner = body.nested()
        body.add("x", body.scalar(1))
        inner.add("x", inner.scalar(1))
        body.alias(body.cast("x", np.float16), "y")
        return [*body.nodes, *inner.nodes]

    nodes = write()
    names = [o for n in nodes for o in n.output]
    assert len(set(names)) == len(names)
    assert nodes == write()


def test_a_function_has_what_was_written() -> None:
    body = Body(17)
    body.alias(body.mul("a", body.add("a", "c")), "y")
    function = body.function("my.own", "Thing", ["a", "c"], ["y"], doc="a (a + c)")
    assert [(o.domain, o.version) for o in function.opset_import] == [("", 17)]
    helper = onnx.helper
    kinds = {n: helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2]) for n in ("a", "c", "y")}
    node = helper.make_node("Thing", ["a", "c"], ["y"], domain="my.own")
    model = helper.make_model(
        helper.make_graph([node], "g", [kinds["a"], kinds["c"]], [kinds["y"]]), functions=[function],
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("my.own", 1)], ir_version=8,
    )  # fmt: skip
    onnx.checker.check_model(model)
    feeds = {"a": np.array([2, 3], np.float32), "c": np.array([1, 0], np.float32)}
    assert Evaluator(model, threads=1).run(feeds)["y"].tolist() == [6, 9]


@pytest.mark.parametrize("opset", [MIN_OPSET - 1, MAX_OPSET + 1, 0])
def test_other_opsets_are_refused(opset: int) -> None:
    with pytest.raises(ValueError, match=f"opsets {MIN_OPSET} to {MAX_OPSET}"):
        Body(opset)


def test_older_opsets_on_request_only() -> None:
    body = Body(9, least=7)
    assert body.nested().opset == 9
    with pytest.raises(ValueError, match="opsets 7 to"):
        Body(6, least=7)
