"""What the caller gives beside the pipeline is held against the model before any stage runs."""

from __future__ import annotations

import errno
import resource
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import surgery
from surgery.config import PipelineConfig
from surgery.pipeline import Event, StageStarted
from surgery.report import Report
from surgery.report.write import Staged

STAGES = PipelineConfig.model_validate(
    {"stages": ["inspect", "fold", {"rewrite": {"rules": True}}, "verify"]}
)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    """Looks up ids in a table of 30, adds a table of 12 positions, and a mask of the same length."""
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (int64[n, seq] ids, float[n, seq] mask) => (float[n, seq, 4] y) {
        words = Gather <axis = 0> (table, ids)
        shape = Shape <start = 1, end = 2> (ids)
        zero = Constant <value_ints = [0]> ()
        here = Slice (positions, zero, shape)
        sum = Add (words, here)
        last = Constant <value_ints = [-1]> ()
        wide = Unsqueeze (mask, last)
        y = Mul (sum, wide)
    }"""
    made = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, rows in (("table", 30), ("positions", 12)):
        values = rng.normal(size=(rows, 4)).astype(np.float32)
        made.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return made


def run(model: onnx.ModelProto, **options: Any) -> tuple[Report, list[str]]:
    stages: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, StageStarted):
            stages.append(event.name)

    return surgery.run(STAGES, model, target="tensorrt-10.16", listener=listen, **options), stages


def feeds(ids: Any = None, mask: Any = None) -> dict[str, Any]:
    ids = np.ones((2, 5), np.int64) if ids is None else ids
    return {"ids": ids, "mask": np.ones(np.shape(ids), np.float32) if mask is None else mask}


WRONG: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "name": ({**feeds(), "idz": np.ones(1)}, "unknown-input", ("'idz'", "did you mean 'ids'?")),
    "missing": ({"ids": feeds()["ids"]}, "missing-input", ("'mask'", "float32[n, seq]")),
    "dtype": (feeds(np.ones((2, 5), np.int32)), "input-dtype", ("'ids'", "int32", "int64")),
    "rank": (feeds(np.ones(5, np.int64)), "input-shape", ("'ids'", "[5]", "[n, seq]", "ids[None]")),
    "sizes": (feeds(mask=np.ones((2, 7), np.float32)), "input-refused", ("'seq'", "5", "7", "'mask'")),
    "too long": (
        feeds(np.ones((1, 13), np.int64)),
        "input-refused",
        ("ids [1, 13]", "runs with", "12 by 13"),
    ),
    "too large": (feeds(np.full((1, 5), 30)), "input-refused", ("'ids'", "30 to 30", "from 0 to 29")),
    "too low": (feeds(np.full((1, 5), -31)), "input-refused", ("'ids'", "-31 to -31", "from 0 to 29")),
}


@pytest.mark.parametrize("name", WRONG)
def test_inputs_that_the_model_does_not_take_are_a_usage_error(name: str, model: onnx.ModelProto) -> None:
    inputs, code, said = WRONG[name]
    report, stages = run(model, inputs=inputs)
    assert report.failure is not None
    assert (report.exit_code, report.failure.code, stages) == (2, code, [])
    text = f"{report.failure.message}\n{report.failure.cause}\n{report.failure.fix}"
    assert not [word for word in said if word not in text], text
    assert "/onnxruntime/" not in text


def test_inputs_that_the_model_takes_pass(model: onnx.ModelProto) -> None:
    report, _ = run(model, inputs=feeds(np.full((1, 12), -30)))
    assert report.exit_code == 0, report.failure


def test_derived_ranges_hold_the_sizes_of_the_inputs(model: onnx.ModelProto) -> None:
    report, _ = run(model, inputs=feeds(np.ones((9, 11), np.int64)))
    assert report.exit_code == 0, report.failure
    for profile in report.profiles:
        assert profile["min"][0] <= 9 <= profile["max"][0]
        assert profile["min"][1] <= 11 <= profile["max"][1] <= 12


SHAPES: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown": ({"idz": ((1, 4),) * 3}, "unknown-input", "did you mean 'ids'?"),
    "rank": ({"ids": ((4,),) * 3}, "profile-rank", "1 dim; the input has 2"),
    "too long": ({"ids": ((1, 13),) * 3}, "profile-impossible", "does not run at this shape"),
    "too long at the end": ({"ids": ((1, 1), (1, 4), (1, 13))}, "profile-impossible", "at the max of its profile"),
    "two ranges": (
        {"ids": ((1, 4),) * 3, "mask": ((1, 5),) * 3}, "profile-conflict", "dim 'seq' has two ranges",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_that_the_model_does_not_take_are_found_first(name: str, model: onnx.ModelProto) -> None:
    shapes, code, said = SHAPES[name]
    report, stages = run(model, shapes=shapes)
    assert report.failure is not None
    assert (report.exit_code, report.failure.code, stages) == (2, code, [])
    assert said in f"{report.failure.message}\n{report.failure.fix}"


def test_the_shapes_that_a_message_names_are_shapes_that_the_model_takes(model: onnx.ModelProto) -> None:
    report, _ = run(model, shapes={"ids": ((1, 13),) * 3})
    assert report.failure is not None
    assert report.failure.fix is not None
    named = dict(word.split("=") for word in report.failure.fix.split() if "=" in word)
    shapes: dict[str, Any] = {
        n: [tuple(map(int, part.split("x"))) for part in text.split(":")] for n, text in named.items()
    }
    assert set(shapes) == {"ids", "mask"}
    again, _ = run(model, shapes=shapes)
    assert again.exit_code == 0, again.failure


def test_inputs_outside_of_the_shapes_that_were_asked_for(model: onnx.ModelProto) -> None:
    report, stages = run(model, inputs=feeds(), shapes={"ids": ((1, 4), (1, 4), (4, 4))})
    assert report.failure is not None
    assert (report.exit_code, report.failure.code, stages) == (2, "input-outside-profile", [])


OPEN = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[n, w] x, float limit) => (float[a, b] y) <int64 most = {9223372036854775807}, bool yes = {1}> {
    y = Loop (most, yes, x) <body = b (int64 k, bool c, float[p, q] t) => (bool go, float[p2, q2] t2) {
    t1 = Concat <axis = 0> (t, t) t2 = Concat <axis = 1> (t1, t1)
    a = ReduceMean <keepdims = 0> (t2) go = Less (a, limit) }> }"""


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"inputs": {"x": np.ones((2, 2), np.float32), "limit": np.asarray(9, np.float32)}}, None),
        ({"inputs": {"x": np.ones(2, np.float32), "limit": np.asarray(9, np.float32)}}, "input-shape"),
        ({"shapes": {"x": ((2, 2),) * 3}}, None),
        ({"shapes": {"x": ((2,),) * 3}}, "profile-rank"),
        ({"shapes": {"z": ((2, 2),) * 3}}, "unknown-input"),
    ],
)
def test_what_may_run_without_end_is_not_run_early(asked: dict[str, Any], code: str | None) -> None:
    # On these values every round takes four times the memory of the one before, and none is the last.
    config = PipelineConfig.model_validate({"stages": ["inspect"]})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = surgery.run(config, onnx.parser.parse_model(OPEN), target="tensorrt-10.16", **asked)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB
    assert (report.failure.code if report.failure else None) == code
    assert report.exit_code == (2 if code else 0)


def test_what_would_be_too_large_is_not_run_early() -> None:
    # 34 GB, from 200 KB of values.
    made = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]> g (float[n, 1] x, float[1, m] y) => (float[n, m] z) {
            z = Mul (x, y) }"""
    )
    values = {"x": np.ones((92682, 1), np.float32), "y": np.ones((1, 92682), np.float32)}
    config = PipelineConfig.model_validate({"stages": ["inspect"]})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = surgery.run(config, made, target="tensorrt-10.16", inputs=values)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB
    assert report.exit_code == 0, report.failure


def test_channels_are_what_the_weights_want() -> None:
    made = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]>
        g (float[n, c, h, w] x) => (float[n, k, h, w] y) {
            half = Constant <value_float = 0.5> ()
            s = Sub (x, half)
            y = Conv <pads = [1, 1, 1, 1]> (s, weights)
        }"""
    )
    weights = np.random.default_rng(0).normal(size=(4, 6, 3, 3)).astype(np.float32)
    made.graph.initializer.append(onnx.numpy_helper.from_array(weights, "weights"))
    report, _ = run(made)
    assert report.exit_code == 0, report.failure
    (profile,) = report.profiles
    assert {profile[end][1] for end in ("min", "opt", "max")} == {6}
    assert "c is 6, as Conv" in profile["source"]
    assert profile["min"][2] < profile["max"][2]


@pytest.mark.parametrize("stages", [None, "load..rewrite"])
def test_what_a_failure_keeps_from_being_verified_was_asked_for_and_not_reached(stages: str | None) -> None:
    config = PipelineConfig.model_validate(
        {
            "cuts": {"front": {"scope": "Preprocessor"}},
            "stages": ["inspect", {"rewrite": {"cut_input": {"cut": "front"}}}, "verify"],
        }
    )
    made = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[4] x) => (float[4] y) { y = Relu (x) }'
    )
    report = surgery.run(config, made, target="tensorrt-10.16", stages=stages)
    assert report.failure is not None
    assert (report.failure.stage, report.failure.code) == ("rewrite", "cut-not-found")
    asked = (
        "not run: not reached, the stage rewrite failed" if stages is None else "not run: stage not requested"
    )
    assert [report.verification[level]["status"] for level in ("graph", "engine")] == [asked, asked]


def test_an_engine_is_not_reached_where_the_graph_fails() -> None:
    # What is always empty proves nothing.
    made = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]> g (float[4] x) => (float[k] y) {
            two = Constant <value_ints = [2]> () y = Slice (x, two, two) }"""
    )
    config = PipelineConfig.model_validate({"stages": ["verify"]})
    report = surgery.run(config, made, target="tensorrt-10.16")
    assert (report.exit_code, report.verification["graph"]["status"]) == (6, "failed")
    assert report.verification["engine"]["status"] == "not run: not reached, the graph failed"


@pytest.mark.parametrize("where", ["add", "commit"])
def test_a_full_disk_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    made = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]> small (float[4] x) => (float[4] y) { y = Relu (x) }'
    )
    config = PipelineConfig.model_validate({"stages": ["verify", "save"]})
    assert surgery.run(config, made, target="tensorrt-10.16", output=tmp_path / "out").exit_code == 0
    before = {p: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert {p.name for p in before} == {"small.onnx", "small.tensorrt-10.16.onnx", "report.json"}

    real, calls = getattr(Staged, where), 0

    def refuse(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if where == "commit" or calls > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(Staged, where, refuse)
    made.graph.node[0].op_type = "Neg"
    for folder in (tmp_path / "out", tmp_path / "new"):
        calls = 0
        report = surgery.run(config, made, target="tensorrt-10.16", output=folder)
        assert report.failure is not None
        assert (report.exit_code, report.failure.code) == (2, "output-not-writable")
        assert "No space left" in report.failure.message
        assert not any(report.artifacts.values())
    assert {p: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
