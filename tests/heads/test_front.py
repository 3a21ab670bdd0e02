"""Cutting preprocessing off, and keeping it with its loops resolved, on a real export."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from surgery.errors import ConversionError
from surgery.graph.convert import export_graph, import_graph
from surgery.graph.cut import cut_by_boundary, cut_by_scope
from surgery.graph.evaluate import Evaluator
from surgery.graph.fold import fold_constants
from surgery.graph.load import load_model
from surgery.graph.taint import tainted_by
from surgery.graph.view import View
from surgery.heads.front import cut_front, keep_front
from tests.heads.ssd_models import MODELS

DYN = MODELS / "ssd_mobilenet_v2_coco_dyn.onnx"
SIZES = ((1, 300, 300, 3), (2, 240, 400, 3))


def images(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


def test_prefix_and_rest_compute_the_original() -> None:
    source = load_model(DYN)
    graph, header = import_graph(source.proto)
    cut = cut_by_scope(View(graph), "pre", ["Preprocessor"], grow="back")
    assert cut is not None
    front = cut_front(graph, cut, name="image", seed=0)
    assert [i.name for i in front.inputs] == ["image"]
    assert front.inputs[0].shape[1:] == (3, 300, 300)
    assert isinstance(front.inputs[0].shape[0], str)  # the batch stays free
    assert front.constants == ("Preprocessor/map/TensorArrayStack_1/TensorArrayGatherV3:0",)
    assert front.removed_inputs == ("image_tensor:0",)
    original, pre, rest = (
        Evaluator(source.proto),
        Evaluator(front.pre),
        Evaluator(export_graph(graph, header)),
    )
    for shape in SIZES:
        x = {"image_tensor:0": images(shape)}
        want = original.run(x)
        got = rest.run(pre.run(x))
        for name in want:
            np.testing.assert_array_equal(want[name], got[name], err_msg=name)


COUNTED = """<ir_version: 8, opset_import: ["" : 17]>
g (uint8[n, h, 4, 3] x) => (float[n, h, 4, 3] y, float[m, 2] z) <float[1, 2] row = {1, 2}, int64[1] one = {1}> {
    pre = Cast <to = 1> (x) y = Relu (pre) s = Shape (x) AXES
    c = Concat <axis = 0> (b, one) z = Tile (row, c) }"""


@pytest.mark.parametrize(
    ("axes", "gone"),
    [
        ("i = Constant <value = int64[1] {0}> () b = Gather (s, i)", True),
        (
            "i = Constant <value = int64[1] {0}> () e = Constant <value = int64[1] {1}> () b = Slice (s, i, e)",
            True,
        ),
        (
            "i = Constant <value = int64[1] {1}> () b = Gather (s, i)",
            False,
        ),  # a height, which the cut may change
    ],
)
def test_an_input_that_only_counts_samples_goes_with_the_front(axes: str, gone: bool) -> None:
    model = onnx.parser.parse_model(COUNTED.replace("AXES", axes))
    graph, header = import_graph(model)
    fold_constants(graph)
    cut = cut_by_boundary(View(graph), "pre", ["x"], ["pre"])
    assert cut is not None
    front = cut_front(graph, cut, name="image", seed=0)
    assert front.removed_inputs == (("x",) if gone else ())
    original, pre, rest = Evaluator(model), Evaluator(front.pre), Evaluator(export_graph(graph, header))
    x = {"x": np.random.default_rng(3).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)}
    want, got = original.run(x), rest.run({**x, **pre.run(x)})
    for name in want:
        np.testing.assert_array_equal(want[name], got[name], err_msg=name)


def test_loops_over_images_are_resolved_in_place() -> None:
    source = load_model(DYN)
    graph, header = import_graph(source.proto)
    cut = cut_by_scope(View(graph), "pre", ["Preprocessor"], grow="back")
    assert cut is not None
    provenance: dict[str, dict[str, str]] = {}
    loops = keep_front(graph, cut, provenance, seed=0)
    assert [(n.form, n.max_abs_error) for n in loops] == [("batch", 0.0)]
    assert provenance
    fold_constants(graph)
    kept = export_graph(graph, header)
    before = sum(n.op_type == "Loop" for n in source.proto.graph.node)
    assert sum(n.op_type == "Loop" for n in kept.graph.node) == before - 1
    original, result = Evaluator(source.proto), Evaluator(kept)
    for shape in SIZES:
        x = {"image_tensor:0": images(shape)}
        want, got = original.run(x), result.run(x)
        for name in want:
            np.testing.assert_array_equal(want[name], got[name], err_msg=name)


def test_only_shapes_reach_the_true_image_size() -> None:
    graph, _ = import_graph(load_model(DYN).proto)
    tainted = tainted_by(View(graph), ["image_tensor:0"])
    assert "Preprocessor/map/TensorArrayStack/TensorArrayGatherV3:0" in tainted
    assert "Preprocessor/map/TensorArrayStack_1/TensorArrayGatherV3:0" not in tainted
    assert "detection_boxes:0" in tainted


def test_a_cut_in_the_middle_is_not_at_the_front() -> None:
    graph, _ = import_graph(load_model(DYN).proto)
    cut = cut_by_scope(View(graph), "features", ["FeatureExtractor"])
    assert cut is not None
    with pytest.raises(ConversionError, match="not at the front"):
        cut_front(graph, cut, name=None, seed=0)
