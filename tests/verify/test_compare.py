from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from surgery.verify.compare import AS_ROWS, AS_SETS, CaseResult, DetectionOutputs, compare_case
from surgery.verify.detections import DetectionPolicy
from surgery.verify.tensors import Tolerance

K = 6
DETECTIONS = DetectionOutputs(
    "boxes", "scores", "classes", "count", ("anchors", "rows"), DetectionPolicy(iou_threshold=0.6, capacity=K)
)
Arrays = dict[str, np.ndarray[Any, Any]]


def outputs(counts: tuple[int, ...] = (4, 5)) -> Arrays:
    """Two images with detections far apart, padded with zeros, and one plain output."""
    images = len(counts)
    low = np.tile(np.linspace(0, 0.75, K, dtype=np.float32)[:, None], (images, 1, 4))
    boxes = low + np.array([0, 0, 0.1, 0.1], np.float32)
    values: Arrays = {
        "count": np.array(counts, np.float32),
        "boxes": boxes.astype(np.float32),
        "scores": np.tile(np.linspace(0.9, 0.4, K, dtype=np.float32), (images, 1)),
        "classes": np.tile(np.arange(1, K + 1, dtype=np.float32), (images, 1)),
        "anchors": np.tile(np.arange(100, 100 + K, dtype=np.int64), (images, 1)),
        "rows": np.random.default_rng(0).uniform(0, 1, (images, K, 3)).astype(np.float32),
    }
    for name, value in values.items():
        if name != "count":
            for i, n in enumerate(counts):
                value[i, n:] = 0
    return {**values, "raw": np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 4)}


def changed(name: str, index: Any, value: Any, base: Arrays | None = None) -> Arrays:
    result = {k: v.copy() for k, v in (base or outputs()).items()}
    result[name][index] = value
    return result


def compare(
    one: Arrays, two: Arrays, detections: DetectionOutputs | None = DETECTIONS, **tolerances: Tolerance
) -> CaseResult:
    return compare_case("case", {"x": (1, 2)}, one, two, detections, tolerances)


def result_of(outcome: CaseResult, name: str) -> Any:
    return next(o for o in outcome.outputs if o.name == name)


def test_equal_outputs() -> None:
    outcome = compare(outputs(), outputs())
    assert outcome
    assert outcome.evidence
    assert outcome.detections == (4, 5)
    entry = outcome.to_dict()
    assert list(entry) == ["name", "shapes", "detections", "unmatched", "outputs"]
    assert entry["shapes"] == {"x": [1, 2]}
    assert {o["name"]: o["compare"] for o in entry["outputs"]} == {
        "boxes": AS_SETS,
        "scores": AS_SETS,
        "classes": AS_SETS,
        "count": AS_SETS,
        "anchors": f"{AS_ROWS}, exact",
        "rows": f"{AS_ROWS}, atol 0.0001, rtol 0.0001",
        "raw": "atol 0.0001, rtol 0.0001",
    }
    assert result_of(outcome, "boxes").note == "rows beyond the count are equal"


def test_detections_in_another_order_agree_with_their_extra_rows() -> None:
    other = outputs()
    order = [2, 0, 3, 1, 4, 5]
    for name in DETECTIONS.columns:
        other[name] = other[name].copy()
        other[name][0] = other[name][0][order]
    assert compare(outputs(), other)
    assert not compare(outputs(), other, None)
    # An extra row that stays behind does not belong to its detection any more.
    stale = {**other, "rows": outputs()["rows"]}
    outcome = compare(outputs(), stale)
    assert not outcome
    assert (outcome.reason or "").startswith("rows differs by")
    stale = {**other, "anchors": outputs()["anchors"]}
    assert (compare(outputs(), stale).reason or "").startswith("anchors differs by")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("boxes", 0.5, "boxes: image 1: "),
        ("scores", 0.123, "boxes: image 1: "),
        ("classes", 77, "boxes: image 1: "),
        ("anchors", 7, "anchors differs by"),
        ("rows", 7, "rows differs by"),
    ],
)
def test_one_value_of_the_second_image(name: str, value: float, says: str) -> None:
    outcome = compare(outputs(), changed(name, (1, 2), value))
    assert not outcome
    assert (outcome.reason or "").startswith(says)


def test_errors_are_reported_even_if_they_are_tolerated() -> None:
    near = changed("scores", (0, 0), outputs()["scores"][0, 0] + 5e-5)
    near["boxes"][1, 1] += 3e-5
    outcome = compare(outputs(), near)
    assert outcome
    assert result_of(outcome, "scores").max_abs == pytest.approx(5e-5, rel=0.01)
    assert result_of(outcome, "boxes").max_abs == pytest.approx(3e-5, rel=0.01)


def test_rows_beyond_the_count_are_no_detections_but_noted() -> None:
    outcome = compare(outputs(), changed("boxes", (0, 5), 9))
    assert outcome
    assert result_of(outcome, "boxes").note == "rows beyond the count differ"


def test_a_count_that_drops_a_detection_fails() -> None:
    outcome = compare(outputs(), changed("count", 0, 3))
    assert not outcome
    assert "image 0" in (outcome.reason or "")
    assert result_of(outcome, "count").max_abs == 1
    assert outcome.unmatched == (
        {
            "image": 0,
            "side": "expected",
            "row": 3,
            "class": 4,
            "score": pytest.approx(0.6),
            "excuse": None,
        },
    )


@pytest.mark.parametrize("count", [-1, 7, 2.5, np.nan])
def test_a_count_that_is_no_number_of_rows_fails(count: float) -> None:
    outcome = compare(outputs(), changed("count", 0, count))
    assert not outcome
    assert "is not a number of rows" in (outcome.reason or "")


def test_plain_outputs_have_tolerances_of_their_own() -> None:
    other = changed("raw", (0, 0), 0.01)
    outcome = compare(outputs(), other)
    assert outcome.reason == "raw differs by 0.01 (1 of 8 differ)"
    assert compare(outputs(), other, raw=Tolerance(0.1, 0.0))


def test_outputs_that_are_missing_or_new_fail() -> None:
    rest = {k: v for k, v in outputs().items() if k != "raw"}
    assert compare(outputs(), rest).reason == "outputs differ: missing ['raw'], new none"
    assert compare(rest, outputs()).reason == "outputs differ: missing none, new ['raw']"


def test_detection_outputs_that_are_nowhere_fail() -> None:
    rest = {k: v for k, v in outputs().items() if k != "scores"}
    assert "scores should hold detections" in (compare(rest, rest).reason or "")


@pytest.mark.parametrize("name", ["boxes", "scores", "classes", "count", "anchors", "rows"])
def test_another_dtype_or_shape_fails(name: str) -> None:
    good = outputs()
    assert f"{name}: dtype float64" in (
        compare(good, {**good, name: good[name].astype(np.float64)}).reason or ""
    )
    assert f"{name}: shape" in (compare(good, {**good, name: good[name][:1]}).reason or "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("boxes", np.zeros((2, K, 5), np.float32)),
        ("scores", np.zeros((2, K, 2), np.float32)),
        ("classes", np.zeros((2, K + 1), np.float32)),
        ("count", np.zeros(3, np.float32)),
        ("anchors", np.full((2, K), "a", object)),
    ],
)
def test_outputs_that_cannot_be_detections_fail(name: str, value: Any) -> None:
    both = {**outputs(), name: value}
    outcome = compare(both, both)
    assert not outcome
    assert not outcome.evidence


def unbatched(rows: int) -> Arrays:
    return {n: v[0, :rows] for n, v in outputs((5, 5)).items() if n in ("boxes", "scores", "classes")}


SINGLE = DetectionOutputs("boxes", "scores", "classes", None)


def test_one_image_without_batch_axis_and_count() -> None:
    outcome = compare(unbatched(5), unbatched(5), SINGLE)
    assert outcome
    assert outcome.detections == (5,)
    outcome = compare(unbatched(5), unbatched(4), SINGLE)
    assert not outcome
    assert "have no partner" in (outcome.reason or "")


def test_padding_that_is_not_counted_is_no_evidence() -> None:
    nothing = {n: np.zeros_like(v) for n, v in unbatched(5).items()}
    outcome = compare(nothing, nothing, SINGLE)
    assert outcome
    assert not outcome.evidence


def test_an_image_without_detections_is_no_evidence() -> None:
    assert not compare(outputs((0, 0)), outputs((0, 0))).evidence
    outcome = compare(outputs((0, 3)), outputs((0, 3)))
    assert outcome.evidence
    assert outcome.detections == (0, 3)


def test_one_class_needs_no_classes() -> None:
    single = DetectionOutputs("boxes", "scores", None, "count")
    names = ("boxes", "scores", "count")
    one = {n: v for n, v in outputs().items() if n in names}
    two = {n: v for n, v in changed("scores", (0, 1), 0.1).items() if n in names}
    assert compare(one, one, single)
    assert not compare(one, two, single)


def test_empty_outputs_are_no_evidence() -> None:
    empty = {"y": np.zeros((0, 4), np.float32)}
    assert compare(empty, empty, None)
    assert not compare(empty, empty, None).evidence
    assert compare({**empty, "z": np.zeros(1)}, {**empty, "z": np.zeros(1)}, None).evidence


def test_the_report_can_restore_what_was_compared() -> None:
    assert DETECTIONS.to_dict() == {
        "boxes": "boxes",
        "scores": "scores",
        "classes": "classes",
        "count": "count",
        "extras": ["anchors", "rows"],
        "iou_threshold": 0.6,
        "capacity": K,
    }
