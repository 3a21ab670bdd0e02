"""What the stage rewrite says that it did."""

from __future__ import annotations

import onnx
import pytest

import surgery

TWO = '<ir_version: 9, opset_import: ["" : 17, "own" : 1]>'

IF = """g (float[4] x) => (float[4] y) {
    yes = Constant <value = bool {1}> ()
    y = If (yes) <
        then_branch = t () => (float[4] a) { a = Relu (x) },
        else_branch = e () => (float[4] b) { b = Neg (x) }
    >
}"""

GROWING = """g (float[4] x) => (float[32] y) {
    n = Constant <value = int64 {3}> ()
    yes = Constant <value = bool {1}> ()
    y = Loop (n, yes, x) <body = b (int64 i, bool c, float[k] v) => (bool d, float[m] w) {
        d = Identity (c) w = Concat <axis = 0> (v, v) }>
}"""

FUNCTION = """g (float[4] x) => (float[4] y) { a = own.twice (x) y = own.twice (a) }
<domain: "own", opset_import: ["" : 17]> twice (v) => (w) { w = Add (v, v) }"""

SIZES = """g (float[8] x) => (int64[1, n] y) { r = Relu (x) z = Cast <to = 9> (r) y = NonZero (z) }"""


def rewrite(text: str) -> str:
    model = onnx.parser.parse_model(TWO + text)
    report = surgery.run("generic", model, target="tensorrt-rtx-1.7", stages="load..rewrite")
    assert report.failure is None, report.failure
    return {s.name: s.summary for s in report.stages}["rewrite"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (FUNCTION, "1 function inlined"),
        ("g (float[4] x) => (float[4] y) { y = Relu (x) }", "nothing has to be rewritten"),
        (IF, "1 If resolved"),
        (GROWING, "1 Loop resolved"),
    ],
    ids=["function", "nothing", "if", "loop"],
)
def test_what_was_done_is_said(text: str, said: str) -> None:
    assert rewrite(text) == said


def test_sizes_that_got_bounds_are_said() -> None:
    assert rewrite(SIZES).endswith(", 1 output of open size bounded")
