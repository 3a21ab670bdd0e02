"""Whole runs on small real models: results, failures, files, exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import surgery
from surgery.config import PipelineConfig
from surgery.graph.evaluate import Evaluator
from surgery.report import Report
from surgery.targets import resolve_target
from tests.heads.ssd_models import detector

STAGES: list[Any] = [
    "inspect", "fold", {"substitute": {"detections": {"cut": "head"}}}, "parse", "build", "verify", "save",
]  # fmt: skip
CUTS = {"head": {"scope": ["Postprocessor"], "grow": "forward"}}


def pipeline(**changes: Any) -> PipelineConfig:
    data = {"schema": 1, "name": "small", "cuts": CUTS, "stages": STAGES, **changes}
    return PipelineConfig.model_validate(data)


def run(model: onnx.ModelProto | None = None, output: Path | None = None, **options: Any) -> Report:
    config = options.pop("config", None) or pipeline()
    return surgery.run(config, model or detector(), output=output, **options)


def test_a_run_leaves_everything(tmp_path: Path) -> None:
    report = run(output=tmp_path)
    assert report.failure is None
    assert (report.exit_code, report.status) == (0, "ok-unverified-engine")
    target = resolve_target(None).name
    written = {p.name for p in tmp_path.iterdir()}
    assert written >= {"detector.onnx", f"detector.{target}.onnx", "detector.engine", "report.json"}
    assert not [n for n in written if n.startswith(".")]
    data = json.loads((tmp_path / "report.json").read_text())
    assert data == report.to_dict()
    for entry in data["artifacts"].values():
        if entry:
            assert hashlib.sha256((tmp_path / entry["path"]).read_bytes()).hexdigest() == entry["sha256"]
    assert (tmp_path / "detector.engine").read_bytes() == report.engine
    assert data["verification"]["graph"]["status"] == "passed"
    assert len(data["verification"]["graph"]["cases"]) >= 3
    assert data["verification"]["engine"]["status"].startswith("not run: ")
    edit = data["edits"][0]
    assert edit["verified"] == "passed"
    assert edit["max_abs_error"] == 0.0
    assert edit["details"]["iou_threshold"] == pytest.approx(0.5)
    assert data["engine"]["bytes"] == len(report.engine or b"")
    assert {t["name"] for t in data["engine"]["inputs"]} == {"image"}


@pytest.mark.parametrize(
    "shape", ["2x4", (2, 4), ((2, 4), (2, 4), (2, 4)), "2x4:2x4:2x4", np.array([2, 4]).tolist()]
)
def test_shapes_are_taken_as_people_write_them(shape: Any) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n, 4] x) => (float[n, 4] y) { y = Relu (x) }'
    )
    report = surgery.run("generic", model, shapes={"x": shape}, stages="load..substitute,verify")
    assert report.failure is None, report.failure
    assert [report.profiles[0][k] for k in ("min", "opt", "max")] == [[2, 4]] * 3


@pytest.mark.parametrize("shape", ["2x", "1:2", (1, 2.5), ((1, 4), (1, 4)), None, {"x": 1}])
def test_what_is_no_shape_is_told_so(shape: Any) -> None:
    report = surgery.run("generic", detector(), shapes={"image": shape})
    assert report.failure is not None
    assert (report.exit_code, report.failure.code) == (2, "bad-shape")
    assert "shapes['image']" in report.failure.message
    assert "'1x3x224x224'" in (report.failure.fix or "")


def test_a_failure_before_the_first_stage_leaves_what_it_lists(tmp_path: Path) -> None:
    from surgery.cli.summary import summary

    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1, 4] x) => (float[1, 4] y) { y = Softmax <axis = 0> (x) }'
    )
    for _ in range(2):
        report = surgery.run("generic", model, overrides={"batch": "dynamic"}, output=tmp_path)
        assert report.failure is not None
        assert (report.exit_code, report.failure.code, report.stages) == (4, "no-batch", [])
        assert {p.name for p in tmp_path.iterdir()} == {"report.json", "g.failed.onnx"}
        assert json.loads((tmp_path / "report.json").read_text()) == report.to_dict()
        assert report.previous is None  # what is written anew is of no earlier run
    listed = summary(report, tmp_path)
    assert "report.json" in listed
    assert "g.failed.onnx" in listed
    (tmp_path / "report.json").unlink()
    assert "report.json" not in summary(report, tmp_path)


@pytest.mark.parametrize(("shapes", "derived"), [(None, True), ({"x": "1x4:2x4:8x4"}, False)])
def test_ranges_that_nobody_asked_for_are_said_to_be_derived(shapes: Any, derived: bool) -> None:
    from surgery.cli.summary import summary

    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n, 4] x) => (float[n, 4] y) { y = Relu (x) }'
    )
    said = summary(surgery.run("generic", model, shapes=shapes, stages="load..substitute,verify"), None)
    assert f"shapes   x: 1x4 to {'4x4, best at 1x4' if derived else '8x4, best at 2x4'}" in said
    assert ("--shape NAME=MIN:OPT:MAX" in said) is derived


def test_without_an_output_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = run()
    assert report.exit_code == 0
    assert report.engine
    assert isinstance(report.model, onnx.ModelProto)
    assert list(tmp_path.iterdir()) == []


def test_the_given_model_is_not_changed() -> None:
    model = detector()
    before = model.SerializeToString(deterministic=True)
    run(model)
    assert model.SerializeToString(deterministic=True) == before


def test_a_target_that_is_not_installed_is_prepared(tmp_path: Path) -> None:
    report = run(output=tmp_path, target="tensorrt-10.16")
    assert (report.exit_code, report.status, report.engine) == (0, "prepared", None)
    assert report.artifacts["engine"] is None
    assert report.verification["graph"]["status"] == "passed"
    made = onnx.load(tmp_path / "detector.tensorrt-10.16.onnx")
    assert [n.domain for n in made.graph.node if n.op_type == "BatchedNMSDynamic_TRT"] == [""]
    assert not made.functions
    portable = onnx.load(tmp_path / "detector.onnx")
    image = np.zeros((1, 4, 4, 3), np.float32)
    want = Evaluator(detector()).run({"image": image})
    got = Evaluator(portable).run({"image": image})
    for name, value in want.items():
        np.testing.assert_array_equal(value, got[name])


def test_stages_that_are_left_out_are_said_so(tmp_path: Path) -> None:
    report = run(output=tmp_path, stages="load..substitute,save")
    assert report.exit_code == 0
    assert [s.name for s in report.stages] == ["inspect", "fold", "substitute", "save"]
    for level in ("graph", "engine"):
        assert report.verification[level]["status"] == "not run: stage not requested"
    assert not (tmp_path / "detector.engine").exists()


def test_overridden_thresholds_are_what_the_result_has() -> None:
    config = pipeline(
        stages=[
            "fold",
            {"substitute": {"detections": {"cut": "head", "score_threshold": 0.6, "max_per_class": 3}}},
            "verify",
        ]
    )
    report = run(config=config)
    assert report.failure is None
    details = report.edits[0].details
    assert details["score_threshold"] == pytest.approx(0.6)
    assert details["max_per_class"] == 3
    assert details["overridden"] == {"score_threshold": 0.6, "max_per_class": 3}
    assert any("overrides" in w for w in report.warnings)


def test_boundary_tensors_point_at_the_same_head() -> None:
    model = detector()
    names = ["num_detections", "detection_boxes", "detection_scores", "detection_classes"]
    cuts = {"head": {"inputs": ["raw_boxes", "raw_scores"], "outputs": names}}
    report = run(model, config=pipeline(cuts=cuts))
    assert report.failure is None
    assert report.cuts[0].found_by.startswith("boundary")
    assert report.edits[0].details["num_classes"] == 3


def nothing_written(folder: Path) -> bool:
    return not folder.exists() or not list(folder.iterdir())


def truncated(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(detector().SerializeToString()[:-200])
    return path


def text(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_text("this is no model\n" * 20)
    return path


def without_weights(folder: Path) -> Path:
    model = detector()
    tensor = next(t for t in model.graph.initializer if t.dims and len(t.raw_data) > 4000)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("make", [truncated, text, without_weights, lambda f: f / "nowhere.onnx"])
def test_unreadable_models_exit_with_3(make: Any, tmp_path: Path) -> None:
    report = run(make(tmp_path), output=tmp_path / "out")
    assert report.exit_code == 3
    assert report.failure is not None
    assert report.failure.fix
    assert nothing_written(tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"shapes": {"nowhere": ((1,), (1,), (1,))}}, "unknown-input"),
        ({"shapes": {"image": ((2, 4, 4, 3), (1, 4, 4, 3), (1, 4, 4, 3))}}, "profile-order"),
        ({"shapes": {"image": ((2, 4, 4, 3),) * 3}}, "profile-fixed-dim"),
        ({"constants": {"nowhere": 1}}, "unknown-input"),
        ({"inputs": {"nowhere": np.zeros(1)}}, "unknown-input"),
        ({"target": "tensorrt-99"}, "unknown-target"),
        ({"stages": "inspect..nowhere"}, "unknown-stage"),
        ({"config": pipeline(cuts={"head": {"scope": "Nowhere"}})}, "cut-not-found"),
        (
            {"config": pipeline(stages=["fold", {"substitute": {"detections": {"cut": "heads"}}}])},
            "unknown-cut",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_wrong_options_exit_with_2(options: dict[str, Any], code: str, tmp_path: Path) -> None:
    report = run(output=tmp_path / "out", **options)
    assert report.failure is not None
    assert (report.exit_code, report.failure.code) == (2, code)
    assert report.failure.message
    assert nothing_written(tmp_path / "out")


@pytest.mark.parametrize("place", ["file/out", "/proc/nothing/out"])
def test_an_output_that_cannot_be_written_exits_with_2(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    report = run(output=tmp_path / place)
    assert report.exit_code == 2
    assert report.failure is not None
    assert report.stages == []  # found before any work was done


def test_a_model_the_parser_refuses_exits_with_4(tmp_path: Path) -> None:
    source = '<ir_version: 8, opset_import: ["" : 17]> g (float[2, 2] x) => (float y) { y = Det (x) }'
    config = pipeline(stages=["inspect", "parse", "build", "save"])
    report = run(onnx.parser.parse_model(source), output=tmp_path, config=config)
    assert report.exit_code == 4
    assert report.failure is not None
    assert "Det" in report.failure.message
    assert {p.name for p in tmp_path.iterdir()} == {"report.json", "g.failed.onnx", "g.failed.log"}
    assert report.unsupported["before"][0]["op"] == "Det"
    assert report.unsupported["after"][0]["op"] == "Det"
    assert report.engine is None


def test_a_model_the_builder_refuses_exits_with_5(tmp_path: Path) -> None:
    config = pipeline(stages=["parse", "build", "save"])
    report = run(output=tmp_path, config=config, model=nms_only())
    assert report.exit_code == 5
    assert report.failure is not None
    assert report.failure.code == "build-refused"
    assert not list(tmp_path.glob("*.engine"))
    assert (tmp_path / "report.json").is_file()


def nms_only() -> onnx.ModelProto:
    return onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 8, 4] b, float[1, 1, 8] s) => (int64[k, 3] y) {
            m = Constant <value = int64 {4}> ()
            y = NonMaxSuppression (b, s, m)
        }
        """
    )


def head_only() -> onnx.ModelProto:
    """The head of a detector, boxes and scores being its inputs."""
    model = detector(background=False, per_class=9)
    keep = [n for n in model.graph.node if n.name.startswith(("Postprocessor", "nms"))]
    made_boxes = next(i for i, n in enumerate(keep) if "raw_boxes" in n.output)
    keep = [n for n in keep[made_boxes + 1 :] if "raw_scores" not in n.output]
    del model.graph.node[:]
    model.graph.node.extend(keep)
    del model.graph.input[:]
    kept = [o for o in model.graph.output if not o.name.startswith("raw")]
    inputs = [o for o in model.graph.output if o.name.startswith("raw")]
    model.graph.input.extend(inputs)
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return model


def boxes_at_the_threshold() -> dict[str, np.ndarray]:
    """Four pairs of boxes whose IoU is the threshold itself: kept by `>`, suppressed by `>=`."""
    boxes = np.zeros((1, 24, 4), np.float32)
    scores = np.zeros((1, 24, 3), np.float32)
    for k in range(4):
        low, left = 0.5 * (k // 2), 0.5 * (k % 2)
        boxes[0, 2 * k] = [low, left, low + 0.25, left + 0.25]
        boxes[0, 2 * k + 1] = [low, left, low + 0.125, left + 0.25]
        scores[0, 2 * k, 0], scores[0, 2 * k + 1, 0] = 0.9 - 0.01 * k, 0.7 - 0.01 * k
    return {"raw_boxes": boxes, "raw_scores": scores}


def test_a_result_that_differs_exits_with_6_and_leaves_the_earlier_one(tmp_path: Path) -> None:
    model = head_only()
    good = run(model, output=tmp_path)
    assert good.failure is None
    engine = (tmp_path / "detector.engine").read_bytes()
    # EfficientNMS suppresses at IoU >= threshold, the graph at IoU > threshold.
    report = run(model, output=tmp_path, target="tensorrt-11.4", inputs=boxes_at_the_threshold())
    assert report.failure is not None
    assert (report.exit_code, report.failure.stage) == (6, "verify")
    assert report.engine is None
    assert (tmp_path / "detector.engine").read_bytes() == engine
    assert (tmp_path / "detector.failed.onnx").is_file()
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["verification"]["graph"]["status"] == "failed"
    assert "detector.engine" in data["previous"]["files"]
    # The native form has the strict comparison of the graph.
    assert run(model, inputs=boxes_at_the_threshold()).exit_code == 0


def test_a_form_that_is_not_proven_gives_way_to_the_next() -> None:
    """BatchedNMS keeps no more rows than one class has boxes: too few for this head."""
    report = run(head_only(), target="tensorrt-10.16")
    assert report.failure is None
    assert report.edits[0].details["plugin"] == "EfficientNMS_Explicit_TF_TRT"
    assert any(w.startswith("BatchedNMSDynamic_TRT is not used") for w in report.warnings)


def test_an_engine_is_required_but_there_is_no_gpu(tmp_path: Path) -> None:
    from surgery.trt.session import Worker

    target = resolve_target(None)
    with Worker(target.flavour) as worker:
        if worker.environment().gpu is not None:
            pytest.skip("there is a GPU")
    report = run(output=tmp_path / "out", require="engine")
    assert report.exit_code == 7
    assert report.failure is not None
    assert nothing_written(tmp_path / "out")


def test_events_tell_the_stages_in_order() -> None:
    from surgery.pipeline import StageFinished, StageStarted

    events: list[Any] = []
    run(listener=events.append)
    names = ["inspect", "fold", "substitute", "parse", "build", "verify", "save"]
    assert [e.name for e in events if isinstance(e, StageStarted)] == names
    assert [e.name for e in events if isinstance(e, StageFinished)] == names


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.stages.test_run import run
from pathlib import Path
report = run(output=Path(sys.argv[2]))
assert report.exit_code == 0, report.failure
"""


def start(folder: Path, seed: str) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, root, str(folder)],
        env={**os.environ, "PYTHONHASHSEED": seed},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    for seed in ("1", "2"):
        process = start(tmp_path / seed, seed)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()
    for path in sorted((tmp_path / "1").glob("*.onnx")):
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes(), path.name
    one, two = (json.loads((tmp_path / s / "report.json").read_text()) for s in "12")
    for report in (one, two):
        for stage in report["stages"]:
            stage.pop("seconds")
        report["artifacts"]["log"] = report["artifacts"]["engine"] = report["engine"] = None
        for entry in filter(None, report["artifacts"].values()):
            entry["path"] = Path(entry["path"]).name
    assert one == two


@pytest.mark.slow
def test_a_killed_run_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    import time

    folder = tmp_path / "out"
    process = start(folder, "0")
    began = time.monotonic()
    process.communicate(timeout=300)
    assert process.returncode == 0
    length = time.monotonic() - began
    sizes = {p.name: p.stat().st_size for p in folder.iterdir()}
    onnx_files = {p.name: p.read_bytes() for p in folder.glob("*.onnx")}
    for part in np.random.default_rng(0).uniform(0.1, 1.02, 10):
        process = start(folder, "0")
        time.sleep(float(part) * length)
        process.kill()
        process.communicate()
        for path in folder.iterdir():
            assert path.name in sizes, path.name
            if path.suffix == ".onnx":
                assert path.read_bytes() == onnx_files[path.name]
        json.loads((folder / "report.json").read_text())
    process = start(folder, "0")
    process.communicate(timeout=300)
    assert process.returncode == 0


def test_what_preprocessing_is_cut_is_kept_as_it_was(tmp_path: Path) -> None:
    """pre.onnx is made of the original's own nodes and weights."""
    from tests.heads.ssd_models import MODELS

    path = MODELS / "ssd_mobilenet_v1_coco_300.onnx"
    report = surgery.run("ssd", path, output=tmp_path, stages="inspect..substitute,save")
    assert report.failure is None
    original = onnx.load(path)
    pre = onnx.load(tmp_path / "ssd_mobilenet_v1_coco_300.pre.onnx")
    nodes = {n.name: n for n in original.graph.node}
    weights = {t.name: numpy_helper.to_array(t) for t in original.graph.initializer}
    assert len(pre.graph.node) == 4
    for node in pre.graph.node:
        assert nodes[node.name].op_type == node.op_type
        assert list(nodes[node.name].attribute) == list(node.attribute)
    for tensor in pre.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), weights[tensor.name])
    change = report.io_changes[0]
    assert change.before["name"] == "image_tensor:0"
    assert change.inverse is not None
    assert change.inverse["model"] == "ssd_mobilenet_v1_coco_300.pre.onnx"
    assert [o.name for o in pre.graph.output] == ["image"]


def test_a_profile_at_which_the_model_does_not_run_is_found_before_the_build(tmp_path: Path) -> None:
    """Four rows are needed: the reshape fixes them, though the input declares a free dim."""
    body = "s = Constant <value = int64[2] {2, 6}> () y = Reshape (x, s)"
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[n, 3] x) => (float[2, 6] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    stages = PipelineConfig.model_validate(
        {"schema": 1, "name": "plain", "stages": ["inspect", "parse", "build", "verify", "save"]}
    )
    shapes = {"x": ((1, 3), (4, 3), (4, 3))}
    report = surgery.run(stages, model, output=tmp_path / "out", shapes=shapes)
    assert report.exit_code == 2
    assert report.failure is not None
    assert report.failure.code == "profile-impossible"
    assert "--shape x" in report.failure.message
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
