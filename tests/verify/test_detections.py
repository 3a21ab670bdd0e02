from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.verify.detections import (
    AT_CUT,
    AT_THRESHOLD,
    SUPPRESSED,
    DetectionPolicy,
    ImageDetections,
    match_detections,
    overlap,
)

POLICY = DetectionPolicy(iou_threshold=0.6, capacity=20)


def image(rows: list[tuple[Any, ...]]) -> ImageDetections:
    """Rows of (y1, x1, y2, x2, score, class)."""
    table = np.asarray(rows, np.float64).reshape(-1, 6)
    return ImageDetections(
        table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.float32)
    )


def scene(count: int, seed: int = 0) -> ImageDetections:
    """Boxes on a grid, so that none overlaps another, with falling scores and three classes."""
    rng = np.random.default_rng(seed)
    rows = []
    for k in range(count):
        y, x = divmod(k, 8)
        h, w = rng.uniform(0.04, 0.1, 2)
        rows.append((y / 8, x / 8, y / 8 + h, x / 8 + w, 0.95 - 0.02 * k, k % 3 + 1))
    return image(rows)


def take(d: ImageDetections, rows: Any) -> ImageDetections:
    return ImageDetections(d.boxes[rows], d.scores[rows], d.classes[rows], tuple(e[rows] for e in d.extras))


def put(d: ImageDetections, row: int, **values: Any) -> ImageDetections:
    """A copy with other values in a row; `box` is added to the box."""
    boxes, scores, classes = d.boxes.copy(), d.scores.copy(), d.classes.copy()
    boxes[row] += values.get("box", 0)
    scores[row] += values.get("score", 0)
    classes[row] = values.get("klass", classes[row])
    return replace(d, boxes=boxes, scores=scores, classes=classes)


def join(one: ImageDetections, two: ImageDetections) -> ImageDetections:
    pairs = ((one.boxes, two.boxes), (one.scores, two.scores), (one.classes, two.classes))
    return ImageDetections(*(np.concatenate(p) for p in pairs))


FULL, PARTIAL = 20, 12
SIZES = pytest.mark.parametrize("count", [PARTIAL, FULL], ids=["partial", "full"])
ROWS = pytest.mark.parametrize("at", [0.0, 0.5, 1.0], ids=["first", "middle", "last"])


# What has to pass


@SIZES
def test_equal_lists_pass(count: int) -> None:
    outcome = match_detections(scene(count), scene(count), POLICY)
    assert outcome.passed
    assert outcome.reason is None
    assert outcome.pairs == tuple((i, i) for i in range(count))
    assert outcome.max_box_error == outcome.max_score_error == 0.0
    assert outcome.unmatched == ()


def test_nothing_agrees_with_nothing() -> None:
    assert match_detections(image([]), image([]), POLICY).passed


def test_rounding_is_within_tolerance_and_reported() -> None:
    changed = put(put(scene(PARTIAL), 3, box=5e-5), 4, score=-5e-5)
    outcome = match_detections(scene(PARTIAL), changed, POLICY)
    assert outcome.passed
    assert outcome.max_box_error == pytest.approx(5e-5, rel=0.01)
    assert outcome.max_score_error == pytest.approx(5e-5, rel=0.01)


def test_ties_in_any_order() -> None:
    tied = scene(FULL)
    tied.scores[:] = 0.5
    assert match_detections(tied, take(tied, slice(None, None, -1)), POLICY).passed


def test_exact_duplicates() -> None:
    base = scene(6)
    doubled = join(base, base)
    assert match_detections(doubled, take(doubled, np.roll(np.arange(12), 5)), POLICY).passed


def test_near_duplicates_where_taking_the_nearest_first_would_fail() -> None:
    # Expected 0 is within tolerance of both, and nearest to the only one that expected 1 can have.
    def at(*offsets: float) -> ImageDetections:
        return image([(0.1 + o, 0.1, 0.3, 0.3, 0.9, 1) for o in offsets])

    outcome = match_detections(at(0.0, 12e-5), at(5e-5, -8e-5), POLICY)
    assert outcome.passed
    assert outcome.pairs == ((0, 1), (1, 0))


def test_duplicates_are_paired_by_their_extra_columns() -> None:
    rows = [(0.1, 0.1, 0.3, 0.3, 0.9, 1)] * 3
    one = replace(image(rows), extras=(np.array([5, 7, 9]),))
    two = replace(image(rows), extras=(np.array([9, 5, 7]),))
    assert match_detections(one, two, POLICY).pairs == ((0, 1), (1, 2), (2, 0))


def test_boxes_in_pixels_have_a_relative_tolerance() -> None:
    pixels = scene(PARTIAL)
    pixels = replace(pixels, boxes=pixels.boxes * 640)
    large = int(np.argmax(pixels.boxes.max(1)))
    assert match_detections(pixels, put(pixels, large, box=0.02), POLICY).passed
    assert not match_detections(pixels, put(pixels, large, box=0.2), POLICY).passed
    strict = replace(POLICY, box_rtol=0.0)
    assert not match_detections(pixels, put(pixels, large, box=0.02), strict).passed


def test_not_a_number_agrees_with_itself_only() -> None:
    odd = scene(3)
    odd.boxes[1, 2] = np.nan
    odd.scores[2] = np.inf
    assert match_detections(odd, odd, POLICY).passed
    assert not match_detections(odd, scene(3), POLICY).passed
    assert not match_detections(scene(3), odd, POLICY).passed
    lost = replace(odd, classes=np.full(3, np.nan, np.float32))
    assert not match_detections(odd, lost, POLICY).passed


# What has to fail


@SIZES
@ROWS
@pytest.mark.parametrize("of", ["size", "image"])
def test_a_box_shifted_by_one_percent_fails(count: int, at: float, of: str) -> None:
    good = scene(count)
    row = round(at * (count - 1))
    step = 0.01 * (good.boxes[row, 2] - good.boxes[row, 0]) if of == "size" else 0.01
    outcome = match_detections(good, put(good, row, box=[step, 0, step, 0]), POLICY)
    assert not outcome.passed
    assert {(u.side, u.index, u.excuse) for u in outcome.unmatched} == {
        ("expected", row, None), ("actual", row, None)
    }  # fmt: skip
    assert f"expected row {row} " in (outcome.reason or "")


@SIZES
@ROWS
def test_two_classes_swapped_fail(count: int, at: float) -> None:
    good = scene(count)
    row = min(round(at * (count - 1)), count - 2)
    one, two = good.classes[row], good.classes[row + 1]
    assert one != two
    swapped = put(put(good, row, klass=two), row + 1, klass=one)
    outcome = match_detections(good, swapped, POLICY)
    assert not outcome.passed
    assert f"nearest actual row {row}: class {int(two)}" in (outcome.reason or "")


@SIZES
@ROWS
@pytest.mark.parametrize("refilled", [False, True])
def test_a_dropped_rank_fails(count: int, at: float, refilled: bool) -> None:
    good = scene(count + 1)
    row = round(at * (count - 1))
    kept = [k for k in range(count) if k != row]
    outcome = match_detections(
        take(good, slice(count)), take(good, [*kept, count] if refilled else kept), POLICY
    )
    assert not outcome.passed
    assert ("expected", row) in {(u.side, u.index) for u in outcome.unmatched if u.excuse is None}


@SIZES
@ROWS
@pytest.mark.parametrize("by", [1e-3, -1e-3])
def test_a_changed_score_fails(count: int, at: float, by: float) -> None:
    row = round(at * (count - 1))
    assert not match_detections(scene(count), put(scene(count), row, score=by), POLICY).passed


@SIZES
@ROWS
@pytest.mark.parametrize("in_place_of", ["nothing", "the last", "the next"])
def test_a_duplicated_detection_fails(count: int, at: float, in_place_of: str) -> None:
    good = scene(count)
    row = round(at * (count - 2))
    order = [*range(row + 1), row, *range(row + 1, count)]
    if in_place_of == "the last":
        order.pop()
    elif in_place_of == "the next":
        del order[row + 2]
    assert not match_detections(good, take(good, order), POLICY).passed


def test_ties_at_the_cut_excuse_no_duplicate() -> None:
    tied = scene(FULL)
    tied.scores[:] = 0.5
    repeated = take(tied, [*range(FULL - 1), FULL - 2])
    assert not match_detections(tied, repeated, POLICY).passed


def test_nothing_found_fails_both_ways() -> None:
    assert not match_detections(scene(3), image([]), POLICY).passed
    outcome = match_detections(image([]), scene(3), POLICY)
    assert "there are no expected rows" in (outcome.reason or "")


def test_ties_at_the_cut_excuse_no_swapped_classes() -> None:
    tied = scene(FULL)
    tied.scores[-2:] = 0.5
    one, two = tied.classes[-2:]
    swapped = put(put(tied, FULL - 2, klass=two), FULL - 1, klass=one)
    assert not match_detections(tied, swapped, POLICY).passed


# The cut of a full list


def at_the_cut(borderline: int, gap: float = 2e-5) -> tuple[ImageDetections, ImageDetections]:
    """Full lists that end in different rows, whose scores are `gap` apart."""
    extra = 2 * borderline
    good = scene(FULL - borderline + extra)
    first = FULL - borderline
    good.scores[first:] = good.scores[first] + gap * np.arange(extra) / max(extra - 1, 1)
    head = list(range(first))
    return take(good, [*head, *range(first, FULL)]), take(good, [*head, *range(FULL, FULL + borderline)])


def test_rows_at_the_cut_are_excused_and_listed() -> None:
    outcome = match_detections(*at_the_cut(1), POLICY)
    assert outcome.passed
    assert [(u.side, u.index, u.excuse) for u in outcome.unmatched] == [
        (side, FULL - 1, AT_CUT) for side in ("expected", "actual")
    ]


def test_rows_at_the_cut_are_counted_over_both_lists() -> None:
    outcome = match_detections(*at_the_cut(2), POLICY)
    assert not outcome.passed
    assert all(u.excuse == AT_CUT for u in outcome.unmatched)
    assert "4 detections without a partner, at most 2" in (outcome.reason or "")


def test_scores_farther_apart_than_rounding_are_not_at_the_cut() -> None:
    assert not match_detections(*at_the_cut(1, gap=2e-4), POLICY).passed


@pytest.mark.parametrize("capacity", [None, FULL + 1])
def test_only_a_full_list_has_a_cut(capacity: int | None) -> None:
    assert not match_detections(*at_the_cut(1), replace(POLICY, capacity=capacity)).passed


# The IoU threshold


def side_by_side(iou: float, score: float = 0.8, klass: float = 1) -> tuple[Any, ...]:
    """A box of size 0.2 x 0.2 beside the one at (0.4, 0.4) that overlaps it with the given IoU."""
    shift = 0.2 * (1 - iou) / (1 + iou)
    return (0.4, 0.4 + shift, 0.6, 0.6 + shift, score, klass)


KEEPER = (0.4, 0.4, 0.6, 0.6, 0.9, 1)
BYSTANDER = (0.05, 0.05, 0.1, 0.1, 0.95, 1)


@pytest.mark.parametrize(("iou", "passes"), [(0.5995, True), (0.6005, True), (0.598, False), (0.602, False)])
@pytest.mark.parametrize("flipped", [False, True])
def test_a_box_at_the_threshold(iou: float, passes: bool, flipped: bool) -> None:
    lists = [image([BYSTANDER, KEEPER, side_by_side(iou)]), image([BYSTANDER, KEEPER])]
    outcome = match_detections(*(lists[::-1] if flipped else lists), POLICY)
    assert outcome.passed is passes
    (row,) = outcome.unmatched
    assert row.side == ("actual" if flipped else "expected")
    assert row.excuse == (AT_THRESHOLD if passes else None)


def test_the_threshold_has_to_be_known() -> None:
    lists = image([KEEPER, side_by_side(0.6)]), image([KEEPER])
    assert not match_detections(*lists, replace(POLICY, iou_threshold=None)).passed


def test_only_a_box_of_its_class_excuses() -> None:
    other = (*KEEPER[:5], 2)
    assert not match_detections(image([other, side_by_side(0.6)]), image([other]), POLICY).passed


def test_a_box_with_a_lower_score_suppresses_nothing() -> None:
    first = side_by_side(0.6, score=0.99)
    assert not match_detections(image([first, KEEPER]), image([KEEPER]), POLICY).passed


def test_the_keeper_has_to_be_kept_by_the_list_that_lacks_the_row() -> None:
    assert not match_detections(image([KEEPER, side_by_side(0.6)]), image([]), POLICY).passed


def cascade(iou: float = 0.6, follower_iou: float = 0.7) -> tuple[ImageDetections, ImageDetections]:
    """One list keeps a borderline box; the other has what that box suppresses instead."""
    borderline = side_by_side(iou)
    shift = borderline[1] - 0.4 + 0.2 * (1 - follower_iou) / (1 + follower_iou)
    follower = (0.4, 0.4 + shift, 0.6, 0.6 + shift, 0.7, 1)
    return image([KEEPER, borderline]), image([KEEPER, follower])


def test_what_a_borderline_box_suppressed_is_excused() -> None:
    outcome = match_detections(*cascade(), POLICY)
    assert outcome.passed
    assert [(u.side, u.excuse) for u in outcome.unmatched] == [
        ("expected", AT_THRESHOLD),
        ("actual", SUPPRESSED),
    ]
    assert match_detections(*cascade()[::-1], POLICY).passed


def test_what_a_plain_missing_box_suppressed_is_not() -> None:
    assert not match_detections(*cascade(iou=0.58), POLICY).passed


def test_what_a_borderline_box_would_not_suppress_is_not() -> None:
    assert not match_detections(*cascade(follower_iou=0.55), POLICY).passed


def test_only_the_borderline_box_itself_excuses_what_it_suppressed() -> None:
    borderline, _ = cascade()
    near_bystander = (0.052, 0.05, 0.102, 0.1, 0.3, 1)
    expected = join(borderline, image([BYSTANDER]))
    actual = image([KEEPER, BYSTANDER, near_bystander])
    outcome = match_detections(expected, actual, POLICY)
    assert not outcome.passed
    assert [u.excuse for u in outcome.unmatched] == [AT_THRESHOLD, None]


def test_three_boxes_at_the_threshold_are_too_many() -> None:
    keepers, others = [], []
    for k in range(3):
        offset = np.array([0.3 * k - 0.35, 0.0, 0.3 * k - 0.35, 0.0, 0.0, 0.0])
        keepers.append(tuple(np.array(KEEPER) + offset))
        others.append(tuple(np.array(side_by_side(0.6)) + offset))
    assert match_detections(image(keepers + others[:2]), image(keepers), POLICY).passed
    outcome = match_detections(image(keepers + others), image(keepers), POLICY)
    assert not outcome.passed
    assert len(outcome.unmatched) == 3


def test_the_row_that_takes_an_excused_place_in_a_full_list() -> None:
    policy = replace(POLICY, capacity=3)
    next_best = (0.8, 0.8, 0.9, 0.9, 0.3, 2)
    expected, actual = (
        image([BYSTANDER, KEEPER, side_by_side(0.6)]),
        image([BYSTANDER, KEEPER, next_best]),
    )
    outcome = match_detections(expected, actual, policy)
    assert outcome.passed
    assert [u.excuse for u in outcome.unmatched] == [AT_THRESHOLD, AT_CUT]
    assert not match_detections(expected, actual, replace(policy, capacity=4)).passed
    second = (0.1, 0.8, 0.2, 0.9, 0.3, 2)
    two_for_one = image([BYSTANDER, KEEPER, next_best, second])
    assert not match_detections(expected, two_for_one, policy).passed
    for score, passes in ((0.3, True), (0.7, False)):  # only the last of the list can have moved up
        in_the_middle = image([BYSTANDER, KEEPER, (*next_best[:4], score, 2), second])
        longer = image([BYSTANDER, KEEPER, side_by_side(0.6), second])
        assert match_detections(longer, in_the_middle, replace(policy, capacity=4)).passed is passes
    without_excuse = image([BYSTANDER, KEEPER, side_by_side(0.5)])
    assert not match_detections(without_excuse, actual, policy).passed


# Overlap


def test_overlap_of_known_boxes() -> None:
    boxes = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [2, 2, 3, 3], [1, 1, 1, 1]])
    assert overlap(boxes, boxes) == pytest.approx(
        np.array([[1, 1 / 7, 0, 0], [1 / 7, 1, 0.25, 0], [0, 0.25, 1, 0], [0, 0, 0, 0]])
    )


def test_overlap_ignores_the_order_of_corners_and_axes() -> None:
    one, two = np.array([[0.1, 0.2, 0.5, 0.9]]), np.array([[0.2, 0.1, 0.6, 0.7]])
    swapped = [1, 0, 3, 2]
    assert overlap(one[:, swapped], two[:, swapped]) == pytest.approx(overlap(one, two))
    assert overlap(one[:, [2, 3, 0, 1]], two) == pytest.approx(overlap(one, two))


# Properties


@st.composite
def lists(draw: st.DrawFn) -> ImageDetections:
    """Anything a detector may say, ties, duplicates and overlaps included."""
    count = draw(st.integers(1, 12))
    grid = st.integers(0, 8).map(lambda v: v / 10)
    rows = []
    for _ in range(count):
        y, x, h, w = (draw(grid) for _ in range(4))
        score = draw(st.integers(1, 20)) / 20
        rows.append((y, x, y + h + 0.05, x + w + 0.05, score, draw(st.integers(1, 3))))
    return image(rows)


@settings(deadline=None)
@given(lists(), st.randoms(use_true_random=False), st.sampled_from([None, 5, 12]))
def test_any_order_passes(d: ImageDetections, random: Any, capacity: int | None) -> None:
    order = list(range(len(d)))
    random.shuffle(order)
    policy = replace(POLICY, capacity=capacity)
    outcome = match_detections(d, take(d, order), policy)
    assert outcome.passed
    assert len(outcome.pairs) == len(d)
    assert all(d.scores[i] == take(d, order).scores[j] for i, j in outcome.pairs)


@settings(deadline=None)
@given(
    count=st.integers(3, FULL),
    seed=st.integers(0, 50),
    where=st.floats(0, 1),
    change=st.sampled_from(["shift", "grow", "score", "class", "drop", "double"]),
    amount=st.floats(1e-3, 0.05),
    sign=st.sampled_from([-1, 1]),
    flipped=st.booleans(),
)
def test_any_single_change_beyond_tolerance_fails(
    count: int, seed: int, where: float, change: str, amount: float, sign: int, flipped: bool
) -> None:
    good = scene(count, seed)
    row = round(where * (count - 1))
    by = sign * amount
    changed = {
        "shift": lambda: put(good, row, box=[by, 0, by, 0]),
        "grow": lambda: put(good, row, box=[0, 0, by, 0]),
        "score": lambda: put(good, row, score=by),
        "class": lambda: put(good, row, klass=9),
        "drop": lambda: take(good, [k for k in range(count) if k != row]),
        "double": lambda: join(good, take(good, [row])),
    }[change]()
    outcome = match_detections(*((changed, good) if flipped else (good, changed)), POLICY)
    assert not outcome.passed
    assert any(u.excuse is None for u in outcome.unmatched)


@settings(deadline=None)
@given(lists(), lists(), st.sampled_from([None, 5]))
def test_the_verdict_does_not_depend_on_which_is_which(
    one: ImageDetections, two: ImageDetections, capacity: int | None
) -> None:
    policy = replace(POLICY, capacity=capacity)
    forth, back = match_detections(one, two, policy), match_detections(two, one, policy)
    assert forth.passed is back.passed
    assert len(forth.pairs) == len(back.pairs)
    if forth.passed:
        assert len(one) - len(forth.pairs) <= 2
        assert len(two) - len(forth.pairs) <= 2
