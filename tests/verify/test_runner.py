from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import surgery
from surgery.trt.types import RunOutcome
from surgery.verify.cases import Case, make_cases
from surgery.verify.detections import DetectionPolicy
from surgery.verify.engine import verify_engine
from surgery.verify.runner import DetectionOutputs, RunError, Verification, run_onnx, verify_graph
from surgery.verify.tensors import Tolerance

CORPUS = Path(os.environ.get("SURGERY_CORPUS", Path(__file__).parents[3] / "shared" / "corpus" / "tfssd"))


def parse(text: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> ' + text)
    onnx.checker.check_model(model)
    return model


def affine(scale: float = 2.0, shift: float = 1.0, name: str = "y") -> onnx.ModelProto:
    return parse(f"""g (float[N] x) => (float[N] {name})
        <float s = {{{scale}}}, float t = {{{shift}}}> {{ m = Mul(x, s)  {name} = Add(m, t) }}""")


def feeds(count: int = 3, **others: Any) -> list[Case]:
    return [
        Case(f"c{k}", {"x": np.random.default_rng(k).normal(size=5).astype(np.float32), **others})
        for k in range(count)
    ]


def verify(one: Any, two: Any, pre: Any = None, cases: Any = None, **options: Any) -> Verification:
    return verify_graph(one, two, pre, cases or feeds(), None, {}, **options)


# Plain outputs


def test_a_model_agrees_with_itself() -> None:
    outcome = verify(affine(), affine())
    assert outcome.to_dict() == {
        "status": "passed",
        "reason": None,
        "cases": [
            {
                "name": f"c{k}",
                "shapes": {"x": [5]},
                "outputs": [
                    {
                        "name": "y",
                        "max_abs": 0.0,
                        "max_rel": 0.0,
                        "compare": "atol 0.0001, rtol 0.0001",
                        "passed": True,
                    }
                ],
            }
            for k in range(3)
        ],
    }


def test_models_may_be_bytes_or_paths(tmp_path: Path) -> None:
    onnx.save(affine(), tmp_path / "m.onnx")
    assert verify(affine().SerializeToString(), tmp_path / "m.onnx").status == "passed"


def test_weights_beside_the_model(tmp_path: Path) -> None:
    model = parse("g (float[N] x, float[1] w) => (float[N] y) { y = Mul(x, w) }")
    model.graph.input.pop()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2.0], np.float32), "w"))
    model = onnx.ModelProto.FromString(inside := model.SerializeToString())
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert verify(inside, tmp_path / "m.onnx").status == "passed"
    (tmp_path / "w.bin").unlink()
    outcome = verify(inside, tmp_path / "m.onnx")
    assert outcome.status == "failed"
    assert (outcome.reason or "").startswith("the result in ONNX Runtime: ")


def test_another_function_fails_and_says_by_how_much() -> None:
    outcome = verify(affine(), affine(shift=1.01))
    assert outcome.status == "failed"
    assert (outcome.reason or "").startswith("case c0: y differs by 0.01 ")
    assert len(outcome.cases) == 3
    assert [o["passed"] for c in outcome.cases for o in c["outputs"]] == [False] * 3


def test_one_bad_case_is_enough() -> None:
    cases = [*feeds(2), Case("big", {"x": np.full(5, 1e6, np.float32)})]
    close = {"y": Tolerance(1e-3, 0.0)}
    outcome = verify_graph(affine(), affine(scale=2.0 + 1e-5), None, cases, None, close)
    assert outcome.status == "failed"
    assert (outcome.reason or "").startswith("case big: ")
    assert [c["outputs"][0]["passed"] for c in outcome.cases] == [True, True, False]


def test_other_names_fail_although_polygraphy_would_match_them() -> None:
    outcome = verify(affine(), affine(name="z"))
    assert outcome.reason == "case c0: outputs differ: missing ['y'], new ['z']"
    renamed = verify(affine(), affine(name="z"), inverses=[{"op": "rename", "from": "z", "to": "y"}])
    assert renamed.status == "passed"


def test_an_inverse_that_does_not_fit_fails() -> None:
    outcome = verify(affine(), affine(), inverses=[{"op": "rename", "from": "z", "to": "y"}])
    assert outcome.status == "failed"
    assert "no output 'z'" in (outcome.reason or "")


def test_a_changed_dtype_fails_and_its_inverse_passes() -> None:
    text = "g (float[N] x) => ({0}[N] y) {{ r = Round(x)  y = Cast <to = {1}> (r) }}"
    wide, narrow = parse(text.format("int64", 7)), parse(text.format("int32", 6))
    assert "dtype int32 instead of int64" in (verify(wide, narrow).reason or "")
    cast = {"op": "cast", "name": "y", "to": "int64"}
    assert verify(wide, narrow, inverses=[cast]).status == "passed"


def test_the_result_gets_what_pre_makes_and_the_rest_by_name() -> None:
    whole = parse("g (uint8[N] x, float b) => (float[N] y) { f = Cast <to = 1> (x)  y = Add(f, b) }")
    pre = parse("g (uint8[N] x) => (float[N] f) { f = Cast <to = 1> (x) }")
    rest = parse("g (float[N] f, float b) => (float[N] y) { y = Add(f, b) }")
    wrong = parse("g (float[N] f, float b) => (float[N] y) { y = Sub(f, b) }")
    cases = [Case(f"c{k}", {"x": np.arange(k, k + 4, dtype=np.uint8), "b": np.float32(3)}) for k in range(3)]
    assert verify(whole, rest, pre, cases).status == "passed"
    assert verify(whole, wrong, pre, cases).status == "failed"
    outcome = verify(whole, rest, None, cases)
    assert outcome.status == "failed"
    assert "'f'" in (outcome.reason or "")


@pytest.mark.parametrize(
    ("which", "text"), [(0, "the original"), (1, "the result"), (2, "the preprocessing")]
)
def test_a_model_that_does_not_run_is_a_failed_verification(which: int, text: str) -> None:
    models: list[Any] = [affine(), affine(), parse("g (float[N] x) => (float[N] u) { u = Neg(x) }")]
    bad = parse("g (float[N] x) => (float[M] u) <int64[1] s = {7}> { u = Reshape(x, s) }")
    for broken in (bad, b"no model"):
        models[which] = broken
        outcome = verify(*models)
        assert outcome.status == "failed"
        assert (outcome.reason or "").startswith(f"{text} in ONNX Runtime: ")
        assert outcome.cases == ()


def test_inputs_of_a_wrong_dtype_or_shape_are_a_failed_verification() -> None:
    for value in (np.zeros(5), np.zeros((5, 1), np.float32)):
        assert verify(affine(), affine(), cases=[Case("c", {"x": value})]).status == "failed"


def test_no_cases_are_no_verification() -> None:
    outcome = verify_graph(affine(), affine(), None, [], None, {})
    assert outcome.status == "failed"
    assert outcome.reason == "only 0 of 0 cases were compared"


def test_empty_outputs_are_no_verification() -> None:
    cases = [Case("c", {"x": np.zeros(0, np.float32)})]
    outcome = verify(affine(), affine(shift=9), cases=cases)
    assert outcome.status == "failed"
    assert "empty" in (outcome.reason or "")


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    verify(affine(), affine())
    verify(affine(), affine(shift=2))
    verify(affine(), affine(name="z"))
    verify(affine(), b"no model")
    verify(affine(), affine(), cases=[Case("c", {"x": np.zeros(5)})])
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""


def test_run_onnx_ignores_names_the_model_does_not_read() -> None:
    (out,) = run_onnx(affine(), [{"x": np.ones(2, np.float32), "other": np.ones(2)}])
    assert out["y"].tolist() == [3.0, 3.0]
    with pytest.raises(RunError, match="x"):
        run_onnx(affine(), [{}])


# Detections

K = 12
OUTPUTS = DetectionOutputs(
    "boxes", "scores", "classes", "count", ("index",), DetectionPolicy(iou_threshold=0.5, capacity=K)
)


def detector(
    iou: float = 0.5, score: float = 0.3, keep: int = K, offset: float = 0.0, reverse: bool = False
) -> onnx.ModelProto:
    """Candidate boxes and scores [class, box] in, the best `keep` after NMS out, padded to K rows."""
    order = 0 if reverse else 1
    return parse(f"""
        g (float[1, 60, 4] candidates, float[1, 3, 60] likelihoods) =>
          (float[1, {K}, 4] boxes, float[1, {K}] scores, int64[1, {K}] classes, int64[1] count,
           int64[1, {K}] index, float[1, 60, 4] candidates_out)
        <int64 most = {{100}}, float iou = {{{iou}}}, float floor = {{{score}}}, float offset = {{{offset}}},
         int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] keep = {{{keep}}},
         int64[1] rows = {{{K}}}, int64[2] zeros = {{0, 0}}, int64 class_column = {{1}}, int64 box_column = {{2}}>
        {{
          selected = NonMaxSuppression(candidates, likelihoods, most, iou, floor)
          found = GatherND(likelihoods, selected)
          size = Shape(found)
          n = Min(size, keep)
          best, at = TopK <axis = 0, largest = 1, sorted = {order}> (found, n)
          chosen = Gather <axis = 0> (selected, at)
          klass = Gather <axis = 1> (chosen, class_column)
          where = Gather <axis = 1> (chosen, box_column)
          all = Squeeze(candidates, zero)
          taken = Gather <axis = 0> (all, where)
          moved = Add(taken, offset)
          missing = Sub(rows, n)
          after = Concat <axis = 0> (zero, missing)
          after4 = Concat <axis = 0> (zeros, missing, zero)
          padded = Pad(moved, after4)
          boxes = Unsqueeze(padded, zero)
          s = Pad(best, after)
          scores = Unsqueeze(s, zero)
          c = Pad(klass, after)
          classes = Unsqueeze(c, zero)
          w = Pad(where, after)
          index = Unsqueeze(w, zero)
          count = Identity(n)
          candidates_out = Identity(candidates)
        }}""")


def scenes(count: int = 3, likely: float = 1.0, steps: int | None = None) -> list[Case]:
    """Clusters of candidates; with `steps`, scores are quantised, so that many are equal."""
    cases = []
    for k in range(count):
        rng = np.random.default_rng(k)
        corner = np.repeat(rng.uniform(0, 0.7, (12, 2)), 5, axis=0) + rng.uniform(-0.03, 0.03, (60, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(0.15, 0.25, (60, 2))], axis=1)
        scores = likely * rng.uniform(0, 1, (1, 3, 60))
        if steps:
            scores = np.round(scores * steps) / steps
        feed = {"candidates": boxes[None].astype(np.float32), "likelihoods": scores.astype(np.float32)}
        cases.append(Case(f"scene-{k}", feed))
    return cases


def check(model: onnx.ModelProto, cases: list[Case] | None = None, **options: Any) -> Verification:
    return verify_graph(detector(), model, None, cases or scenes(), OUTPUTS, {}, **options)


@pytest.mark.parametrize("steps", [None, 8])
def test_a_detector_agrees_with_itself(steps: int | None) -> None:
    outcome = check(detector(), scenes(steps=steps))
    assert outcome.reason is None
    assert outcome.status == "passed"
    assert [c["detections"] for c in outcome.cases] == [[K]] * 3
    assert {o["name"] for o in outcome.cases[0]["outputs"]} == {
        "boxes", "scores", "classes", "count", "index", "candidates_out"
    }  # fmt: skip


def test_unsorted_detections_agree_too() -> None:
    assert check(detector(reverse=True)).status == "passed"


@pytest.mark.parametrize(
    "change", [{"iou": 0.4}, {"iou": 0.6}, {"keep": K - 1}, {"offset": 0.005}, {"score": 0.99}]
)
def test_a_changed_detector_fails(change: dict[str, Any]) -> None:
    outcome = check(detector(**change))
    assert outcome.status == "failed"
    assert "have no partner" in (outcome.reason or "")


def test_a_score_threshold_that_a_full_list_does_not_reach_makes_no_difference() -> None:
    assert check(detector(score=0.31)).status == "passed"


def test_nothing_detected_is_not_passed() -> None:
    outcome = check(detector(), scenes(likely=0.1))
    assert outcome.status == "failed"
    assert (outcome.reason or "").startswith("no detections occurred")
    assert [c["detections"] for c in outcome.cases] == [[0]] * 3


def test_two_cases_with_detections_are_too_few() -> None:
    cases = [*scenes(2), *scenes(4, likely=0.1)]
    outcome = check(detector(), cases)
    assert outcome.status == "failed"
    assert outcome.reason == "detections occurred in 2 of 6 cases; 3 are needed as evidence"
    assert check(detector(), cases, min_evidence=2).status == "passed"
    assert check(detector(), [*scenes(3), *scenes(4, likely=0.1)]).status == "passed"


def test_a_detection_lost_in_a_case_without_any_is_noticed() -> None:
    outcome = check(detector(score=0.05), [*scenes(3), *scenes(1, likely=0.1)])
    assert outcome.status == "failed"
    assert "there are no expected rows" in (outcome.reason or "")


# Engines: what runs them is a parameter


def test_what_an_engine_returns_is_compared() -> None:
    seen: list[list[str]] = []

    def run(model: onnx.ModelProto) -> Any:
        def work(feeds: list[dict[str, Any]]) -> RunOutcome:
            seen.extend(list(feed) for feed in feeds)
            return RunOutcome(ok=True, outputs=tuple(run_onnx(model, feeds)))

        return work

    cases = feeds(3, unused=np.zeros(1, np.float32))
    good = verify_engine(affine(), None, run(affine()), ["x"], cases, None, {})
    assert good.status == "passed"
    assert seen == [["x"]] * 3
    assert verify_engine(affine(), None, run(affine(3.0)), ["x"], cases, None, {}).status == "failed"


def test_an_engine_that_does_not_run_is_a_failed_verification() -> None:
    died = RunOutcome(ok=False, error="the process was killed")
    outcome = verify_engine(affine(), None, lambda feeds: died, ["x"], feeds(), None, {})
    assert outcome.status == "failed"
    assert outcome.reason == "TensorRT: the process was killed"


def test_an_engine_that_returns_too_little_is_a_failed_verification() -> None:
    short = RunOutcome(ok=True, outputs=({"y": np.zeros(5, np.float32)},))
    outcome = verify_engine(affine(), None, lambda feeds: short, ["x"], feeds(), None, {})
    assert outcome.status == "failed"
    assert outcome.reason == "1 outputs came back for 3 inputs"


# A real model


@pytest.fixture(scope="module")
def combined() -> onnx.ModelProto:
    path = CORPUS / "ssd_mobilenet_v2_combinednms.onnx"
    if not path.is_file():
        pytest.skip("the corpus is not here")
    return onnx.load(path)


TF = DetectionOutputs(
    "detection_boxes:0",
    "detection_scores:0",
    "detection_classes:0",
    "num_detections:0",
    policy=DetectionPolicy(iou_threshold=0.6, capacity=100),
)


def with_nms(model: onnx.ModelProto, position: int, value: float) -> onnx.ModelProto:
    """A copy whose NonMaxSuppression has another value as the given input."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    (nms,) = [n for n in copy.graph.node if n.op_type == "NonMaxSuppression"]
    nms.input[position] = "another"
    copy.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value], np.float32), "another"))
    return copy


@pytest.mark.corpus
@pytest.mark.slow
def test_a_real_detector_against_itself(combined: onnx.ModelProto) -> None:
    cases = make_cases(combined, combined, [], per_point=3, seed=0)
    outcome = verify_graph(combined, combined, None, cases, TF, {})
    assert outcome.reason is None
    assert outcome.status == "passed"
    assert all(n >= 20 for c in outcome.cases for n in c["detections"])


@pytest.mark.corpus
@pytest.mark.slow
@pytest.mark.parametrize(
    ("position", "value"), [(3, 0.5), (3, 0.7), (4, 0.99)], ids=["lower", "higher", "score"]
)
def test_a_real_detector_with_another_threshold_fails(
    combined: onnx.ModelProto, position: int, value: float
) -> None:
    cases = make_cases(combined, combined, [], per_point=3, seed=0)
    outcome = verify_graph(combined, with_nms(combined, position, value), None, cases, TF, {})
    assert outcome.status == "failed"
    assert "have no partner" in (outcome.reason or "")


def test_an_operator_of_an_old_opset_without_a_kernel_runs_in_a_newer_one_and_that_is_told() -> None:
    text = """<ir_version: 7, opset_import: ["" : 11]> g (double[n] x) => (double[n] y)
        <double low = {0}, double high = {5}> { y = Clip (x, low, high) }"""
    model = onnx.parser.parse_model(text)
    feeds = [{"x": np.arange(-3.0, 9.0)}]
    notes: list[str] = []
    (found,) = run_onnx(model, feeds, "the original", notes)
    np.testing.assert_array_equal(found["y"], np.clip(np.arange(-3.0, 9.0), 0, 5))
    assert len(notes) == 1
    assert "Clip(11)" in notes[0]
    assert "converted to opset 13" in notes[0]
    report = surgery.run("generic", model, target="tensorrt-rtx-1.6")
    assert report.failure is None, report.failure
    assert report.verification["graph"]["notes"] == notes
    assert notes[0] in report.notes
    assert notes[0] not in report.warnings


def test_a_model_that_runs_as_it_is_has_no_note() -> None:
    text = """<ir_version: 7, opset_import: ["" : 11]> g (float[n] x) => (float[n] y) { y = Relu (x) }"""
    notes: list[str] = []
    run_onnx(onnx.parser.parse_model(text), [{"x": np.zeros(3, np.float32)}], "the original", notes)
    assert not notes


@pytest.mark.parametrize(("kind", "factor", "status"), [
    ("float16", 2.001, "passed"), ("float16", 2.05, "failed"), ("float", 2.001, "failed"), ("float", 2.0, "passed"),
])  # fmt: skip
def test_what_16_bits_round_is_no_difference_whatever_the_outputs_are(
    kind: str, factor: float, status: str
) -> None:
    """The outputs are float32, as converters leave them that keep inputs and outputs."""

    def scaled(by: float) -> onnx.ModelProto:
        return parse(
            f"g ({kind}[5] x) => (float[5] y) <float[5] t = {{2, 2, {by}, 2, 2}}> "
            "{ h = Cast <to = 1> (x) y = Mul (h, t) }"
        )

    dtype = np.float16 if kind == "float16" else np.float32
    cases = [Case(c.name, {"x": c.feeds["x"].astype(dtype)}) for c in feeds()]
    assert verify(scaled(2.0), scaled(factor), cases=cases).status == status
