"""Explaining models with the real parser: all nodes in one go, in bodies and functions, aborts and builds located."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest

from surgery.diagnose.explain import Explanation, explain
from surgery.diagnose.workcopy import TOKEN, WorkCopy
from surgery.trt.types import BuildOutcome, ParseOutcome
from tests.diagnose.models import FIVE, parsed, renamed
from tests.installed import real


def of(text: str, **options: Any) -> Explanation:
    return explain(parsed(text).SerializeToString(), target=options.pop("target", "tensorrt-rtx"), **options)


def named(result: Explanation) -> list[tuple[str | None, str | None, str | None]]:
    return [(p.node, p.op, p.id) for p in result.problems]


FIVE_FOUND = {
    ("det", "Det", "unsupported-op"),
    ("unique", "Unique", "unsupported-op-data-dependent"),
    ("gelu", "BiasGelu", "contrib-domain-op"),
    ("nonzero", "NonZero", "nonzero-data-dependent"),
    ("draw", "Multinomial", "local-function"),
}


@real
def test_five_bad_nodes_in_five_branches_one_in_an_if_in_a_function() -> None:
    result = of(FIVE)
    assert set(named(result)) == FIVE_FOUND
    assert len(result.problems) == 5
    inner = next(p for p in result.problems if p.node == "draw")
    assert inner.path == ("function 'Head' called by 'call'", "If 'choose' then_branch")
    assert result.exit_code == 4
    assert result.complete
    assert not TOKEN.search(json.dumps(result.to_dict()))


@real
@pytest.mark.parametrize("seed", [1, 2])
def test_names_and_order_change_nothing(seed: int) -> None:
    model, names = renamed(parsed(FIVE), seed)
    result = explain(model.SerializeToString(), target="tensorrt-rtx")
    assert set(named(result)) == {(names[f"node {n}"], op, c) for n, op, c in FIVE_FOUND}


@real
def test_a_node_says_where_its_operands_come_from_and_what_to_do() -> None:
    result = of("g (float[2, 2] x) => (float y) { [r] a = Relu (x) [d] y = Det (a) }")
    problem = result.problems[0]
    assert problem.operands == (("a", "float32[2, 2]", ("Relu 'r'", "input 'x' float32[2, 2]")),)
    assert problem.remedies[0].kind == "rule"
    assert problem.remedies[0].command is not None
    assert problem.remedies[0].command.startswith("surgery run generic ")
    assert problem.versions["tensorrt-rtx-1.7"] == "no"


@real
def test_a_function_called_twice_is_told_once() -> None:
    result = of(
        '<ir_version: 8, opset_import: ["" : 18, "f" : 1]> g (float[2, 2] x) => (float y, float z) '
        '{ [one] y = f.H (x) [r] a = Relu (x) [two] z = f.H (a) } <domain: "f", opset_import: ["" : 18]> '
        "H (q) => (r) { [d] r = Det (q) }"
    )
    assert named(result) == [("d", "Det", "local-function")]
    assert result.problems[0].also == [("function 'H' called by 'two'",)]


@real
def test_a_dtype_that_inputs_cannot_have() -> None:
    result = of(
        "g (uint32[4] a, float[2, 2] x) => (uint32[4] b, float y) { [n] b = Add (a, a) [d] y = Det (x) }"
    )
    first, *rest = result.problems
    assert (first.where, first.node, first.id) == ("input", "a", "int16-dtype")
    assert first.evidence == ("'a' is uint32[4]", "read by Add 'n'")
    assert [(p.node, p.op) for p in rest] == [("d", "Det")]


@real
def test_a_model_that_goes_through() -> None:
    result = of("g (float[n, 4] x) => (float[n, 4] y) { [r] y = Relu (x) }")
    assert result.exit_code == 0
    assert result.problems == []
    assert any("--shape" in note for note in result.notes)


@real
def test_a_batch_that_is_baked_in() -> None:
    result = of(
        "g (float[b, 2, 8] x) => (float[] y) <int64[2] s = {1, 16}> { [r] a = Relu (x) [n] y = Reshape (a, s) }"
    )
    assert named(result) == [("n", "Reshape", "hardcoded-batch-reshape")]
    assert result.exit_code == 5


@real
def test_only_the_given_shapes_are_in_the_profile() -> None:
    shapes = {"x": ((1, 3), (2, 3), (4, 3))}
    result = of("g (float[b, 3] x, float[b, 3] z) => (float[] y) { [n] y = Add (x, z) }", shapes=shapes)
    assert [p.id for p in result.problems] == ["profile-missing-input"]


@real
def test_a_loop_whose_state_grows_is_found_by_building_parts() -> None:
    """The builder's message names no node."""
    result = of(
        "g (float[2, 4] x) => (float[2, 4] u, float[] y) <int64 m = {3}, bool c = {1}> {"
        " [a] s = Relu (x) [b] t = Neg (s) "
        "[l] y = Loop (m, c, t) <body = b (int64 i, bool ci, float[p, 4] v) => (bool co, float[q, 4] w) "
        "{ [k] w = Concat <axis = 0> (v, x) [j] co = Identity (ci) }> [e] u = Sigmoid (t) }"
    )
    assert named(result) == [("l", "Loop", "loop-state-shape-changes")]
    assert result.problems[0].located is not None


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"", "file-truncated"),
        (b"version https://git-lfs.github.com/spec/v1\n", "file-truncated"),
        (
            parsed("g (float[4] x) => (float[] y) { [n] y = Relu (x) }").SerializeToString()[:-7],
            "file-truncated",
        ),
    ],
)
def test_files_that_are_none(data: bytes, wanted: str) -> None:
    result = explain(data)
    assert result.exit_code == 3
    assert result.problems[0].id == wanted


@pytest.mark.parametrize(
    ("text", "wanted", "node"),
    [
        (
            "g (float[4] x) => (float[] y) { [a] t = Add (x, u) [b] u = Relu (t) [c] y = Neg (u) }",
            "cyclic-graph",
            None,
        ),
        ("g (float[4] x) => (float[] y) { [c] y = Add (x, ghost) }", "dangling-input", "c"),
        ("g (float[4] x) => (float[] y) { [c] y = Concat (x, x) }", "missing-attribute", "c"),
        ("g (float[4] x) => () { [c] y = Neg (x) }", "no-outputs", None),
    ],
)
def test_graphs_that_are_not_valid(text: str, wanted: str, node: str | None) -> None:
    result = explain(parsed(text).SerializeToString())
    assert result.exit_code == 3
    assert result.problems[0].id == wanted
    if node is not None:
        assert result.problems[0].node == node


@real
def test_nodes_out_of_order_are_no_problem() -> None:
    """ONNX forbids it; ONNX Runtime and the parser sort, and so does surgery."""
    assert of("g (float[4] x) => (float[] y) { [c] y = Neg (t) [a] t = Relu (x) }").problems == []


def test_a_target_that_is_not_installed_is_answered_by_its_table() -> None:
    result = of(FIVE, target="tensorrt-8.6")
    assert {"Det", "Unique", "BiasGelu", "Multinomial"} <= {p.op for p in result.problems}
    assert {p.where for p in result.problems} <= {"table", "run"}
    assert any("not installed" in note for note in result.notes)


class _Worker:
    """A worker that aborts, or refuses to build, where some operator is in the model."""

    def __init__(
        self, aborts: Sequence[str] = (), refuses: Callable[[set[str]], bool] = lambda _: False
    ) -> None:
        self.aborts = aborts
        self.refuses = refuses

    def parse(self, model: bytes, **_: object) -> ParseOutcome:
        proto = onnx.ModelProto.FromString(model)
        for node in proto.graph.node:
            if node.op_type in self.aborts:
                return ParseOutcome(False, aborted=True, last_node=f"{node.name} [{node.op_type}]")
        return ParseOutcome(True)

    def build(self, model: bytes, *_: object, **__: object) -> BuildOutcome:
        proto = onnx.ModelProto.FromString(model)
        assert proto.graph.output
        if self.refuses({n.op_type for n in proto.graph.node}):
            return BuildOutcome(False, aborted=True)
        return BuildOutcome(True, engine=b"")


def _with(monkeypatch: pytest.MonkeyPatch, worker: _Worker) -> None:
    monkeypatch.setattr("surgery.trt.session.lend", lambda *_, **__: worker)
    monkeypatch.setattr("surgery.trt.session.give_back", lambda _: None)


@real
def test_the_parser_may_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    _with(monkeypatch, _Worker(aborts=("Tan", "Sinh")))
    result = of(
        "g (float[4] x) => (float[4] y) { [a] p = Tan (x) [b] q = Relu (p) [c] y = Sinh (q) }", run=False
    )
    assert [(p.node, p.op) for p in result.problems] == [("a", "Tan"), ("c", "Sinh")]
    assert "alone, too" in (result.problems[0].located or "")
    assert result.complete


@real
def test_an_abort_of_the_builder_is_found_by_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    _with(monkeypatch, _Worker(refuses=lambda ops: {"Tan", "Sinh"} <= ops))
    body = " ".join(f"[n{i}] t{i + 1} = {op} (t{i})" for i, op in enumerate(
        ["Relu"] * 9 + ["Tan", "Neg", "Abs", "Sinh"] + ["Relu"] * 12))  # fmt: skip
    result = of(f"g (float[4] t0) => (float[4] t25) {{ {body} }}", run=False)
    assert [(p.node, p.op) for p in result.problems] == [("n12", "Sinh")]
    assert "Tan 'n9', Neg 'n10', Abs 'n11', Sinh 'n12'" in (result.problems[0].located or "")


def test_cutting_in_a_body_keeps_the_rest_valid() -> None:
    work = WorkCopy(parsed(FIVE))
    tokens = [t for t, o in work.origins.items() if o.op in ("Multinomial", "Det", "BiasGelu")]
    work.drop(tokens)
    onnx.checker.check_model(work.for_build())
    assert not work.skipped
    assert {o.op for t, o in work.origins.items() if t in work.cut} == {"Multinomial", "Det", "BiasGelu"}


def test_what_cannot_be_typed_takes_its_readers_with_it() -> None:
    work = WorkCopy(
        parsed(
            "g (float[6] x) => (float[2] y, float[6] z) <int64 k = {1}> { [s] q = SplitToSequence (x) "
            "[t] y = SequenceAt (q, k) [r] z = Relu (x) }"
        )
    )
    work.drop([t for t, o in work.origins.items() if o.op == "SplitToSequence"])
    assert [work.origins[t].op for t in work.skipped] == ["SequenceAt"]
    assert [n.op_type for n in work.model.graph.node] == ["Relu"]


def surgery(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "surgery", *map(str, arguments)], capture_output=True, text=True, check=False
    )


@real
def test_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "five.onnx"
    onnx.save(parsed(FIVE), path)
    done = surgery("explain", path)
    assert done.returncode == 4
    assert done.stderr == ""
    assert "5 problems" in done.stdout
    assert "in: function 'Head' called by 'call' / If 'choose' then_branch" in done.stdout
    told = json.loads(surgery("explain", path, "--json").stdout)
    assert told["exit_code"] == 4
    assert {(p["node"], p["op"], p["class"]) for p in told["problems"]} == FIVE_FOUND
    assert all(p["fixes"] for p in told["problems"])


def test_the_command_line_on_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("no model")
    done = surgery("explain", path)
    assert done.returncode == 3
    assert "[file-truncated]" in done.stdout
    assert surgery("explain").returncode == 2
    assert surgery("explain", tmp_path / "none.onnx").returncode == 3
    assert surgery("explain", "--log", tmp_path / "none.log").returncode == 2
