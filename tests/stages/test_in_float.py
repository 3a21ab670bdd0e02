"""What quantised operators are said to be before rules make float arithmetic of them."""

from __future__ import annotations

import onnx_graphsurgeon as gs
import pytest
from onnx import parser

from surgery.stages.in_float import quantised


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float8e4m3fn", "float8e5m2", "int4", "uint4"])
def test_a_dtype_that_numpy_lacks_has_a_name_too(dtype: str) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 23]> g ({dtype}[N, 8] x) => (float[N, 8] y) <float s = {{0.1}}>
        {{ y = DequantizeLinear (x, s) }}"""
    assert quantised(gs.import_onnx(parser.parse_model(text))) == {"y": dtype}
