from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from surgery.verify.inverse import apply_inverses

BOXES = np.arange(24, dtype=np.float32).reshape(1, 6, 4)
OUTPUTS = {"boxes": BOXES, "n": np.array([[2]], np.int32), "score": np.array([1.0, 2.0, 3.0], np.float32)}


def apply(**step: Any) -> dict[str, Any]:
    return apply_inverses(OUTPUTS, [step])


def test_nothing_to_do_changes_nothing() -> None:
    assert apply_inverses(OUTPUTS, []) == OUTPUTS


def test_slice_by_count() -> None:
    result = apply(op="slice_by_count", name="boxes", count="n", axis=1)
    np.testing.assert_array_equal(result["boxes"], BOXES[:, :2])
    assert OUTPUTS["boxes"].shape == (1, 6, 4)


def test_slice_by_count_of_several_images_needs_one_count() -> None:
    outputs = {"boxes": np.zeros((2, 6, 4)), "n": np.array([3, 3])}
    step = {"op": "slice_by_count", "name": "boxes", "count": "n", "axis": 1}
    assert apply_inverses(outputs, [step])["boxes"].shape == (2, 3, 4)
    with pytest.raises(ValueError, match="different counts"):
        apply_inverses({**outputs, "n": np.array([3, 4])}, [step])


@pytest.mark.parametrize("count", [-1, 7])
def test_slice_by_a_count_beyond_the_rows(count: int) -> None:
    step = {"op": "slice_by_count", "name": "boxes", "count": "n", "axis": 1}
    with pytest.raises(ValueError, match=f"count is {count}"):
        apply_inverses({**OUTPUTS, "n": np.array([count])}, [step])


def test_cast() -> None:
    result = apply(op="cast", name="score", to="int64")
    assert result["score"].dtype == np.int64
    assert result["score"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("value", [1.5, 300.0, np.nan, -1.0])
def test_cast_does_not_hide_what_it_would_lose(value: float) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        apply_inverses({"c": np.array([value], np.float32)}, [{"op": "cast", "name": "c", "to": "uint8"}])


def test_a_cast_that_wraps_both_ways_is_no_way_back() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        apply_inverses({"c": np.array([2**63], np.uint64)}, [{"op": "cast", "name": "c", "to": "int64"}])


def test_what_is_carried_in_int64_comes_back_modulo_2_to_the_64() -> None:
    back = apply_inverses({"c": np.array([-1, 5])}, [{"op": "cast", "name": "c", "to": "uint64"}])
    assert back["c"].tolist() == [2**64 - 1, 5]


def test_layout() -> None:
    assert apply(op="transpose", name="boxes", perm=[0, 2, 1])["boxes"].shape == (1, 4, 6)
    assert apply(op="reshape", name="boxes", shape=[6, -1])["boxes"].shape == (6, 4)
    assert apply(op="squeeze", name="boxes", axes=[0])["boxes"].shape == (6, 4)
    assert apply(op="unsqueeze", name="n", axes=[0])["n"].shape == (1, 1, 1)
    np.testing.assert_array_equal(
        apply(op="transpose", name="boxes", perm=[0, 2, 1])["boxes"], BOXES.transpose(0, 2, 1)
    )


def test_rename_keeps_the_order() -> None:
    assert list(apply(op="rename", **{"from": "n", "to": "count"})) == ["boxes", "count", "score"]


def test_steps_follow_each_other() -> None:
    steps: list[dict[str, Any]] = [
        {"op": "slice_by_count", "name": "boxes", "count": "n", "axis": 1},
        {"op": "rename", "from": "boxes", "to": "detections"},
        {"op": "squeeze", "name": "detections", "axes": [0]},
    ]
    assert apply_inverses(OUTPUTS, steps)["detections"].shape == (2, 4)


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ({"op": "scale", "name": "boxes"}, "unknown"),
        ({"name": "boxes"}, "unknown"),
        ({"op": "cast", "name": "boxes"}, "lacks 'to'"),
        ({"op": "cast", "to": "int32"}, "lacks 'name'"),
        ({"op": "rename", "from": "boxes"}, "lacks 'to'"),
        ({"op": "rename", "from": "none", "to": "x"}, "no output 'none'"),
        ({"op": "rename", "from": "boxes", "to": "n"}, "has an output 'n' already"),
        ({"op": "cast", "name": "none", "to": "int32"}, "no output 'none'"),
        ({"op": "cast", "name": "boxes", "to": "colour"}, "colour"),
        ({"op": "slice_by_count", "name": "boxes", "count": "none"}, "no output 'none'"),
        ({"op": "slice_by_count", "name": "boxes", "count": "n", "axis": 5}, "range"),
        ({"op": "transpose", "name": "boxes", "perm": [0, 1]}, "axes"),
        ({"op": "reshape", "name": "boxes", "shape": [5, 5]}, "reshape"),
        ({"op": "squeeze", "name": "boxes", "axes": [1]}, "size not equal to one"),
    ],
)
def test_a_step_that_does_not_fit_is_refused(step: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        apply_inverses(OUTPUTS, [step])
