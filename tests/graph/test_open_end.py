"""Which loops come to an end whatever their values are."""

from __future__ import annotations

import onnx.parser
import pytest

from surgery.graph.open_end import has_open_loop

BODY = (
    "<body = b (int64 k, bool c, float[4] t) => (bool go, float[4] t2) { t2 = Relu (t) go = Identity (c) }>"
)
CONSTANTS = (
    "int64 few = {5}, int64 nought = {0}, int64 forever = {9223372036854775807}, "
    "int64[1] zero = {0}, int64[1] one = {1}, int64[1] end = {9223372036854775807}, bool yes = {1}"
)


def loop(rounds: str, name: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 17]> g (float[4] x, float[n] z, int64 given, bool flag)
          => (float[4] y)
        <{CONSTANTS}> {{ {rounds} y = Loop ({name}, yes, x) {BODY} }}"""
    )


@pytest.mark.parametrize(
    ("rounds", "name"),
    [
        ("", "few"),
        ("m = Constant <value_int = 7> ()", "m"),
        ("m = Size (z)", "m"),
        ("s = Shape (z) m = Gather <axis = 0> (s, nought)", "m"),
        ("s = Shape (z) p = Slice (s, zero, end) q = Squeeze (p) m = Add (q, few)", "m"),
        ("m = Min (given, few)", "m"),
        ("nz = NonZero (z) m = Size (nz)", "m"),
    ],
)
def test_sizes_and_small_constants_are_a_bound(rounds: str, name: str) -> None:
    assert not has_open_loop(loop(rounds, name))


@pytest.mark.parametrize(
    ("rounds", "name"),
    [
        ("", "forever"),
        ("", ""),
        ("", "given"),
        ("m = Constant <value_int = 9223372036854775807> ()", "m"),
        ("m = Add (given, few)", "m"),
        ("m = Max (given, few)", "m"),
        ("m = Where (flag, few, forever)", "m"),
        (
            "m = If (flag) <then_branch = h () => (int64 o) { o = Identity (few) }, "
            "else_branch = e () => (int64 p) { p = Identity (forever) }>",
            "m",
        ),
    ],
)
def test_values_are_none(rounds: str, name: str) -> None:
    assert has_open_loop(loop(rounds, name))


@pytest.mark.parametrize(("inner", "want"), [("few", False), ("j", True), ("forever", True)])
def test_loops_in_bodies_count(inner: str, want: bool) -> None:
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 17]> g (float[4] x, int64 given) => (float[4] y, int64 last)
        <{CONSTANTS}> {{ y, last = Loop (few, yes, x, given) <body = a
          (int64 i, bool w, float[4] u, int64 j) => (bool on, float[4] u2, int64 j2)
          {{ u2 = Loop ({inner}, yes, u) {BODY} j2 = Add (j, j) on = Identity (w) }}> }}"""
    )
    assert has_open_loop(model) is want


def test_loops_in_functions_count() -> None:
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 17, "own" : 1]> g (float[4] x, int64 m) => (float[4] y) {{
          y = own.again (x, m) }}
        <domain: "own", opset_import: ["" : 17]> again (a, m) => (b) {{
          yes = Constant <value = bool {{1}}> () b = Loop (m, yes, a) {BODY} }}"""
    )
    assert has_open_loop(model)
