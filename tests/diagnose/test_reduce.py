"""Reducing: the search, candidates, checks told apart, and the folder that is left."""

from __future__ import annotations

import json
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from surgery.cli import main
from surgery.diagnose.checks import masked
from surgery.diagnose.journal import JOURNAL
from surgery.diagnose.parts import Parts, with_random_weights
from surgery.diagnose.reduce import reduce
from surgery.diagnose.reduction import Options
from surgery.diagnose.shrink import Set, shrink
from surgery.errors import ConfigError, ModelError
from surgery.graph.evaluate import Evaluator
from surgery.graph.load import load_model
from tests.diagnose.models import parsed
from tests.installed import real

# -- the search ---------------------------------------------------------------------------------------------


class Counting:
    """Answers for sets that fail if they contain one of some sets."""

    def __init__(self, *causes: set[int]) -> None:
        self.causes, self.asked, self.rounds = causes, 0, 0

    def __call__(self, sets: Sequence[Set]) -> list[bool]:
        self.asked += len(sets)
        self.rounds += 1
        return [any(c <= s for c in self.causes) for s in sets]


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("seed", range(8))
def test_a_pair_among_a_thousand_takes_under_60_checks(width: int, seed: int) -> None:
    cause = set(random.Random(seed).sample(range(1000), 2))
    ask = Counting(cause)
    assert shrink(range(1000), ask, width) == (cause, True)
    assert ask.asked < 60


@pytest.mark.parametrize("size", [1, 3, 12, 13, 40])
@pytest.mark.parametrize("width", [1, 4])
def test_more_or_fewer_elements(size: int, width: int) -> None:
    cause = set(random.Random(size).sample(range(200), size))
    assert shrink(range(200), Counting(cause), width) == (cause, True)


def test_of_several_causes_one_is_found_whole() -> None:
    causes = ({3, 90}, {17, 18, 19}, {50})
    assert set(shrink(range(100), Counting(*causes))[0]) in causes


def test_answers_that_do_not_fit_together_still_give_a_set_that_fails() -> None:
    def odd(s: Set) -> bool:
        return {5, 40} <= s and len(s) % 2 == 0

    found, _ = shrink(range(100), lambda sets: [odd(s) for s in sets])
    assert odd(found)
    assert len(found) < 100


def test_after_enough_checks_the_smallest_so_far_is_taken() -> None:
    ask = Counting(set(range(0, 400, 4)))
    found, minimal = shrink(range(400), ask, 2, most=120)
    assert not minimal
    assert set(range(0, 400, 4)) <= found
    assert len(found) < 400
    assert ask.asked < 124


# -- candidates ---------------------------------------------------------------------------------------------


def two_branches() -> onnx.ModelProto:
    """25 nodes: two branches of twelve, joined in the end."""
    nodes = []
    for branch in "ab":
        last = "x"
        for i in range(12):
            op = ("Relu", "Neg", "Sigmoid", "Tanh")[i % 4]
            nodes.append(helper.make_node(op, [last], [f"{branch}{i}_out"], name=f"{branch}{i}"))
            last = f"{branch}{i}_out"
    nodes.append(helper.make_node("Add", ["a11_out", "b11_out"], ["y"], name="join"))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, ["n", 4])], [value("y", TensorProto.FLOAT, ["n", 4])]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_any_nodes_make_a_valid_model_that_computes_the_same() -> None:
    model = parsed(
        "g (float[n, 6] x, bool c) => (float[] y, float[] z) <float[6] w = {1,2,3,4,5,6}> "
        "{ [k] two = Constant <value_ints=[2, 3]> () [s] sh = Shape (x) [o] first = Slice (sh, zero, one) "
        "[z0] zero = Constant <value_ints=[0]> () [o1] one = Constant <value_ints=[1]> () "
        "[m] a = Mul (x, w) [t] t = Concat <axis=0> (first, two) [r] b = Reshape (a, t) "
        "[i] d = If (c) <then_branch = p () => (float[q, 2, 3] u) { u = Relu (b) }, "
        "else_branch = e () => (float[r, 2, 3] v) { v = Neg (b) }> [f] y = Flatten (d) [g] z = Sigmoid (a) }"
    )
    nodes = {n.name: n for n in model.graph.node}
    order = ["k", "z0", "o1", "s", "o", "m", "t", "r", "i", "f", "g"]
    del model.graph.node[:]
    model.graph.node.extend(nodes[n] for n in order)
    feeds: dict[str, Any] = {
        "x": np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32),
        "c": np.array(True),
    }
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    names = [o for n in model.graph.node for o in n.output if o not in ("y", "z")]
    whole.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    values = {**feeds, **Evaluator(whole).run(feeds)}
    parts = Parts(model, values)
    chance = random.Random(4)
    for _ in range(60):
        units = [u for u in range(len(parts.units)) if chance.random() < 0.5]
        if not units:
            continue
        candidate = parts.model_of(units)
        load_model(candidate)
        found = Evaluator(candidate).run({v.name: values[v.name] for v in candidate.graph.input})
        for name, value in found.items():
            np.testing.assert_allclose(value, values[name], rtol=1e-6)


def test_a_constant_that_nodes_compute_stays_one() -> None:
    parts = Parts(
        parsed("g (float[6] x) => (float[] y) <int64[1] two = {2}, int64[1] m = {-1}> "
               "{ [c] s = Concat <axis=0> (two, m) [r] y = Reshape (x, s) }")
    )  # fmt: skip
    candidate = parts.model_of([1])
    assert [v.name for v in candidate.graph.input] == ["x"]
    assert onnx.numpy_helper.to_array(candidate.graph.initializer[0]).tolist() == [2, -1]


def test_an_operator_that_nobody_knows_keeps_the_kind_of_its_operand() -> None:
    parts = Parts(
        parsed("g (float[2, 3] x) => (float[] y) { [a] t = Mine (x) [b] u = Relu (t) [c] y = Neg (u) }")
    )
    assert parts.guessed == ["t"]
    assert len(parts.units) == 3
    assert str(parts.model_of([2]).graph.input[0].type.tensor_type.shape.dim[1].dim_value) == "3"


def test_random_weights_keep_shape_type_and_sign() -> None:
    model = parsed("g (float[64] x) => (float[] y) <float[4] few = {1,2,3,4}> { y = Relu (x) }")
    many = np.abs(np.random.default_rng(1).normal(size=64)).astype(np.float16)
    model.graph.initializer.append(onnx.numpy_helper.from_array(many, "many"))
    changed, count = with_random_weights(model, None, 0)
    few, other = (onnx.numpy_helper.to_array(t) for t in changed.graph.initializer)
    assert count == 1
    assert few.tolist() == [1, 2, 3, 4]
    assert (other.dtype, other.shape) == (many.dtype, many.shape)
    assert (other > 0).all()
    assert not (other == many).any()
    assert with_random_weights(model, None, 0)[0] == changed


# -- with commands ------------------------------------------------------------------------------------------

CHECK = """
import sys, onnx
names = {{n.name for n in onnx.load(sys.argv[1]).graph.node}}
{body}
"""


def command(folder: Path, body: str) -> str:
    path = folder / "check.py"
    path.write_text(CHECK.format(body=body), encoding="utf-8")
    return f"{shlex.quote(sys.executable)} {path} {{}}"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "two.onnx"
    onnx.save(two_branches(), path)
    return path


@pytest.mark.parametrize("jobs", [1, 3])
def test_two_branches_that_fail_together(jobs: int, model: Path, tmp_path: Path) -> None:
    check = command(tmp_path, "sys.exit({'a3', 'b3'} <= names)")
    result = reduce(model, tmp_path / "out", Options(command=check, jobs=jobs))
    assert sorted(result.nodes) == [("a3", "Tanh"), ("b3", "Tanh")]
    assert result.nodes_before == 25
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "reduced.onnx", "inputs.npz", "report.json", "README.md", "reproduce.sh", JOURNAL
    }  # fmt: skip
    onnx.checker.check_model(onnx.load(tmp_path / "out" / "reduced.onnx"))
    done = subprocess.run(["sh", str(tmp_path / "out" / "reproduce.sh")], check=False)
    assert done.returncode == 1


def test_what_joins_them_stays_where_it_is_needed(model: Path, tmp_path: Path) -> None:
    body = (
        "g = onnx.load(sys.argv[1]).graph; made = {o: n for n in g.node for o in n.output}\n"
        "def above(n): return {n.name}.union(*[above(made[i]) for i in n.input if i in made])\n"
        "sys.exit(any({'a3', 'b3'} <= above(n) for n in g.node))"
    )
    result = reduce(model, tmp_path / "out", Options(command=command(tmp_path, body), jobs=2))
    names = [n for n, _ in result.nodes]
    assert names == [*(f"a{i}" for i in range(3, 12)), *(f"b{i}" for i in range(3, 12)), "join"]


@pytest.mark.parametrize(
    ("check", "why"),
    [
        ("pythonn check.py", "no such command"),
        (f"{shlex.quote(sys.executable)} no-such-file.py", "options are wrong"),
        (f"{shlex.quote(sys.executable)} -c 'import no_such_module'", "nothing in it"),
        ("false", "nothing in it"),
        ("/", "cannot be executed"),
    ],
)
def test_a_typo_is_a_broken_check_and_no_model_is_written(
    check: str, why: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        reduce(model, tmp_path / "out", Options(command=check))
    assert (caught.value.code, caught.value.exit_code) == ("broken-check", 2)
    assert why in caught.value.message
    assert not (tmp_path / "out").exists()


def test_a_check_that_breaks_on_the_way_leaves_no_model(model: Path, tmp_path: Path) -> None:
    check = command(tmp_path, "sys.exit(127 if len(names) == 6 else {'a3', 'b3'} <= names)")
    with pytest.raises(ConfigError) as caught:
        reduce(model, tmp_path / "out", Options(command=check, jobs=1))
    assert caught.value.code == "broken-check"
    assert not (tmp_path / "out" / "reduced.onnx").exists()


def test_a_model_that_does_not_fail_is_not_reduced(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        reduce(model, tmp_path / "out", Options(command="true"))
    assert caught.value.code == "nothing-to-reduce"
    assert not (tmp_path / "out").exists()


def test_other_failures_crashes_and_time_outs_do_not_count(model: Path, tmp_path: Path) -> None:
    body = (
        "import os, time\n"
        "if {'a3', 'b3'} <= names: sys.exit(1)\n"
        "if 'a3' in names: os.kill(os.getpid(), 6)\n"
        "if 'b3' in names: time.sleep(60)\n"
        "if len(names) > 3: sys.exit(4)"
    )
    result = reduce(model, tmp_path / "out", Options(command=command(tmp_path, body), seconds=2, jobs=2))
    assert sorted(n for n, _ in result.nodes) == ["a3", "b3"]
    assert {"fails", "crashes", "times out"} <= result.checks.keys()


def test_a_crash_can_be_what_is_reduced(model: Path, tmp_path: Path) -> None:
    check = command(
        tmp_path, "import os\nif 'b7' in names: os.kill(os.getpid(), 11)\nsys.exit(len(names) > 4)"
    )
    result = reduce(model, tmp_path / "out", Options(command=check))
    assert [n for n, _ in result.nodes] == ["b7"]
    assert (result.failure.kind, result.failure.mark) == ("crashes", "SIGSEGV")


def test_output_that_has_to_match(model: Path, tmp_path: Path) -> None:
    check = command(
        tmp_path, "print('bad a3' if 'a3' in names else 'else'); sys.exit(len(names) > 1 or 'a3' in names)"
    )
    result = reduce(model, tmp_path / "out", Options(command=check, match="bad a3"))
    assert [n for n, _ in result.nodes] == ["a3"]


def test_an_interrupted_search_is_gone_on_with(model: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    body = f"open({str(log)!r}, 'a').write('x'); sys.exit({{'a3', 'b3'}} <= names)"
    options = Options(command=command(tmp_path, body), jobs=1, canary=False)
    first = reduce(model, tmp_path / "out", options)
    asked = len(log.read_text())
    journal = tmp_path / "out" / JOURNAL
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[: len(lines) // 2], lines[-1][:20]]))
    log.write_text("")
    again = reduce(model, tmp_path / "out", options)
    assert again.nodes == first.nodes
    assert 0 < len(log.read_text()) < asked
    log.write_text("")
    assert reduce(model, tmp_path / "out", options).nodes == first.nodes
    assert log.read_text() == ""
    reduce(model, tmp_path / "out", Options(command=options.command, jobs=1, canary=False, seed=1))
    assert len(log.read_text()) == asked


# -- inside bodies ------------------------------------------------------------------------------------------

NESTED = """g (float[n, 4] x, float[n, 4] z) => (float[n, 4] y, float[n, 4] w)
    <int64 most = {7}, float half = {0.5}, bool yes = {1}> {
    [m1] a = Neg (x) [m2] b = Sigmoid (a) [m3] big = Tanh (z)
    [loop] y = Loop (most, yes, b) <body = lb (int64 k, bool c, float[n, 4] s) => (bool go, float[n, 4] t) {
        [l1] s1 = Mul (s, half) [l2] s2 = Add (s1, big) [l3] sum = ReduceSum <keepdims = 0> (s2)
        [l4] pos = Greater (sum, half) [l5] cc = Identity (c) [l6] go = Not (cc)
        [if] t = If (pos) <then_branch = tb () => (float[n, 4] o) {
            [t1] o1 = Exp (s2) [t2] o2 = Sqrt (o1) [t3] o3 = Mul (o2, a) [t4] o = Relu (o3) },
          else_branch = eb () => (float[n, 4] p) { [e1] p1 = Abs (s2) [e2] p2 = Neg (p1) [e3] p = Tanh (p2) }> }>
    [m4] w = Neg (y) }"""

INSIDE = """
import sys, onnx
def walk(graph, path=""):
    for n in graph.node:
        yield path, n.name
        for a in n.attribute:
            if a.HasField("g"):
                yield from walk(a.g, path + n.op_type + "/")
model = onnx.load(sys.argv[1])
onnx.checker.check_model(model)
onnx.shape_inference.infer_shapes(model, strict_mode=True)
found = set(walk(model.graph))
{body}
"""


def inside(folder: Path, body: str) -> tuple[Path, str]:
    onnx.save(parsed(NESTED), folder / "nested.onnx")
    (folder / "inside.py").write_text(INSIDE.format(body=body), encoding="utf-8")
    return folder / "nested.onnx", f"{shlex.quote(sys.executable)} {folder / 'inside.py'} {{}}"


def test_what_fails_in_a_body_is_taken_out(tmp_path: Path) -> None:
    path, check = inside(tmp_path, "sys.exit(3 if {'t3'} <= {n for p, n in found} else 0)")
    result = reduce(path, tmp_path / "out", Options(command=check))
    assert result.nodes == [("t3", "Mul")]
    assert (result.nodes_before, result.nodes_after) == (19, 1)
    model = onnx.load(tmp_path / "out" / "reduced.onnx")
    assert sorted(v.name for v in model.graph.input) == ["a", "o2"]


def test_what_fails_only_inside_a_body_keeps_the_body_alone(tmp_path: Path) -> None:
    path, check = inside(tmp_path, "sys.exit(3 if {('Loop/If/', 't3'), ('Loop/', 'l2')} <= found else 0)")
    result = reduce(path, tmp_path / "out", Options(command=check))
    names = {n for n, _ in result.nodes}
    assert {"loop", "l2", "if", "t3"} <= names
    assert not names & {"m1", "m2", "m3", "m4", "l1", "l3", "t1", "t2", "e1", "e2", "e3"}
    model = onnx.load(tmp_path / "out" / "reduced.onnx")
    onnx.checker.check_model(model)
    feeds = dict(np.load(tmp_path / "out" / "inputs.npz"))
    assert set(feeds) == {v.name for v in model.graph.input}
    Evaluator(model).run(feeds)


def test_what_is_left_out_of_bodies_makes_models_that_run() -> None:
    from surgery.diagnose.bodies import BodyParts, bodies_of, count_nodes, lifted

    whole = parsed(NESTED)
    rng = np.random.default_rng(7)
    paths = list(bodies_of(whole.graph))
    assert len(paths) == 3
    for path in paths:
        alone = lifted(whole, path)
        assert alone is not None
        onnx.checker.check_model(alone, full_check=True)
        parts = BodyParts(whole, path)
        for _ in range(12):
            units = [u for u in range(len(parts.units)) if rng.random() < 0.5]
            candidate = parts.model_of(units)
            onnx.checker.check_model(candidate, full_check=True)
            feeds = {
                v.name: np.asarray(False) if not v.type.tensor_type.shape.dim and v.type.tensor_type.elem_type == 9
                else np.asarray(0.25, np.float32) if not v.type.tensor_type.shape.dim
                else rng.normal(size=(2, 4)).astype(np.float32)
                for v in candidate.graph.input
            }  # fmt: skip
            assert Evaluator(candidate).run(feeds)["y"].shape == (2, 4)
        assert count_nodes(parts.model_of(range(len(parts.units))).graph) == count_nodes(whole.graph)


# -- with TensorRT ------------------------------------------------------------------------------------------


@real
def test_what_the_parser_refuses(tmp_path: Path) -> None:
    made = two_branches()
    made.graph.node[15].op_type = "NonZero"
    made.graph.node[15].output[0] = "nz"
    made.graph.node.insert(
        16, helper.make_node("Cast", ["nz"], ["b3_out"], name="cast", to=TensorProto.FLOAT)
    )
    made.graph.node[-1].input[1] = "a2_out"
    path = tmp_path / "m.onnx"
    onnx.save(made, path)
    result = reduce(path, tmp_path / "out", Options(while_="parse fails", target="tensorrt-rtx"))
    assert result.nodes == [("b3", "NonZero")]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "out" / "reproduce.py")], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "NonZero" in done.stdout


@real
def test_what_the_parser_refuses_in_a_body(tmp_path: Path) -> None:
    text = NESTED.replace("[t2] o2 = Sqrt (o1)", "[t2] nz = NonZero (o1) [t5] f = Cast <to = 1> (nz) "
                          "[t6] r = ReduceSum <keepdims = 0> (f) [t7] o2 = Add (o1, r)")  # fmt: skip
    path = tmp_path / "m.onnx"
    onnx.save(parsed(text), path)
    result = reduce(path, tmp_path / "out", Options(while_="parse fails", target="tensorrt-rtx"))
    assert result.nodes == [("t2", "NonZero")]


@real
def test_what_the_builder_refuses(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(
        parsed("g (float[b, 2, 8] x) => (float[] y) <int64[2] s = {1, 16}> "
               "{ [a] p = Relu (x) [q] q = Neg (p) [n] r = Reshape (q, s) [e] y = Sigmoid (r) }"), path,
    )  # fmt: skip
    options = Options(
        while_="build fails", target="tensorrt-rtx", shapes={"x": ((1, 2, 8), (2, 2, 8), (4, 2, 8))}
    )
    result = reduce(path, tmp_path / "out", options)
    assert [n for n, _ in result.nodes] == ["n"]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "out" / "reproduce.py")], capture_output=True, text=True
    )
    assert (done.returncode, "refuses" in done.stdout) == (1, True), done


def test_a_model_that_does_not_end_is_reduced_all_the_same(tmp_path: Path) -> None:
    made = parsed(
        "g (float[4] x) => (float[] y) <int64 most = {9223372036854775807}, bool go = {1}> "
        "{ [l] z = Loop (most, go, x) "
        "<body = turn (int64 i, bool c, float[4] a) => (bool d, float[4] b) { b = Abs (a) d = Identity (c) }> "
        "[n] nz = NonZero (z) [c] f = Cast <to = 1> (nz) [e] y = Neg (f) }"
    )
    path = tmp_path / "m.onnx"
    onnx.save(made, path)
    check = command(tmp_path, "sys.exit('e' in names)")
    result = reduce(path, tmp_path / "out", Options(command=check, seconds=2.0))
    assert result.nodes == [("e", "Neg")]
    assert any("ONNX Runtime was still running the model after 2 s" in note for note in result.notes)


@pytest.mark.parametrize("linked", [False, True])
def test_external_and_random_weights(tmp_path: Path, linked: bool) -> None:
    weight = onnx.numpy_helper.from_array(np.ones((8, 8), np.float32), "w")
    made = parsed(
        "g (float[2, 8] x) => (float[] y) { [a] p = Relu (x) [m] q = MatMul (p, w) [e] y = Neg (q) }"
    )
    made.graph.initializer.append(weight)
    path = tmp_path / "m.onnx"
    onnx.save(made, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    if linked:  # as caches of downloaded models hold weights; onnx's own loader refuses them
        os.link(tmp_path / "w.bin", tmp_path / "second name")
    check = command(tmp_path, "sys.exit('m' in names)")
    reduce(path, tmp_path / "out", Options(command=check))
    left = onnx.load(tmp_path / "out" / "reduced.onnx")
    assert (onnx.numpy_helper.to_array(left.graph.initializer[0]) == 1).all()
    assert left.graph.initializer[0].data_location == TensorProto.DEFAULT
    reduce(path, tmp_path / "random", Options(command=check, random_weights=True))
    other = onnx.load(tmp_path / "random" / "reduced.onnx")
    assert not (onnx.numpy_helper.to_array(other.graph.initializer[0]) == 1).any()


# -- the command line ---------------------------------------------------------------------------------------


def test_the_command(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = command(tmp_path, "sys.exit('a3' in names)")
    out = str(tmp_path / "out")
    assert main(["reduce", str(model), "--check", check, "--output", out, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["nodes"] == [{"name": "a3", "op": "Tanh"}]
    assert main(["reduce", str(model), "--check", check, "--output", out]) == 0
    assert "25 nodes -> 1" in capsys.readouterr().out
    assert main(["reduce", str(model), "--check", "pythonn", "--output", out + "2"]) == 2
    assert "error[broken-check]" in capsys.readouterr().err
    assert main(["reduce", str(model), "--output", out]) == 2
    assert main(["reduce", str(model), "--while", "it fails", "--output", out]) == 2
    assert main(["reduce", str(tmp_path / "none.onnx"), "--check", check]) == 3


def test_damaged_models_are_not_reduced(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"garbage")
    with pytest.raises(ModelError):
        reduce(path, tmp_path / "out", Options(command="true"))


def test_numbers_and_names_are_no_part_of_a_message() -> None:
    one = masked("Invalid Node - conv_1: shape [1, 3, 224] of 'x' has 3 dims", ["conv_1"])
    assert one == masked(
        "Invalid Node - b: shape [9] of 'yy' has 14 dims".replace("b:", "conv_77:"), ["conv_77"]
    )
