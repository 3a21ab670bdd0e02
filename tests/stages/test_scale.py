"""What keeps a run linear in nodes and independent of the size of weights, checked by counting instead of timing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import pytest

import surgery
import surgery.graph.fold
import surgery.graph.infer
from surgery.graph.convert import export_graph, import_graph
from surgery.graph.evaluate import Evaluator
from surgery.graph.fold import fold_constants
from surgery.graph.view import View
from surgery.rules.engine.rule import lowering
from surgery.rules.engine.run import ALIKE, Engine, Outcome

MEGABYTE = 1 << 20
Make = Callable[[int], tuple[list[onnx.NodeProto], list[onnx.TensorProto]]]


def model_of(count: int, make: Make, shape: tuple[int | str, ...] = (2, 32)) -> onnx.ModelProto:
    """A chain: x0 is the input, and the nodes made for i make x(i+1) of x(i)."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    for i in range(count):
        more, theirs = make(i)
        nodes += more
        weights += theirs
    ends = [oh.make_tensor_value_info(n, onnx.TensorProto.FLOAT, list(shape)) for n in ("x0", f"x{count}")]
    graph = oh.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=10)


def node(op: str, *inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return oh.make_node(op, inputs, [output], name=f"{op}_{output}", **attributes)


def weighted(op: str, size: int) -> Make:
    """One node for each i, with float weights of its own."""

    def make(i: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        value = np.random.default_rng(i).uniform(1, 2, size).astype(np.float32)
        return [node(op, f"x{i}", f"w{i}", output=f"x{i + 1}")], [
            onnx.numpy_helper.from_array(value, f"w{i}")
        ]

    return make


@lowering("sum-of-two", "Add", why="only in these tests", samples=[], near_misses=[])
def sum_of_two(site: Any, b: Any) -> str:
    """Sub of the negative."""
    return str(b.op("Sub", site.x(0), b.op("Neg", site.x(1))))


@lowering("sum-with-known", "Add", why="only in these tests", samples=[], near_misses=[])
def sum_with_known(site: Any, b: Any) -> str:
    """Sub of a constant."""
    return str(b.op("Sub", site.x(0), b.const(-site.const(1), np.float32)))


def applied(model: onnx.ModelProto, *rules: Any, taken: bool = False) -> tuple[onnx.ModelProto, Outcome, int]:
    """The result, what was done, and how often the target was asked."""
    asked: list[str] = []

    def takes(site: Any, proto: onnx.NodeProto) -> bool:
        asked.append(site.op)
        return taken or site.op != "Add"

    graph, header = import_graph(model)
    outcome = Engine(rules, takes).run(graph, {})
    return export_graph(graph, header), outcome, len(asked)


@pytest.mark.parametrize("taken", [True, False])
def test_the_target_is_asked_once_about_nodes_that_are_alike(taken: bool) -> None:
    asked = [applied(model_of(n, weighted("Add", 32)), sum_of_two, taken=taken)[2] for n in (5, 200)]
    assert asked == [1, 1]


def test_numbers_that_never_change_the_answer_are_not_asked_about_for_ever() -> None:
    asked = [applied(model_of(n, weighted("Add", 1)), sum_of_two)[2] for n in (5, ALIKE, 10 * ALIKE)]
    assert asked == [5, ALIKE, ALIKE]


def test_answers_that_differ_are_asked_for_every_time() -> None:
    seen: list[float] = []

    def takes(site: Any, proto: onnx.NodeProto) -> bool:
        seen.append(float(site.input(1).value[0]))
        return bool(seen[-1] > 1.5)

    graph, _ = import_graph(model_of(5 * ALIKE, weighted("Add", 1)))
    outcome = Engine([sum_of_two], takes).run(graph, {})
    assert len(seen) == 5 * ALIKE
    assert len(outcome.edits) == sum(v <= 1.5 for v in seen) > ALIKE


def test_weights_that_no_rule_reads_need_one_proof() -> None:
    model = model_of(100, weighted("Add", 32))
    result, outcome, _ = applied(model, sum_of_two)
    assert [e.verified for e in outcome.edits] == ["passed", *["sampled"] * 99]
    same(model, result)


def test_weights_that_a_rule_reads_are_proven_each() -> None:
    model = model_of(20, weighted("Add", 32))
    result, outcome, _ = applied(model, sum_with_known)
    assert [e.verified for e in outcome.edits] == ["passed"] * 20
    same(model, result)


def same(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    feeds = {"x0": np.random.default_rng(1).normal(size=(2, 32)).astype(np.float32)}
    expected, found = Evaluator(before).run(feeds), Evaluator(after).run(feeds)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)


def reshapes(i: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Exporters compute the same shapes again and again."""
    one = onnx.numpy_helper.from_array(np.array([1], np.int64), f"one{i}")
    return [
        node("Shape", f"x{i}", output=f"s{i}"),
        node("Mul", f"s{i}", f"one{i}", output=f"m{i}"),
        node("Add", f"m{i}", f"one{i}", output=f"a{i}"),
        node("Sub", f"a{i}", f"one{i}", output=f"d{i}"),
        node("Reshape", f"x{i}", f"d{i}", output=f"x{i + 1}"),
    ], [one]


def test_what_is_the_same_is_folded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Counting(Evaluator):
        def __init__(self, model: onnx.ModelProto, **options: Any) -> None:
            sizes.append(len(model.graph.node))
            super().__init__(model, **options)

    monkeypatch.setattr(surgery.graph.fold, "Evaluator", Counting)
    model = model_of(50, reshapes)
    graph, header = import_graph(model)
    assert fold_constants(graph).removed == 200
    assert sizes == [3]
    same(model, export_graph(graph, header))


def test_a_settled_graph_is_not_inferred_again(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, _ = import_graph(model_of(50, reshapes))
    fold_constants(graph)

    def fail(*_: Any) -> None:
        raise AssertionError("everything is known already")

    monkeypatch.setattr(surgery.graph.infer, "_skeleton", fail)
    monkeypatch.setattr(surgery.graph.fold, "Evaluator", fail)
    assert fold_constants(graph).removed == 0


def test_nodes_keep_their_order_and_an_unsorted_graph_gets_one() -> None:
    graph, _ = import_graph(model_of(6, weighted("Add", 32)))
    assert View(graph).order == list(range(6))
    first, *others = graph.nodes
    graph.nodes = [*others[2:], first, *others[:2]]
    view = View(graph)
    assert not view.is_sorted
    in_order = sorted(range(6), key=view.order.__getitem__)
    assert [view.nodes[k].outputs[0].name for k in in_order] == [f"x{i}" for i in range(1, 7)]


RUN = """
import json, sys
import surgery
report = surgery.run("generic", sys.argv[1], output=sys.argv[2], stages="load..substitute,save")
told = report.to_dict()
read = int(next(l.split()[1] for l in open("/proc/self/io") if l.startswith("rchar")))
# getrusage would also count what the process that started this one had in memory.
peak = int(next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmHWM"))) * 1024
print(json.dumps({
    "failure": told["failure"], "verification": told["verification"], "read": read,
    "peak": peak,
}))
"""


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts what was read as Linux does")
def test_external_weights_are_neither_read_nor_copied(tmp_path: Path) -> None:
    size, layers = 8192, 6  # 1.6 GB, of which the disk holds nothing
    length = size * size * 4
    model = model_of(
        layers,
        lambda i: (
            [node("MatMul", f"x{i}", f"w{i}", output=f"y{i}"), node("Relu", f"y{i}", output=f"x{i + 1}")],
            [],
        ),
        (2, size),
    )
    for i in range(layers):
        weight = onnx.TensorProto(name=f"w{i}", data_type=onnx.TensorProto.FLOAT, dims=[size, size])
        weight.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "big.data"), ("offset", i * length), ("length", length)):
            weight.external_data.add(key=key, value=str(value))
        model.graph.initializer.append(weight)
    given, made = tmp_path / "given", tmp_path / "made"
    given.mkdir()
    onnx.save(model, given / "big.onnx")
    data = given / "big.data"
    with data.open("wb") as file:
        file.truncate(layers * length)
    child = subprocess.run(
        [sys.executable, "-c", RUN, str(given / "big.onnx"), str(made)],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    told = json.loads(child.stdout.splitlines()[-1])
    assert told["failure"] is None
    assert told["peak"] < 400 * MEGABYTE
    assert told["read"] < 300 * MEGABYTE  # Python's own modules
    assert {told["verification"][k]["status"] for k in ("graph", "engine")} == {
        "not run: stage not requested"
    }
    written = onnx.load(made / "big.onnx", load_external_data=False)
    assert all(w.data_location == onnx.TensorProto.EXTERNAL for w in written.graph.initializer)
    copied = (made / "big.data").stat()
    assert (copied.st_size, copied.st_nlink) == (layers * length, 1)
    assert data.stat().st_nlink == 1


def test_a_model_with_external_weights_is_verified(tmp_path: Path) -> None:
    given = tmp_path / "given" / "small.onnx"
    given.parent.mkdir()
    model = model_of(3, weighted("Mul", 32))
    onnx.save(model, given, save_as_external_data=True, location="small.data", size_threshold=0)
    report = surgery.run("generic", given, output=tmp_path / "made", stages="load..substitute,verify,save")
    assert report.failure is None
    assert report.verification["graph"]["status"] == "passed"
    assert (tmp_path / "made" / "small.data").read_bytes() == given.with_name("small.data").read_bytes()
    for path in (given, tmp_path / "made" / "small.onnx"):
        onnx.load(path)  # refuses weights that have two names in the file system
