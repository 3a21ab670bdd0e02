"""Models in a newer operator set compute what they did."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from surgery.graph.evaluate import Evaluator
from surgery.graph.infer import dims_of
from surgery.graph.upgrade import upgrade


def resized(opset: int, node: str, scales: tuple[float, ...]) -> onnx.ModelProto:
    values = ", ".join(map(str, scales))
    return onnx.parser.parse_model(
        f"""<ir_version: 5, opset_import: ["" : {opset}]>
        resized (float[1, 1, 7, 4] x) => (float[a, b, c, d] y) <float[4] s = {{{values}}}> {{ y = {node} }}"""
    )


@pytest.mark.parametrize(
    ("opset", "node", "scales"),
    [
        (9, "Upsample (x, s)", (1, 1, 2, 3)),
        (9, "Upsample (x, s)", (1, 1, 1.6, 1)),
        (9, 'Upsample <mode = "linear"> (x, s)', (1, 1, 2, 3)),
        (10, "Resize (x, s)", (1, 1, 1.6, 1.5)),
        (10, "Resize (x, s)", (1, 1, 0.6, 0.5)),
        (10, 'Resize <mode = "linear"> (x, s)', (1, 1, 0.6, 1.5)),
        (8, "Upsample <scales = [1.0, 1.0, 2.0, 1.5]> (x)", (1, 1, 1, 1)),
    ],
)
def test_the_first_resize_keeps_its_coordinates(opset: int, node: str, scales: tuple[float, ...]) -> None:
    model = resized(opset, node, scales)
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 1, 7, 4)).astype(np.float32)}
    expected = Evaluator(model).run(feeds)["y"]
    found = upgrade(model, 13)
    onnx.checker.check_model(found)
    np.testing.assert_array_equal(Evaluator(found).run(feeds)["y"], expected)


def test_a_resize_that_newer_versions_cannot_say_is_told() -> None:
    with pytest.raises(ValueError, match="grows along one axis and shrinks along another"):
        upgrade(resized(10, "Resize (x, s)", (1, 1, 0.6, 1.5)), 13)


@pytest.mark.parametrize("batch", ["n", "2"])
@pytest.mark.parametrize(
    ("operand", "attributes", "shape"),
    [
        ("float[3]", "broadcast = 1, axis = 1", (3, 1)),
        ("float[3]", "broadcast = 1, axis = -2", (3, 1)),
        ("float[3, 4]", "broadcast = 1, axis = 1", (3, 4)),
        ("float[2]", "broadcast = 1, axis = 0", (2, 1, 1)),
        ("float[2, 3]", "broadcast = 1, axis = 0", (2, 3, 1)),
        ("float[4]", "broadcast = 1", (4,)),
        ("float[1]", "broadcast = 1", (1,)),
    ],
)
def test_operands_of_the_first_operator_sets_lie_along_an_axis(
    operand: str, attributes: str, shape: tuple[int, ...], batch: str
) -> None:
    model = onnx.parser.parse_model(
        f"""<ir_version: 3, opset_import: ["" : 6]>
        g (float[{batch}, 3, 4] x, {operand} b) => (float[{batch}, 3, 4] y)
        {{ c = Neg (x) y = Sub <{attributes}> (c, b) }}"""
    )
    found = upgrade(model, 13)
    onnx.checker.check_model(found)
    assert all(v.type.tensor_type.elem_type for v in found.graph.value_info)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 4)).astype(np.float32)
    b = rng.standard_normal(dims_of(model.graph.input[1])).astype(np.float32)
    np.testing.assert_array_equal(Evaluator(found).run({"x": x, "b": b})["y"], -x - b.reshape(shape))
