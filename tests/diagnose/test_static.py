"""What tables say: restrictions one by one, and their agreement with the real parser."""

from __future__ import annotations

import re

import onnx
import pytest

from surgery.diagnose.catalogue import catalogue
from surgery.diagnose.facts import Facts
from surgery.diagnose.static import CONDITIONS, TESTS, Refusal, refusals
from surgery.targets import resolve_target
from surgery.targets.restrictions import restrictions, restrictions_of
from surgery.trt.session import Worker
from tests.conformance.suite import suite
from tests.diagnose.agreement import PAGE, verdicts
from tests.diagnose.models import parsed
from tests.installed import real_17
from tests.rotation import part

RTX = "tensorrt-rtx-1.7"


def told(text: str, target: str = RTX) -> list[Refusal]:
    return list(refusals(Facts(parsed(text)), resolve_target(target)))


def test_every_restriction_is_of_an_operator_and_class_that_there_is() -> None:
    for restriction in restrictions().entries:
        for op in restriction.ops:
            assert op == "*" or onnx.defs.has(op) or resolve_target(RTX).operator(op), op
        assert restriction.failure is None or restriction.failure in catalogue(), restriction.failure
        assert restriction.since.keys() <= {"tensorrt", "tensorrt-rtx"}
        assert restriction.step in ("parse", "build")
        test = restriction.when.get("test")
        assert test is None or test in TESTS


def test_a_restriction_holds_from_its_version_on() -> None:
    assert restrictions_of("tensorrt", "10.16", "LayerNormalization")
    assert all(r.failure == "uint8-intermediate" or r.failure == "rank-above-8"
               for r in restrictions_of("tensorrt", "10.0", "LayerNormalization"))  # fmt: skip


@pytest.mark.parametrize(
    ("text", "op", "failure"),
    [
        (
            "g (float[1,1,8,8] x) => (float[] y) { y = MaxPool <kernel_shape=[3,3], dilations=[2,1]> (x) }",
            "MaxPool",
            "pool-geometry",
        ),
        (
            "g (float[1,1,8,8] x) => (float[] y, int64[] z) { y, z = MaxPool <kernel_shape=[3,3]> (x) }",
            "MaxPool",
            "maxpool-indices",
        ),
        (
            "g (float[2,3] x, int64[1] a) => (float[] y) { y = ReduceSum (x, a) }",
            "ReduceSum",
            "reduce-axes-not-constant",
        ),
        (
            "g (float[2,3] x) => (float[] y) <int64[1] i = {1}> { a = Neg (i) y = ReduceSum (x, a) }",
            "ReduceSum",
            "reduce-axes-not-constant",
        ),
        (
            "g (float[2,3] x, int64[2] s) => (float[] y) { y = Reshape (x, s) }",
            "Reshape",
            "shape-input-no-profile",
        ),
        (
            "g (float[2,3] x, float16[2,3] z) => (float[] y) { y = Add (x, z) }",
            "Add",
            "strongly-typed-mismatch",
        ),
        ("g (uint8[2,3] x) => (uint8[] y) { y = Transpose (x) }", "Transpose", "uint8-intermediate"),
        (
            "g (float[5000] x) => (float[] y, int64[] i) <int64[1] k = {4000}> { y, i = TopK (x, k) }",
            "TopK",
            "topk-k-too-large",
        ),
        ("g (float[1,8,128,64] q) => (float[] y) { y = Attention (q, q, q) }", "Attention", "attention-op"),
    ],
)
def test_what_can_be_seen_is_told(text: str, op: str, failure: str) -> None:
    header = '<ir_version: 11, opset_import: ["" : 23]> ' if "Attention" in text else ""
    found = told(header + text)
    assert [(r.op, r.failure) for r in found] == [(op, failure)]


@pytest.mark.parametrize(
    "text",
    [
        "g (float[1,1,8,8] x) => (float[] y) { y = MaxPool <kernel_shape=[3,3], dilations=[1,1]> (x) }",
        "g (float[2,3] x) => (float[] y) <int64[1] i = {1}> { a = Identity (i) y = ReduceSum (x, a) }",
        "g (float[b,3] x)"
        " => (float[] y) <int64[1] o = {1}> { s = Shape (x) t = Concat <axis=0> (o, s) y = Reshape (x, t) }",
        "g (uint8[2,3] x) => (float[] y) { y = Cast <to=1> (x) }",
        "g (float[5000] x) => (float[] y, int64[] i) <int64[1] k = {100}> { y, i = TopK (x, k) }",
    ],
)
def test_what_is_taken_is_not_told(text: str) -> None:
    assert told(text) == []


def test_an_input_of_a_type_that_a_network_cannot_have() -> None:
    found = told("g (int16[4] x) => (float[] y) { y = Cast <to=1> (x) }")
    assert [(r.kind, r.name) for r in found] == [("type", "x")]


def test_bodies_are_looked_into() -> None:
    found = told(
        "g (float[4] x, bool c) => (float[] y) { y = If (c) <then_branch = t () => (float w) { w = Det (x) }, "
        "else_branch = e () => (float z) { z = ReduceSum <keepdims=0> (x) }> }"
    )
    assert [r.op for r in found] == ["Det"]
    assert found[0].place is not None
    assert len(found[0].place.path) == 1


def test_every_condition_of_the_file_is_evaluated() -> None:
    """A key that is misspelt would make a restriction hold for every node."""
    known = {"attribute", "is", "not", "default", "operands", "results", "dtypes", "not_constant", "from_values",
             "not_initializer", "given", "outputs", "rank", "nonzero", "test"}  # fmt: skip
    for restriction in restrictions().entries:
        assert restriction.when.keys() <= known
        known_first = {
            k for k in restriction.when if k not in ("is", "not", "default", "operands", "results")
        }
        assert known_first <= CONDITIONS.keys()


@pytest.mark.slow
@pytest.mark.conformance
@real_17
def test_tables_and_the_real_parser_agree() -> None:
    names = part(list(suite()), 12)
    with Worker("tensorrt-rtx") as worker:
        found = verdicts(names, resolve_target(RTX), worker)
    listed = set(re.findall(r"^\| (test_\w+)", PAGE.read_text("utf-8"), re.MULTILINE))
    apart = {v.name: (v.table, v.real) for v in found if not v.agree}
    assert apart.keys() <= listed, apart
    assert len(listed) <= 0.03 * len(suite())
