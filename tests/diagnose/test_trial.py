"""Explain and inspect tell what `surgery run` does: each answer is compared with the run itself."""

from __future__ import annotations

import itertools
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

import surgery
from surgery.cli.values import parse_shapes
from surgery.diagnose.explain import explain
from surgery.diagnose.grouping import about_machine, groups, said, without_machine
from surgery.diagnose.inspect import inspect
from surgery.diagnose.trial import run_command
from surgery.targets import resolve_target
from tests.diagnose.models import parsed
from tests.installed import real

GROWS = (
    "g (float[2, 4] x) => (float[] y) <int64 m = {2}, bool c = {1}> { [loop] y = Loop (m, c, x) "
    "<body = b (int64 i, bool ci, float[] v) => (bool co, float[] w) "
    "{ co = Identity (ci) w = Concat <axis = 0> (v, v) }> }"
)
DIFFERS = (
    "g (float[2, n, 4] x) => (float[] y) <int64 one = {1}> { s = Shape (x) d = Gather (s, one) c = Equal (d, one) "
    "[choose] y = If (c) <then_branch = t () => (float[] a) { ax = Constant <value_ints = [1]> () "
    "a = Squeeze (x, ax) }, else_branch = e () => (float[] b) { b = Identity (x) }> }"
)
RANK9 = (
    "g (float[512] x) => (float[] y) <int64[9] s = {2, 2, 2, 2, 2, 2, 2, 2, 2}> "
    "{ [up] r = Reshape (x, s) [turn] y = Transpose (r) }"
)
LARGE_K = "g (float[1, 8400] x) => (float[] v, int64[] i) <int64[1] k = {4000}> { [top] v, i = TopK (x, k) }"
DEAD = "g (float[2, 2] x) => (float[] y) { [d] u = Det (x) [r] y = Relu (x) }"
STORED = "g (float[2] x) => (float[] y) <float[2, 2] w = {1, 2, 3, 4}> { [d] u = Det (w) [a] y = Add (x, u) }"
MODELS = {
    "grows": GROWS,
    "differs": DIFFERS,
    "rank9": RANK9,
    "large-k": LARGE_K,
    "dead": DEAD,
    "stored": STORED,
}


def data(name: str) -> bytes:
    return parsed(MODELS[name]).SerializeToString()


@real
@pytest.mark.parametrize("name", sorted(MODELS))
def test_explain_and_inspect_say_what_the_run_does(name: str) -> None:
    model = data(name)
    run = surgery.run("auto", model, target="tensorrt-rtx")
    told = explain(model, target="tensorrt-rtx")
    looked = inspect(model, target="tensorrt-rtx")
    assert told.trial is not None
    assert looked.trial is not None
    assert told.trial.exit_code == run.exit_code
    assert (told.trial.failure and told.trial.failure.code) == (run.failure and run.failure.code)
    assert looked.trial.pipeline == told.trial.pipeline == run.pipeline["name"]
    assert (looked.trial.exit_code == 0) == (run.exit_code == 0)
    assert (told.resolved == len(told.problems)) == (run.exit_code == 0)
    for problem in told.problems:
        assert problem.fate is not None
        for rule in problem.fate.rules:
            assert any(e.rule == rule and problem.node in e.nodes_before for e in run.edits)


@real
@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_rule_that_is_recommended_applies(name: str) -> None:
    model = data(name)
    applied = {
        (e.rule, n) for e in surgery.run("auto", model, target="tensorrt-rtx").edits for n in e.nodes_before
    }
    for problem in explain(model, target="tensorrt-rtx").problems:
        named = [r for r in problem.remedies if r.kind == "rule"]
        assert bool(named) == (problem.fate is not None and problem.fate.what == "done")
        assert not named or any(n == problem.node for _, n in applied)


@real
def test_what_the_run_resolves_and_how() -> None:
    def fate(name: str) -> list[tuple[Any, Any]]:
        return [(p.node, p.fate and p.fate.what) for p in explain(data(name), target="tensorrt-rtx").problems]

    assert fate("grows") == [("loop", "done")]
    assert fate("differs") == [("choose", "left")]
    assert fate("rank9") == [("up", "left"), ("turn", "left")]
    assert fate("large-k") == [("top", "done")]
    assert fate("dead") == [("d", "taken")]
    assert fate("stored") == [("d", "taken")]


@real
def test_no_rule_applies_and_why() -> None:
    problem = explain(data("rank9"), target="tensorrt-rtx").problems[0]
    assert problem.fate is not None
    assert "no rule applies (reshape-to-declared-shape: input 1 is constant)" in problem.fate.text
    assert not any("reshape-to-declared-shape" in r.text for r in problem.remedies)


@real
def test_a_model_that_builds_and_that_the_run_refuses_is_no_good_news() -> None:
    found = explain(data("differs"), target="tensorrt-rtx")
    assert [p.where for p in found.problems] == ["run"]
    assert found.exit_code == 4
    assert found.problems[0].id == "if-branch-shape-mismatch"


@real
def test_what_has_to_be_known_is_asked_for_with_the_command() -> None:
    text = "g (int64[4] i, int64[1] d) => (float[] y) <float[2] v = {0, 1}> { [hot] y = OneHot (i, d, v) }"
    problem = explain(parsed(text).SerializeToString(), target="tensorrt-rtx").problems[0]
    first = problem.remedies[0]
    assert first.command is not None
    assert first.command.endswith("--constant d=VALUE")


def test_a_target_that_is_not_installed_is_tried_too() -> None:
    text = "g (float[2, 2] x) => (float y) { [d] y = Det (x) }"
    found = inspect(parsed(text).SerializeToString(), target="tensorrt-8.6")
    assert found.trial is not None
    assert found.trial.exit_code == 0
    assert [(f.what, n) for f, n in found.groups[0].fates] == [("done", 1)]
    assert "no engine" in found.trial.verdict


def test_without_a_run_a_rule_is_named_as_a_possibility() -> None:
    found = inspect(data("rank9"), target="tensorrt-rtx-1.7", ask="never")
    assert found.trial is None
    assert not any(g.fates for g in found.groups)
    assert any("whether one applies" in r.text for g in found.groups for r in g.remedies)


@real
def test_a_trial_that_takes_too_long_is_told_as_such() -> None:
    found = explain(data("large-k"), target="tensorrt-rtx", seconds=0.05)
    assert found.trial is not None
    assert found.trial.exit_code is None
    assert "the time was over" in found.trial.verdict
    assert not any(p.where == "run" for p in found.problems)


@real
def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_bytes(data("rank9"))
    explain("m.onnx", target="tensorrt-rtx")
    inspect("m.onnx", target="tensorrt-rtx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


@real
def test_equal_problems_are_one_group() -> None:
    body = " ".join(f"[n{i}] y{i} = Det (x{i})" for i in range(5))
    inputs = ", ".join(f"float[{i + 2}, {i + 2}] x{i}" for i in range(5))
    text = f"g ({inputs}) => ({', '.join(f'float y{i}' for i in range(5))}) {{ {body} }}"
    found = explain(parsed(text).SerializeToString(), target="tensorrt-rtx")
    together = groups(found.problems)
    assert sorted(len(g) for g in together) == [5]
    assert {p.node for p in together[0]} == {f"n{i}" for i in range(5)}
    assert json.dumps(found.to_dict())


def test_what_is_about_the_machine_is_left_out() -> None:
    about = (
        "In catchCudaError at x.cpp:250 (cudaError 35: CUDA driver version is insufficient for CUDA runtime)"
    )
    assert about_machine(about)
    assert not about_machine("Add_y: ElementWiseOperation SUM must have same input types")
    assert without_machine(f"slope is wrong\n{about}") == "slope is wrong"
    assert without_machine(about) == about
    assert said(
        "In node 0 with name: r and operator: Reshape (parseNode): BAD. In operator() at /a/b.cpp:46)"
    ) == ("(parseNode): BAD)")


@real
def test_a_bug_of_the_run_does_not_hide_what_the_parser_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("no such thing")

    monkeypatch.setattr("surgery.stages.rewrite.Rewrite.run", broken)
    found = explain(data("large-k"), target="tensorrt-rtx")
    assert next(p.node for p in found.problems) == "top"
    assert found.trial is not None
    assert (found.trial.exit_code, found.problems[-1].where) == (70, "run")
    assert "KeyError" in found.trial.verdict


def test_the_command_gives_the_shapes_that_were_asked_for() -> None:
    shapes = {
        "a:0": ((1, 3), (1, 3), (8, 3)),  # two of them are the same, and still there have to be three
        "b": ((1, 3), (4, 3), (4, 3)),
        "c": ((2, 3), (2, 3), (2, 3)),
        "number": ((), (), ()),
    }
    words = shlex.split(run_command("auto", "m.onnx", resolve_target("tensorrt-10.16"), shapes))
    given = [value for option, value in itertools.pairwise(words) if option == "--shape"]
    assert parse_shapes(given) == shapes
