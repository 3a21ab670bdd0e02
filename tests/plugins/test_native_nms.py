"""The native suppression against ONNX Runtime's NonMaxSuppression, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest
from engine_builds import assert_builds
from hypothesis import given, settings
from hypothesis import strategies as st
from nms_reference import make_inputs, ort_nms, reference
from onnx import TensorProto, helper
from runtime import run

from surgery.graph.body import SMALLEST, Body
from surgery.plugins.inline import inline_call
from surgery.plugins.native_nms import Form, NmsSpec, choose_form, nms_function
from surgery.plugins.nms_forms import Geometry, one_per_round
from surgery.plugins.nms_spec import FIXPOINT_PAIRS, TOPK_LIMIT

FORMS: tuple[Form, ...] = ("select", "fixpoint")
OUTPUTS = ("count", "boxes", "scores", "classes", "indices")


def model_of(spec: NmsSpec, form: Form | None, opset: int = 17, batch: int | str = "B") -> onnx.ModelProto:
    function = nms_function(spec, domain="test", name="Nms", opset=opset, form=form)
    n, c, k = spec.num_boxes, spec.num_classes, spec.max_total
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Nms", ["in_boxes", "in_scores"], list(OUTPUTS), name="nms", domain="test")],
        "nms",
        [
            value("in_boxes", TensorProto.FLOAT, [batch, n, 4] if spec.shared_boxes else [batch, n, c, 4]),
            value("in_scores", TensorProto.FLOAT, [batch, n, c]),
        ],
        [
            value("count", TensorProto.INT32, [batch]),
            value("boxes", TensorProto.FLOAT, [batch, k, 4]),
            value("scores", TensorProto.FLOAT, [batch, k]),
            value("classes", TensorProto.INT32, [batch, k]),
            value("indices", TensorProto.INT32, [batch, k]),
        ],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("test", 1)]
    return helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=8)


def assert_equal(
    spec: NmsSpec, form: Form | None, boxes: np.ndarray, scores: np.ndarray, opset: int = 17
) -> int:
    """Compares all outputs; returns the number of detections."""
    found = run(model_of(spec, form, opset), [boxes, scores])
    wanted = reference(spec, boxes, scores)
    for name, got in zip(OUTPUTS, found, strict=True):
        want = getattr(wanted, name)
        assert got.dtype == want.dtype, name
        np.testing.assert_array_equal(got, want, err_msg=f"{name} of {form}")
    return int(wanted.count.sum())


BASE = NmsSpec(50, 4, 20, 10, 0.5, 0.3)
SPECS = {
    "per-class": BASE,
    "one-class": NmsSpec(60, 1, 20, 20, 0.5, 0.3),
    "ninety-classes": NmsSpec(120, 90, 50, 20, 0.6, 0.2, background_class=0),
    "boxes-per-class": replace(BASE, shared_boxes=False),
    "class-agnostic": replace(BASE, class_agnostic=True, max_per_class=20),
    "class-agnostic-boxes-per-class": replace(
        BASE, class_agnostic=True, max_per_class=20, shared_boxes=False, background_class=3
    ),
    "background-first": replace(BASE, background_class=0),
    "background-in-the-middle": replace(BASE, background_class=2),
    "background-last": replace(BASE, background_class=3),
    "clipped": replace(BASE, clip_window=(0.2, 0.3, 0.7, 0.8)),
    "pruned": replace(BASE, clip_window=(0.3, 0.3, 0.6, 0.6), prune_empty=True, max_per_class=8),
    "pruned-one-class": NmsSpec(
        60, 1, 20, 30, 0.5, 0.3, clip_window=(0.4, 0.4, 0.6, 0.6), prune_empty=True, pad_class=-1
    ),
    "pruned-boxes-per-class": replace(
        BASE, clip_window=(0.3, 0.3, 0.6, 0.6), prune_empty=True, shared_boxes=False
    ),
    "centre-and-size": replace(BASE, center_point_box=True),
    "fewer-boxes-than-rounds": NmsSpec(
        5, 3, 40, 30, 0.5, 0.3, pad_score=-7, pad_class=-1, pad_box=9, pad_index=-3
    ),
    "more-rows-than-candidates": NmsSpec(12, 2, 300, 4, 0.5, 0.3, pad_score=-1, pad_index=-1),
    "negative-scores": replace(BASE, score_threshold=-0.7),
    "box-major": replace(BASE, box_major_ties=True),
    "box-major-class-agnostic": replace(BASE, box_major_ties=True, class_agnostic=True, max_per_class=20),
    "box-major-more-rows": NmsSpec(12, 3, 90, 12, 0.5, 0.6, box_major_ties=True, background_class=1),
    "one-box": NmsSpec(1, 1, 1, 1, 0.5, 0.3),
    "threshold-zero": replace(BASE, iou_threshold=0.0),
    "threshold-one": replace(BASE, iou_threshold=1.0),
}
DATA = {
    "random": {},
    "ties": {"levels": 5},
    "all-equal": {"levels": 1},
    "duplicates": {"duplicates": True},
    "duplicates-and-ties": {"duplicates": True, "levels": 4},
    "swapped-corners": {"swapped": True},
    "without-area": {"flat": True, "levels": 6},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", SPECS)
def test_equals_onnx_runtime(name: str, data: str, form: Form) -> None:
    rng = np.random.default_rng(len(name) * 100 + len(data))
    for batch in (1, 3):
        boxes, scores = make_inputs(rng, SPECS[name], batch, **DATA[data])
        if SPECS[name].score_threshold < 0:
            scores = scores * 2 - 1
        assert_equal(SPECS[name], form, boxes, scores)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("opset", [11, 12, 13, 17, 18, 21, 23])
def test_every_opset(opset: int, form: Form) -> None:
    rng = np.random.default_rng(opset)
    spec = replace(SPECS["pruned"], background_class=1, max_total=60)
    boxes, scores = make_inputs(rng, spec, 2, levels=8, duplicates=True)
    assert assert_equal(spec, form, boxes, scores, opset) > 10


@pytest.mark.parametrize("form", FORMS)
def test_nothing_above_the_threshold(form: Form) -> None:
    spec = replace(BASE, pad_class=-1, pad_score=-2.0, pad_box=5.0, pad_index=-9, score_threshold=1.5)
    boxes, scores = make_inputs(np.random.default_rng(0), spec, 2)
    assert assert_equal(spec, form, boxes, scores) == 0


@pytest.mark.parametrize("form", FORMS)
def test_detections_in_one_image_only(form: Form) -> None:
    boxes, scores = make_inputs(np.random.default_rng(0), BASE, 3)
    scores[0] = 0
    scores[2] = 0
    assert assert_equal(BASE, form, boxes, scores) == 20


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e10, 1e18, 1e25])
def test_tiny_and_huge_coordinates(scale: float, form: Form) -> None:
    """Areas underflow or overflow; infinities compare as they do in ONNX Runtime."""
    boxes, scores = make_inputs(np.random.default_rng(3), BASE, 2, levels=9)
    with np.errstate(over="ignore"):
        boxes = (boxes * np.float32(scale)).astype(np.float32)
    assert_equal(BASE, form, boxes, scores)


@pytest.mark.parametrize("form", FORMS)
def test_huge_scores(form: Form) -> None:
    spec = replace(BASE, score_threshold=-3.0e38)
    boxes, scores = make_inputs(np.random.default_rng(3), spec, 1, levels=9)
    scores = ((scores.astype(np.float64) - 0.5) * 6.5e38).astype(np.float32)
    assert np.isfinite(scores).all()
    assert_equal(spec, form, boxes, scores)


@pytest.mark.parametrize("form", FORMS)
def test_a_long_chain_of_suppressions(form: Form) -> None:
    """Each box overlaps its neighbours only, and scores fall: every box depends on the one before it."""
    n = 200
    left = np.arange(n, dtype=np.float32)
    boxes = np.stack([left, np.zeros(n), left + 1.9, np.ones(n)], axis=1).astype(np.float32)[None]
    scores = np.linspace(1, 0.5, n, dtype=np.float32)[None, :, None]
    spec = NmsSpec(n, 1, n, n, 0.2, 0.1)
    assert assert_equal(spec, form, boxes, scores) == n // 2


@pytest.mark.parametrize("form", FORMS)
def test_iou_exactly_at_the_threshold(form: Form) -> None:
    """IoU 0.5 exactly: ONNX keeps the second box, suppression at >= drops it."""
    boxes = np.array([[[0, 0, 2, 1], [0, 0, 1, 1]]], np.float32)
    scores = np.array([[[0.9], [0.8]]], np.float32)
    spec = NmsSpec(2, 1, 2, 2, 0.5, 0.1)
    assert assert_equal(spec, form, boxes, scores) == 2
    (count, *_) = run(model_of(replace(spec, suppress_at_equal=True), form), [boxes, scores])
    assert count[0] == 1


@pytest.mark.parametrize("form", FORMS)
def test_score_exactly_at_the_threshold(form: Form) -> None:
    boxes = np.array([[[0, 0, 1, 1], [2, 2, 3, 3]]], np.float32)
    scores = np.array([[[0.5], [0.75]]], np.float32)
    spec = NmsSpec(2, 1, 2, 2, 0.5, 0.5)
    assert assert_equal(spec, form, boxes, scores) == 1
    (count, *_) = run(model_of(replace(spec, keep_at_equal=True), form), [boxes, scores])
    assert count[0] == 2


def capped_reference(spec: NmsSpec, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Scores with everything beyond the candidate caps far below the threshold (ties: lowest index first)."""
    masked = np.full_like(scores, -9.0)
    for image in range(len(scores)):
        rows = []
        for c in range(spec.num_classes):
            order = np.argsort(-scores[image, :, c], kind="stable")
            rows += [(c, n) for n in order[: spec.candidates_per_class]]
        order = (
            (-scores[image, n, c], n, c) if spec.box_major_ties else (-scores[image, n, c], c, n)
            for c, n in rows
        )
        for key in sorted(order)[: spec.candidates_per_image]:
            n, c = key[1:] if spec.box_major_ties else key[:0:-1]
            masked[image, n, c] = scores[image, n, c]
    return masked


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("levels", [None, 6, 1])
@pytest.mark.parametrize(
    ("per_class", "per_image"), [(7, None), (None, 30), (9, 25), (50, 200), (1, None), (None, 1)]
)
@pytest.mark.parametrize("box_major", [False, True])
def test_candidate_caps(
    per_class: int | None, per_image: int | None, levels: int | None, form: Form, box_major: bool
) -> None:
    spec = replace(
        BASE,
        candidates_per_class=per_class,
        candidates_per_image=per_image,
        box_major_ties=box_major,
        iou_threshold=0.1,
    )
    boxes, scores = make_inputs(np.random.default_rng(1), spec, 2, levels=levels)
    found = run(model_of(spec, form), [boxes, scores])
    free = replace(spec, candidates_per_class=None, candidates_per_image=None)
    wanted = reference(free, boxes, capped_reference(spec, boxes, scores))
    for name, got in zip(OUTPUTS, found, strict=True):
        np.testing.assert_array_equal(got, getattr(wanted, name), err_msg=name)


@pytest.mark.parametrize("levels", [None, 3000, 2, 1])
@pytest.mark.parametrize("cap", [TOPK_LIMIT + 1, 5000, 2 * TOPK_LIMIT])
def test_caps_beyond_one_topk(cap: int, levels: int | None) -> None:
    """A cap above what TensorRT's TopK takes is made of two of them."""
    spec = NmsSpec(9000, 1, 40, 40, 0.05, 0.0, candidates_per_class=cap)
    boxes, scores = make_inputs(np.random.default_rng(cap), spec, 1, levels=levels)
    model = model_of(spec, "select")
    counts = [n.attribute for n in model.functions[0].node if n.op_type == "TopK"]
    assert len(counts) == 2
    found = run(model, [boxes, scores])
    order = np.argsort(-scores[0, :, 0], kind="stable")
    masked = np.full_like(scores, -1)
    masked[0, order[:cap], 0] = scores[0, order[:cap], 0]
    wanted = reference(replace(spec, candidates_per_class=None), boxes, masked)
    for name, got in zip(OUTPUTS, found, strict=True):
        np.testing.assert_array_equal(got, getattr(wanted, name), err_msg=name)


@st.composite
def problems(draw: st.DrawFn) -> tuple[NmsSpec, np.ndarray, np.ndarray, Form]:
    """A small specification with data on coarse grids, so that ties, duplicates and exact IoUs are common."""
    n, c = draw(st.integers(1, 14)), draw(st.integers(1, 4))
    k, agnostic = draw(st.integers(1, 20)), draw(st.booleans())
    prune = draw(st.booleans())
    spec = NmsSpec(
        n,
        c,
        k,
        k if agnostic else draw(st.integers(1, 10)),
        draw(st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.75, 1.0])),
        draw(st.sampled_from([-1.0, 0.0, 0.25, 0.5])),
        shared_boxes=draw(st.booleans()),
        class_agnostic=agnostic,
        background_class=draw(st.integers(-1, c - 1)) if c > 1 else -1,
        box_major_ties=draw(st.booleans()),
        clip_window=(1.0, 0.0, 3.0, 2.0) if prune or draw(st.booleans()) else None,
        prune_empty=prune,
        pad_class=draw(st.sampled_from([0, -1])),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch = draw(st.integers(1, 2))
    boxes = rng.integers(0, draw(st.integers(2, 6)), (batch, n, c, 4)).astype(np.float32)
    scores = (rng.integers(-4, 5, (batch, n, c)) / 4).astype(np.float32)
    return spec, boxes[:, :, 0] if spec.shared_boxes else boxes, scores, draw(st.sampled_from(FORMS))


@settings(max_examples=300, deadline=None)
@given(problems())
def test_any_small_problem(problem: tuple[NmsSpec, np.ndarray, np.ndarray, Form]) -> None:
    spec, boxes, scores, form = problem
    assert_equal(spec, form, boxes, scores)


def test_both_forms_on_a_real_size() -> None:
    """SSD at 300x300: 1917 boxes, 20 classes, 100 a class; and the two forms agree with each other too."""
    spec = NmsSpec(1917, 20, 100, 100, 0.6, 1e-8, background_class=0)
    boxes, scores = make_inputs(np.random.default_rng(0), spec, 1, levels=64)
    assert assert_equal(spec, "select", boxes, scores) == 100
    small = NmsSpec(1000, 1, 300, 300, 0.5, 0.05)
    boxes, scores = make_inputs(np.random.default_rng(1), small, 2)
    assert_equal(small, "select", boxes, scores)
    assert_equal(small, "fixpoint", boxes, scores)


def test_choice_of_form_is_bounded_in_memory() -> None:
    assert choose_form(NmsSpec(1000, 1, 100, 100, 0.5, 0.1), 1) == "fixpoint"
    assert choose_form(NmsSpec(1917, 90, 100, 100, 0.6, 0.1), 1) == "select"
    assert choose_form(NmsSpec(1000, 1, 100, 100, 0.5, 0.1), 64) == "select"
    assert choose_form(NmsSpec(1917, 1, 100, 100, 0.5, 0.1)) == "select"  # an open batch counts as 4
    for n in (100, 1000, 3000):
        for c in (1, 10):
            spec = NmsSpec(n, c, 100, 100, 0.5, 0.1, class_agnostic=True)
            if choose_form(spec, 2) == "fixpoint":
                assert 2 * (n * c) ** 2 <= FIXPOINT_PAIRS


def test_no_operator_that_tensorrt_lacks_and_no_tie_left_to_topk() -> None:
    for form in FORMS:
        function = nms_function(SPECS["pruned"], domain="d", name="n", opset=17, form=form)
        used = {n.op_type for n in function.node}
        loops = [n for n in function.node if n.op_type == "Loop"]
        for loop in loops:
            used |= {n.op_type for n in loop.attribute[0].g.node}
        assert not used & {"NonMaxSuppression", "NonZero", "Unique", "ArgMax", "Compress"}
        assert len(loops) == 1
        # A counted loop has no condition, a conditional one has: TensorRT refuses the body otherwise.
        assert bool(loops[0].input[1]) == (form == "fixpoint")


def test_the_same_specification_gives_the_same_bytes() -> None:
    functions = [nms_function(SPECS["pruned"], domain="d", name="n", opset=17) for _ in range(2)]
    assert functions[0].SerializeToString() == functions[1].SerializeToString()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"num_boxes": 0}, "num_boxes"),
        ({"max_total": 0}, "max_total"),
        ({"iou_threshold": 1.5}, "iou_threshold"),
        ({"iou_threshold": 0.0, "suppress_at_equal": True}, "iou_threshold"),
        ({"score_threshold": float("inf")}, "score_threshold"),
        ({"score_threshold": float("nan")}, "score_threshold"),
        ({"center_point_box": True, "prune_empty": True}, "corners"),
        ({"class_agnostic": True}, "max_per_class"),
        ({"num_classes": 1, "background_class": 0}, "background"),
        ({"num_boxes": 10**6}, "exact"),
        ({"candidates_per_class": 10**4}, "candidates_per_class"),
    ],
)
def test_what_cannot_be_computed_is_refused(change: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        replace(BASE, **change)


def test_an_opset_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="opsets 11 to 28"):
        nms_function(BASE, domain="d", name="n", opset=10)


def test_the_reference_is_onnx_runtime() -> None:
    """The reference itself, on the example of the ONNX specification."""
    boxes = np.array(
        [
            [0, 0, 1, 1],
            [0, 0.1, 1, 1.1],
            [0, -0.1, 1, 0.9],
            [0, 10, 1, 11],
            [0, 10.1, 1, 11.1],
            [0, 100, 1, 101],
        ],
        np.float32,
    )
    scores = np.array([0.9, 0.75, 0.6, 0.95, 0.5, 0.3], np.float32)
    assert list(ort_nms(boxes, scores, 3, NmsSpec(6, 1, 3, 3, 0.5, 0.0))) == [3, 0, 5]


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    nodes = inline_call(model.graph.node[0], model.functions[0])
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    del result.functions[:]
    return result


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, "B"], ids=["fixed", "open"])
@pytest.mark.parametrize("opset", [11, 13, 17, 21])
@pytest.mark.parametrize("form", FORMS)
def test_builds_on_tensorrt_rtx(form: Form, opset: int, batch: int | str) -> None:
    spec = replace(SPECS["pruned"], background_class=1, max_total=60)
    assert_builds(inlined(model_of(spec, form, opset, batch)))


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, "B"], ids=["fixed", "open"])
@pytest.mark.parametrize(
    "spec",
    [
        NmsSpec(1917, 90, 100, 100, 0.6, 1e-8, clip_window=(0, 0, 1, 1)),
        NmsSpec(8400, 80, 300, 300, 0.45, 0.25, class_agnostic=True),
        NmsSpec(8400, 2, 100, 100, 0.5, 0.1, candidates_per_class=4096, candidates_per_image=5000),
        NmsSpec(1000, 1, 100, 100, 0.5, 0.2),
    ],
    ids=["ssd", "yolo-class-agnostic", "caps", "one-class"],
)
def test_real_sizes_build_on_tensorrt_rtx(spec: NmsSpec, batch: int | str) -> None:
    assert_builds(inlined(model_of(spec, None, 17, batch)))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31])
def test_a_chain_in_which_each_box_would_suppress_the_next(size: int) -> None:
    """The longest way to the fixpoint: every other box stays, and each is settled by the one before it."""
    left = np.arange(size, dtype=np.float32) * 3
    boxes = np.stack([left, np.zeros(size), left + 10, np.ones(size)], -1).astype(np.float32)[None]
    scores = np.linspace(0.9, 0.4, size, dtype=np.float32).reshape(1, size, 1)
    spec = NmsSpec(size, 1, size, size, 0.5, 0.3)
    assert assert_equal(spec, "fixpoint", boxes, scores) == -(-size // 2)


# -- boxes of another kind -----------------------------------------------------------------------------------

GROUPS, POINTS, POINT_ROUNDS = 3, 20, 8
REACH = 0.15


def too_close(b: Body, one: Sequence[str], everyone: Sequence[str]) -> str:
    """Neither the point itself nor another one at its place is."""
    apart = b.op("Abs", b.sub(everyone[0], one[0]))
    return b.logical_and(b.less(apart, b.scalar(REACH)), b.greater(apart, b.scalar(0.0)))


def points_model(shared: bool, masked: bool) -> onnx.ModelProto:
    """Points on a line: places [2, N or G * N, 1] and scores [2, G, N] to scores and positions [2, G, M]."""
    b, value = Body(17), helper.make_tensor_value_info
    spec = NmsSpec(POINTS, GROUPS, POINT_ROUNDS, POINT_ROUNDS, 0.0, 0.0)
    found = one_per_round(b, spec, Geometry(["at"], too_close, masked), "scores", shared=shared)
    rows, float32 = POINTS if shared else GROUPS * POINTS, TensorProto.FLOAT
    inputs = [value("at", float32, [2, rows, 1]), value("scores", float32, [2, GROUPS, POINTS])]
    outputs = [value(n, float32, [2, GROUPS, POINT_ROUNDS]) for n in (found.scores, found.positions)]
    graph = helper.make_graph(b.nodes, "points", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def greedy_points(at: np.ndarray, scores: np.ndarray) -> list[tuple[float, int]]:
    """Scores and positions of one group by the plain loop; the first of equal scores wins."""
    left, found = scores.copy(), []
    while len(found) < POINT_ROUNDS and left.max() > SMALLEST:
        best = int(left.argmax())
        found.append((float(left[best]), best))
        apart = np.abs(at - at[best])
        left[(apart > 0) & (apart < np.float32(REACH))] = SMALLEST
        left[best] = SMALLEST
    return found


@pytest.mark.parametrize("masked", [False, True], ids=["scores-carried", "mask-carried"])
@pytest.mark.parametrize("shared", [False, True], ids=["own-points", "shared-points"])
def test_one_loop_for_any_geometry_and_either_state(shared: bool, masked: bool) -> None:
    rng = np.random.default_rng(5)
    at = rng.uniform(0, 1, (2, POINTS if shared else GROUPS * POINTS, 1)).astype(np.float32)
    scores = (rng.integers(-3, 3, (2, GROUPS, POINTS)) / 3).astype(np.float32)  # ties, also below 0
    scores[rng.uniform(size=scores.shape) < 0.3] = SMALLEST
    scores[1, 2] = SMALLEST  # nothing takes part
    best, positions = run(points_model(shared, masked), [at, scores])
    counts = set()
    for image in range(2):
        for group in range(GROUPS):
            own = at[image, :, 0] if shared else at[image, :, 0].reshape(GROUPS, POINTS)[group]
            wanted = greedy_points(own, scores[image, group])
            valid = best[image, group] > SMALLEST
            got = zip(
                best[image, group][valid].tolist(), positions[image, group][valid].tolist(), strict=True
            )
            assert list(got) == wanted
            assert valid[: len(wanted)].all()
            counts.add(len(wanted))
    assert 0 in counts
    assert len(counts) > 1
