"""`auto` takes rules alone where a family's own part is not found or read, and says what failed before."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

import surgery
from surgery.config import PipelineConfig, load_pipeline
from tests.heads.ssd_models import detector

TARGET = "tensorrt-11.4"


def without_preprocessor() -> onnx.ModelProto:
    """A detector with the scopes of the Object Detection API behind the network, and none in front."""
    return detector()


def test_rules_do_what_the_family_does_not_find() -> None:
    model = without_preprocessor()
    alone = surgery.run("ssd", model, target=TARGET)
    assert alone.failure is not None
    assert alone.failure.code == "cut-not-found"
    report = surgery.run("auto", model, target=TARGET)
    assert report.failure is None, report.failure
    assert report.verification["graph"]["status"] == "passed"
    assert report.pipeline["name"] == "generic"
    assert report.pipeline["instead_of"] == "ssd"
    assert report.pipeline["chosen_by"] == "auto"
    assert "cut 'preprocessor' matches nothing" in report.pipeline["not_taken"]
    assert any("rules alone: cut 'preprocessor'" in w for w in report.warnings)


def test_where_both_fail_both_reasons_are_told() -> None:
    model = without_preprocessor()
    model.graph.node.append(helper.make_node("RandomNormal", [], ["noise"], name="noise", shape=[1, 2]))
    model.graph.node.append(helper.make_node("Multinomial", ["noise"], ["drawn"], name="draw", sample_size=3))
    model.graph.output.append(helper.make_tensor_value_info("drawn", TensorProto.INT32, [1, 3]))
    report = surgery.run("auto", model, target=TARGET)
    assert report.failure is not None
    assert report.failure.code != "cut-not-found"
    assert "the pipeline ssd failed before: cut 'preprocessor' matches nothing" in (
        report.failure.cause or ""
    )


@pytest.mark.parametrize("change", ["overrides", "named"])
def test_what_somebody_asked_for_is_not_left_out(change: str) -> None:
    model = without_preprocessor()
    if change == "overrides":
        report = surgery.run(
            "auto", model, target=TARGET, overrides={"substitute.detections.iou_threshold": 0.4}
        )
    else:
        cuts = {"preprocessor": {"scope": ["**/Preprocessor"]}}
        config = PipelineConfig.model_validate(
            {"schema": 1, "choose": True, "extends": "generic", "cuts": cuts, "stages": ["parse"]}
        )
        assert load_pipeline("auto").choose
        report = surgery.run(config, model, target=TARGET)
    assert report.failure is not None
    assert report.failure.code == "cut-not-found"
