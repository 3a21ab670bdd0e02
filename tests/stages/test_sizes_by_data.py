"""What is behind a tensor whose size depends on data: splits, squeezes, scatters."""

from __future__ import annotations

import numpy as np
import pytest

from tests.stages.test_rules import compare, run

FOUND = "c = Greater (x, zero) n = NonZero (c)"
"""Positions of what is positive: int64 [1, k]."""


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_padding_is_scattered_nowhere(reduction: str) -> None:
    # Half a place is shared by two updates, so what has no reduction gets places of its own.
    places = "i" if reduction == "none" else "k"
    text = (
        "(float[7] x, float[9] d) => (float[9] y) <float zero = {0}, int64[1] first = {0}, int64 two = {2}>"
        f"{{ {FOUND} i = Squeeze (n, first) u = Gather (x, i) h = Div (i, two) k = Sub (h, two)"
        f' y = ScatterElements <axis = 0, reduction = "{reduction}"> (d, {places}, u) }}'
    )
    report = run(text)
    for x in ([1, -1, 2, 3, -4, 5, 0.5], [-1] * 7, [1, 2, 3, 4, 5, 6, 7]):
        compare(text, report, {"x": np.array(x, np.float32), "d": np.linspace(-3, 3, 9, dtype=np.float32)})


def test_padding_of_a_matrix_is_scattered_nowhere() -> None:
    text = (
        "(float[7] x, float[9, 2] d, float[7, 2] w) => (float[9, 2] y)"
        " <float zero = {0}, int64[1] first = {0}, int64[1] last = {1}, int64[2] wide = {1, 2}>"
        f"{{ {FOUND} i = Squeeze (n, first) u = Gather <axis = 0> (w, i) t = Unsqueeze (i, last)"
        " s = Shape (u) e = Expand (t, s) y = ScatterElements <axis = 0> (d, e, u) }"
    )
    report = run(text)
    rng = np.random.default_rng(1)
    for x in ([1, -1, 2, 3, -4, 5, 0.5], [-1] * 7, [1] * 7):
        feeds = {"x": np.array(x), "d": rng.normal(size=(9, 2)), "w": rng.normal(size=(7, 2))}
        compare(text, report, {k: v.astype(np.float32) for k, v in feeds.items()})


def test_parts_of_fixed_sizes_say_what_the_whole_is() -> None:
    text = (
        "(float[5] x, float[5, 3] w) => (float[3] y, float[1, 3] z)"
        " <float zero = {0}, int64[1] first = {0}, int64[2] parts = {1, 1}>"
        f" {{ {FOUND} i = Squeeze (n, first) u = Gather <axis = 0> (w, i)"
        " a, z = Split <axis = 0> (u, parts) y = Squeeze (a, first) }"
    )
    x = np.array([-1, 2, -3, -4, 5], np.float32)
    w = np.arange(15, dtype=np.float32).reshape(5, 3)
    report = run(text, inputs={"x": x, "w": w})
    assert any("has to be 2" in warning for warning in report.warnings)
    compare(text, report, {"x": x, "w": w})
    compare(text, report, {"x": x[::-1].copy(), "w": w})


def test_what_is_squeezed_is_one() -> None:
    text = (
        "(float[5] x, float[5, 3] w) => (float[3] y) <float zero = {0}, int64[1] first = {0}>"
        f" {{ {FOUND} i = Squeeze (n, first) u = Gather <axis = 0> (w, i) y = Squeeze (u, first) }}"
    )
    x = np.array([-1, -2, -3, 4, -5], np.float32)
    w = np.arange(15, dtype=np.float32).reshape(5, 3)
    report = run(text, inputs={"x": x, "w": w})
    compare(text, report, {"x": x, "w": w})
    compare(text, report, {"x": x[::-1].copy(), "w": w})


def test_experts_that_data_chooses() -> None:
    """Each token goes through the experts chosen for it; sizes are free."""
    text = (
        "(float[n, 3] x, float[2, 3] gate, float[2, 3, 3] experts) => (float[n, 3] y)"
        " <int64[1] one = {1}, int64[1] first = {0}, int64 zero = {0}, int64 uno = {1}, int64[1] begin = {0},"
        " int64[1] end = {1}, float none = {0}>"
        "{ g = Transpose <perm = [1, 0]> (gate) s = MatMul (x, g) e = ArgMax <axis = 1, keepdims = 0> (s)"
        " shape = Shape (x) zeros = ConstantOfShape (shape)"
        " e0 = Equal (e, zero) n0 = NonZero (e0) i0 = Squeeze (n0, first) x0 = Gather <axis = 0> (x, i0)"
        " w0 = Gather <axis = 0> (experts, zero) h0 = MatMul (x0, w0)"
        " head = Slice (zeros, begin, end, first) like = Shape (head) b0 = Expand (h0, like)"
        " t0 = Unsqueeze (i0, one) r0 = Shape (b0) j0 = Expand (t0, r0)"
        ' y0 = ScatterElements <axis = 0, reduction = "add"> (zeros, j0, b0)'
        " e1 = Equal (e, uno) n1 = NonZero (e1) i1 = Squeeze (n1, first) x1 = Gather <axis = 0> (x, i1)"
        " w1 = Gather <axis = 0> (experts, uno) h1 = MatMul (x1, w1)"
        " t1 = Unsqueeze (i1, one) r1 = Shape (h1) j1 = Expand (t1, r1)"
        ' y = ScatterElements <axis = 0, reduction = "add"> (y0, j1, h1) }'
    )
    report = run(text)
    rng = np.random.default_rng(2)
    for n in (1, 4, 9):
        shapes = {"x": (n, 3), "gate": (2, 3), "experts": (2, 3, 3)}
        compare(text, report, {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()})


def test_what_counts_up_is_not_data() -> None:
    """Positions of nothing but ones: their number follows from sizes, and nothing is padded."""
    text = (
        "(float[n, m] x) => (float[n, n] y)"
        " <int64[1] head = {0}, int64[1] first = {1}, int64[1] second = {2}, int64[1] tail = {-1}>"
        "{ s = Shape (x) n1 = Slice (s, head, first) m1 = Slice (s, first, second) flat = Reshape (x, tail)"
        " f = ConstantOfShape <value = int64[1] {1}> (n1) p = NonZero (f) i = Squeeze (p, head)"
        " g = ConstantOfShape <value = int64[1] {1}> (m1) q = NonZero (g) j = Squeeze (q, head)"
        " r = Mul (i, m1) t = Unsqueeze (r, first) w = Add (t, j) a = Gather (flat, w)"
        ' y = Einsum <equation = "ik,jk->ij"> (a, a) }'
    )
    report = run(text)
    assert not report.io_changes
    assert [o.name for o in report.model.graph.output] == ["y"]
    for shape in ((1, 1), (3, 5)):
        x = np.random.default_rng(3).normal(size=shape).astype(np.float32)
        compare(text, report, {"x": x})


@pytest.mark.parametrize(
    "asked",
    [
        "number = ReduceProd <keepdims = 0> (sizes) empty = Equal (number, zero)",
        "number = Gather (sizes, zero) empty = Less (number, one)",
        "number = ReduceProd <keepdims = 0> (sizes) some = Greater (number, zero) empty = Not (some)",
        "number = Size (boxes) some = Cast <to = 9> (number) empty = Not (some)",
    ],
)
def test_suppression_behind_a_guard_on_sizes_of_inputs(asked: str) -> None:
    """An If on whether there are boxes at all: their number follows from an input, and is never nothing."""
    text = (
        "(float[n, 4] boxes, float[n] scores) => (int64[k] kept)"
        " <int64 zero = {0}, int64 one = {1}, int64[1] first = {0}, int64[2] both = {0, 1}, int64[1] second = {1},"
        " int64[1] third = {2}, int64[1] most = {100}, float[1] iou = {0.5}>"
        f"{{ sizes = Shape (boxes) {asked}"
        " kept = If (empty) <then_branch = a () => (int64[0] none) { none = Constant <value = int64[0] {}> () },"
        " else_branch = b () => (int64[q] some_kept) { b3 = Unsqueeze (boxes, first)"
        " s3 = Unsqueeze (scores, both) found = NonMaxSuppression (b3, s3, most, iou)"
        " column = Gather <axis = 1> (found, third) some_kept = Squeeze (column, second) }> }"
    )
    report = run(text)
    rng = np.random.default_rng(4)
    for n in (1, 3, 20):
        corner = rng.random((n, 2), np.float32) * 4
        boxes = np.concatenate([corner, corner + 1 + rng.random((n, 2), np.float32)], 1)
        compare(text, report, {"boxes": boxes, "scores": rng.random(n, np.float32)})


CHOSEN = f"{FOUND} i = Squeeze (n, first) y = Gather <axis = 1> (m, i)"  # float [1, k, 2, 3]
"""As many channels as numbers that are positive."""


@pytest.mark.parametrize(
    "resized",
    [
        'z = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (y, , scales)',
        'z = Resize <mode = "nearest", axes = [2, 3]> (y, , , ends)',
        "s = Shape (y) front = Slice (s, first, two) sizes = Concat <axis = 0> (front, ends)"
        ' z = Resize <mode = "cubic", coordinate_transformation_mode = "align_corners"> (y, , , sizes)',
    ],
)
def test_channels_that_data_chooses_are_resized(resized: str) -> None:
    """Masks of what was found, at the size of the picture: channels stay as many as they are."""
    text = (
        "(float[5] x, float[1, 5, 2, 3] m) => (float[1, k, 5, 7] z)"
        " <int64[1] first = {0}, int64[1] two = {2}, int64[2] ends = {5, 7}, float zero = {0},"
        " float[4] scales = {1, 1, 2.5, 2.4}>"
        f"{{ {CHOSEN} {resized} }}"
    )
    x = np.array([1, -2, 3, 4, -5], np.float32)
    m = np.random.default_rng(5).normal(size=(1, 5, 2, 3)).astype(np.float32)
    report = run(text, inputs={"x": x, "m": m})
    compare(text, report, {"x": x, "m": m})
    compare(text, report, {"x": -x, "m": m})


def test_samples_of_as_many_images_as_data_chooses() -> None:
    """Crops of one picture: it is repeated as often as there are places that were found."""
    text = (
        "(float[5] x, float[5, 2, 2, 2] places, float[1, 3, 4, 4] picture) => (float[k, 3, 2, 2] crops)"
        " <int64[1] first = {0}, int64[3] rest = {3, 4, 4}, float zero = {0}>"
        f"{{ {FOUND} i = Squeeze (n, first) grid = Gather <axis = 0> (places, i)"
        " s = Shape <end = 1> (i) wanted = Concat <axis = 0> (s, rest) images = Expand (picture, wanted)"
        " crops = GridSample (images, grid) }"
    )
    rng = np.random.default_rng(6)
    shapes = {"places": (5, 2, 2, 2), "picture": (1, 3, 4, 4)}
    feeds = {k: rng.uniform(-0.9, 0.9, s).astype(np.float32) for k, s in shapes.items()}
    x = np.array([1, -2, 3, 4, -5], np.float32)
    report = run(text, inputs={"x": x, **feeds})
    compare(text, report, {"x": x, **feeds})
    compare(text, report, {"x": -x, **feeds})


def test_the_first_of_what_was_found_is_written_into_a_buffer() -> None:
    """No more than fit, in front of the buffer: the smaller of a number and a count is not above that number."""
    text = (
        "(float[n] x) => (float[8] y, int64[1] many) <float zero = {0}, int64[1] first = {0}, int64[1] most = {8},"
        " int64[1] last = {-1}, int64[8] all = {0, 1, 2, 3, 4, 5, 6, 7}, float[8] room = {9, 9, 9, 9, 9, 9, 9, 9}>"
        "{ c = Greater (x, zero) f = NonZero (c) i = Squeeze (f, first) j = Slice (i, first, most, first)"
        " v = Gather (x, j) many = Shape (v) part = Slice (room, first, many, first) s = Shape (part)"
        " w = Expand (v, s) q = Slice (all, first, many, first) p = Unsqueeze (q, last) y = ScatterND (room, p, w) }"
    )
    rng = np.random.default_rng(1)
    report = run(text)
    for count in (3, 8, 40):
        x = rng.normal(size=count).astype(np.float32)
        for values in (x, abs(x), -abs(x)):
            compare(text, report, {"x": values})


@pytest.mark.parametrize("cut", [True, False])
def test_as_many_patches_as_the_tokens_that_stand_for_them(cut: bool) -> None:
    """What masked_scatter becomes: the updates are an input of their own, with another room than the places."""
    updates = "u = Slice (flat, first, many)" if cut else "u = Identity (flat)"
    text = (
        "(int64[b, s] tokens, float[b, s, 3] words, float[p, 3] patches) => (float[b, s, 3] y)"
        " <int64 seven = {7}, int64[1] last = {-1}, int64[1] first = {0}, int64[3] wide = {1, 1, 3}>"
        "{ here = Equal (tokens, seven) t = Unsqueeze (here, last) e = Expand (t, wide) n = NonZero (e)"
        " i = Transpose <perm = [1, 0]> (n) shape = Shape (i) many = Gather (shape, first)"
        f" flat = Reshape (patches, last) {updates} y = ScatterND (words, i, u) }}"
    )
    tokens = np.array([[1, 7, 7, 2, 3], [4, 5, 7, 6, 1]])
    rng = np.random.default_rng(3)

    def feeds(patches: int) -> dict[str, np.ndarray]:
        made = {"words": rng.normal(size=(2, 5, 3)), "patches": rng.normal(size=(patches, 3))}
        return {"tokens": tokens, **{k: v.astype(np.float32) for k, v in made.items()}}

    rows = (3, 3, 20) if cut else (3, 3, 3)
    shapes = {"tokens": ((2, 5),) * 3, "words": ((2, 5, 3),) * 3, "patches": tuple((n, 3) for n in rows)}
    report = run(text, inputs=feeds(3), shapes=shapes)
    for patches in (3, 4, 20) if cut else (3,):
        compare(text, report, feeds(patches))


@pytest.mark.parametrize("kind", [1, 10, 16])  # float32, float16, bfloat16
def test_what_is_made_of_rows_that_data_chooses_though_there_may_be_none(kind: int) -> None:
    text = (
        "(float[n, 3] x, float[3, 2] w) => (float[p, 2] y, float[2] most, float[2] least, float[2] mean)"
        " <float zero = {0}, int64 first = {0},"
        " int64[1] rows = {0}> { c = Gather <axis = 1> (x, first) k = Greater (c, zero) i = NonZero (k)"
        f" at = Squeeze (i, rows) h = Cast <to = {kind}> (x) v = Cast <to = {kind}> (w) z = Gather <axis = 0> (h, at)"
        " t = MatMul (z, v) a = ReduceMax <keepdims = 0> (t, rows) b = ReduceMin <keepdims = 0> (t, rows)"
        " m = ReduceMean <keepdims = 0> (t, rows) y = Cast <to = 1> (t) most = Cast <to = 1> (a)"
        " least = Cast <to = 1> (b) mean = Cast <to = 1> (m) }"
    )
    report = run(text, shapes={"x": ((2, 3), (5, 3), (9, 3)), "w": ((3, 2),) * 3})
    rng = np.random.default_rng(4)
    for n in (2, 5, 9):
        feeds = {"x": rng.integers(-3, 4, (n, 3)), "w": rng.integers(-3, 4, (3, 2))}
        feeds["x"][:, 0] = -1 if n == 5 else 1
        feeds["x"][1, 0] = -1
        compare(text, report, {k: v.astype(np.float32) for k, v in feeds.items()})
