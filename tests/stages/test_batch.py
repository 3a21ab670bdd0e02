"""A fixed batch made free: what is made, and what is refused with which reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import surgery
from surgery.errors import ConversionError
from surgery.graph.evaluate import Evaluator
from surgery.graph.load import load_model
from surgery.stages.batch import free_batch


def parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')


WORKS = {
    "reshape": """g (float[1,4,6] x) => (float[1,24] y) {
        s = Constant <value = int64[2] {1, 24}> () y = Reshape (x, s) }""",
    "token": """g (float[1,3,2] x) => (float[1,4,2] y) <float[1,1,2] t = {1, 2}> {
        y = Concat <axis = 1> (t, x) }""",
    "lstm": """g (float[1,3,2] x) => (float[3,1,1,4] y) <float[1,16,2] w, float[1,16,4] r, float[1,1,4] h> {
        s = Transpose <perm = [1, 0, 2]> (x) y = LSTM <hidden_size = 4> (s, w, r, , , h, h) }""",
    "mask": """g (int64[1,4] mask) => (float[1,1,2,4] y) {
        s = Constant <value = int64[1] {-1}> () f = Reshape (mask, s)
        i = Constant <value = int64[1,1,2,4] {0,1,2,3,0,1,2,3}> () g = Gather (f, i) y = Cast <to = 1> (g) }""",
    "loose": "g (float[2,3] x) => (float[2,3] y) { y = Relu (x) }",
    "boxes of all pictures": """g (float[1,4,6] x) => (float[1,4,6] y) <float[4,6] t> {
        s = Constant <value = int64[2] {4, 6}> () r = Reshape (x, s) a = Add (r, t)
        e = Constant <value = int64[3] {1, 4, 6}> () y = Reshape (a, e) }""",
    "heads and samples in one axis": """g (float[1,4,2,3] x) => (float[1,4,2,2] y) <float[4,3,2] t> {
        s = Constant <value = int64[3] {4, 2, 3}> () r = Reshape (x, s) a = MatMul (r, t)
        e = Constant <value = int64[4] {1, 4, 2, 2}> () y = Reshape (a, e) }""",
    "halves": """g (float[2,3,4] x) => (float[6,4] y) <float[3,4] t> {
        two = Constant <value = int64[3] {2, 3, 4}> () w = Expand (t, two)
        s = Constant <value = int64[2] {6, 4}> () a = Add (x, w) y = Reshape (a, s) }""",
    "tokens before samples": """g (float[1,5,2,3] x) => (float[5,1,4] y) <float[6,4] w, float[4] b> {
        o = Transpose <perm = [1, 0, 2, 3]> (x) s = Constant <value = int64[2] {5, 6}> () r = Reshape (o, s)
        a = Gemm (r, w, b) e = Constant <value = int64[3] {5, 1, 4}> () y = Reshape (a, e) }""",
    "different axes": """g (float[1,3,4] x) => (float[3,1,4] y) <float[4,4] w> {
        t = Transpose <perm = [1, 0, 2]> (x) s = Constant <value = int64[3] {3, 1, 4}> () r = Reshape (x, s)
        y = Add (t, r) }""",
    "one of the samples' rows": """g (float[1,6,2] x) => (float[1,3,2] y) {
        s = Constant <value = int64[2] {6, 2}> () r = Reshape (x, s) i = Constant <value = int64[3] {4, -1, 0}> ()
        t = Gather (r, i) e = Constant <value = int64[3] {1, 3, 2}> () y = Reshape (t, e) }""",
    "the best rows": """g (float[1,6,2] x) => (float[1,3,2] y) {
        s = Constant <value = int64[2] {6, 2}> () r = Reshape (x, s) m = ReduceMax <axes = [2], keepdims = 0> (x)
        k = Constant <value = int64[1] {3}> () v, i = TopK (m, k) f = Constant <value = int64[1] {3}> ()
        j = Reshape (i, f) t = Gather (r, j) e = Constant <value = int64[3] {1, 3, 2}> () y = Reshape (t, e) }""",
    "written by index": """g (float[1,4,3] x) => (float[1,4,3] y) <float[1,2,3] u> {
        i = Constant <value = int64[1,2,2] {0, 3, 0, 1}> () y = ScatterND (x, i, u) }""",
    "read by index": """g (float[1,4,3] x) => (float[2,3] y) {
        i = Constant <value = int64[2,2] {0, 3, 0, 1}> () y = GatherND (x, i) }""",
    "entry by entry": """g (float[1,6] x) => (float[1,6] y) {
        s = Constant <value = int64[1] {6}> () r = Reshape (x, s)
        i = Constant <value = int64[6] {5, 4, 3, 2, 1, 0}> () t = GatherElements (r, i)
        e = Constant <value = int64[2] {1, 6}> () y = Reshape (t, e) }""",
    "letters for dots": """g (float[1,2,3] x) => (float[1,2,2] y) <float[3,2] w> {
        y = Einsum <equation = "...ij,jk->...ik"> (x, w) }""",
    "two": "g (float[2,3] x) => (float[6] y) { s = Constant <value = int64[1] {6}> () y = Reshape (x, s) }",
}  # fmt: skip


AXES = {"different axes": 1, "tokens before samples": 1}
"""Where the batch is in the output, if not in front."""


def model_of(name: str) -> onnx.ModelProto:
    model = parsed(WORKS[name])
    rng = np.random.default_rng(0)
    for value in model.graph.value_info:  # weights without numbers in the text
        array = rng.normal(0, 1, [d.dim_value for d in value.type.tensor_type.shape.dim]).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
    del model.graph.value_info[:]
    return model


@pytest.mark.parametrize("name", [n for n in WORKS if n not in ("lstm", "mask")])
def test_samples_stay_apart(name: str) -> None:
    given = model_of(name)
    source, edit = free_batch(load_model(given), lambda m: m)
    assert edit.rule == "dynamic-batch"
    assert edit.verified == "passed"
    first = source.proto.graph.input[0].type.tensor_type.shape.dim
    assert first[0].dim_param == "batch"
    size = given.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    shape = [d.dim_value for d in given.graph.input[0].type.tensor_type.shape.dim]
    rows = np.random.default_rng(1).normal(0, 1, (3, *shape[1:])).astype(np.float32)
    together = Evaluator(source.proto).run({"x": rows})["y"]
    alone = [Evaluator(given).run({"x": np.repeat(row[None], size, 0)})["y"] for row in rows]
    axis = AXES.get(name, 0)
    wanted = np.concatenate([np.split(a, size, axis)[0] for a in alone], axis)
    np.testing.assert_allclose(together, wanted, rtol=1e-5, atol=1e-6)


def test_axes_that_move() -> None:
    source, _ = free_batch(load_model(model_of("lstm")), lambda m: m)
    x = np.zeros((3, 3, 2), np.float32)
    assert Evaluator(source.proto).run({"x": x})["y"].shape == (3, 1, 3, 4)


def test_functions_of_the_model_are_written_out() -> None:
    given = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[1,4,6] x) => (float[1,24] y) { y = own.rows (x) }
        <domain: "own", opset_import: ["" : 17]> rows (x) => (y) {
            s = Constant <value = int64[2] {1, 24}> () y = Reshape (x, s) }""")
    source, _ = free_batch(load_model(given), lambda m: m)
    x = np.random.default_rng(0).normal(0, 1, (3, 4, 6)).astype(np.float32)
    np.testing.assert_array_equal(Evaluator(source.proto).run({"x": x})["y"], x.reshape(3, 24))


def test_attention_masks_read_number_by_number() -> None:
    source, _ = free_batch(load_model(model_of("mask")), lambda m: m)
    mask = np.array([[1, 0, 1, 0], [0, 1, 1, 1]])
    got = Evaluator(source.proto).run({"mask": mask})["y"]
    np.testing.assert_array_equal(got[:, 0, 0], mask.astype(np.float32))


CHOSEN = """g (float[1,6,4] boxes, float[1,2,6] scores) => (float[1,3,4] best) {
    most = Constant <value = int64 {3}> () all = Constant <value = float {1}> ()
    list = NonMaxSuppression (boxes, scores, most, all) two = Constant <value = int64[1] {2}> ()
    zero = Constant <value = int64[1] {0}> () three = Constant <value = int64[1] {3}> ()
    which = Gather <axis = 1> (list, two) one = Constant <value = int64[1] {1}> () index = Squeeze (which, one)
    row = Squeeze (boxes, zero) taken = Gather (row, index) first = Slice (taken, zero, three)
    best = Unsqueeze (first, zero) }"""
"""The boxes that are left of the only picture, as a head written for one picture takes them out."""

LISTED = """g (float[1,6,4] boxes, float[1,2,6] scores) => (int64[n,3] list) {
    most = Constant <value = int64 {3}> () half = Constant <value = float {0.5}> ()
    list = NonMaxSuppression (boxes, scores, most, half) }"""

TURNS = """g (float[1,3] x) => (float[1,3] y) {
    turns = Constant <value = int64 {1}> () go = Constant <value = bool {1}> ()
    y = Loop (turns, go) <body = each (int64 i, bool on) => (bool further, float[3] row) {
        one = Constant <value = int64 {1}> () next = Add (i, one) further = Less (next, one)
        taken = Gather (x, i) row = Relu (taken) }> }"""
"""What TensorFlow makes of a function of each picture, of which there is one."""


def boxes_of(model: onnx.ModelProto, count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 1, (count, 6, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.1, 1, corner.shape)], -1)
    return {"boxes": boxes.astype(np.float32), "scores": rng.uniform(0, 1, (count, 2, 6)).astype(np.float32)}


def test_what_is_for_one_picture_runs_picture_by_picture() -> None:
    given = parsed(CHOSEN)
    source, _ = free_batch(load_model(given), lambda m: m)
    assert [n.op_type for n in source.proto.graph.node if n.op_type in ("Loop", "NonMaxSuppression")] == [
        "Loop"
    ]
    feeds = boxes_of(given, 3)
    together = Evaluator(source.proto).run(feeds)["best"]
    assert together.shape == (3, 3, 4)
    for i in range(3):
        alone = Evaluator(given).run({n: v[i : i + 1] for n, v in feeds.items()})["best"]
        np.testing.assert_array_equal(together[i : i + 1], alone)


def test_a_list_whose_rows_say_which_picture_stays_a_list() -> None:
    given = parsed(LISTED)
    source, _ = free_batch(load_model(given), lambda m: m)
    assert all(n.op_type != "Loop" for n in source.proto.graph.node)
    feeds = boxes_of(given, 3)
    rows = Evaluator(source.proto).run(feeds)["list"]
    for i in range(3):
        alone = Evaluator(given).run({n: v[i : i + 1] for n, v in feeds.items()})["list"]
        np.testing.assert_array_equal(rows[rows[:, 0] == i][:, 1:], alone[:, 1:])


def test_a_loop_with_a_turn_for_the_only_picture_turns_for_each() -> None:
    source, _ = free_batch(load_model(parsed(TURNS)), lambda m: m)
    x = np.random.default_rng(0).normal(0, 1, (4, 3)).astype(np.float32)
    np.testing.assert_array_equal(Evaluator(source.proto).run({"x": x})["y"], np.maximum(x, 0))


REFUSED = {
    "softmax": ("g (float[1,3] x) => (float[1,3] y) { y = Softmax <axis = 0> (x) }", "along the batch"),
    "mean": ("g (float[1,3] x) => (float[] y) { y = ReduceMean <keepdims = 0> (x) }", "along the batch"),
    "boxes": (
        """g (float[1,4,4] b, float[1,2,4] s) => (int64[n] y) { k = Constant <value = int64 {3}> ()
        l = NonMaxSuppression (b, s, k) two = Constant <value = int64 {2}> () y = Gather <axis = 1> (l, two) }""",
        "one list of boxes",
    ),
    "as many as it says": (
        """g (float[1,9] x) => (float[1,n] y) { a = Constant <value = int64[1] {0}> () s = Squeeze (x, a)
        z = Constant <value = float {0}> () m = Greater (s, z) c = Compress (s, m) y = Unsqueeze (c, a) }""",
        "how long the output 'y' is",
    ),
    "free": ("g (float[n,3] x) => (float[n,3] y) { y = Relu (x) }", "free already"),
    "picture": ("g (float[3,8,8] x) => (float[3,8,8] y) { y = Relu (x) }", "one picture"),
    "heads without a batch": (
        """g (float[1,5,8] x) => (float[1,5,8] y) {
        s = Constant <value = int64[3] {5, 2, 4}> () h = Reshape (x, s) t = Transpose <perm = [1, 0, 2]> (h)
        u = Transpose <perm = [0, 2, 1]> (t) m = MatMul (t, u) p = Softmax (m) o = MatMul (p, t)
        b = Transpose <perm = [1, 0, 2]> (o) f = Constant <value = int64[3] {1, 5, 8}> () y = Reshape (b, f) }""",
        "different axes",
    ),
    "pairs": ("g (float[1,3] x) => (float[1,1] y) { t = Transpose (x) y = MatMul (x, t) }", "different axes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_mixes_samples_is_refused(name: str) -> None:
    text, reason = REFUSED[name]
    with pytest.raises(ConversionError, match=reason) as caught:
        free_batch(load_model(parsed(text)), lambda m: m)
    assert caught.value.code == "no-batch"


def test_a_batch_that_is_free_already_is_noted_and_compared() -> None:
    report = surgery.run(
        "generic",
        parsed(REFUSED["free"][0]),
        overrides={"batch": "dynamic"},
        stages="load..substitute,verify",
    )
    assert report.failure is None, report.failure
    assert report.notes == ["batch: dynamic had nothing to do: the first dim of input 'x' is free already"]
    assert report.edits == []
    shapes = {tuple(c["shapes"]["x"]) for c in report.verification["graph"]["cases"]}
    assert shapes == {(1, 3), (2, 3), (4, 3)}


def test_a_model_without_an_axis_for_samples_is_told_so() -> None:
    report = surgery.run("generic", parsed(REFUSED["picture"][0]), overrides={"batch": "dynamic"})
    assert report.failure is not None
    assert (report.failure.code, report.failure.cause) == ("no-batch", None)
    assert "an axis for samples" in (report.failure.fix or "")


def test_a_run_says_what_it_did_and_what_it_refused() -> None:
    report = surgery.run(
        "generic", model_of("reshape"), overrides={"batch": "dynamic"}, stages="load..substitute,verify"
    )
    assert report.failure is None, report.failure
    assert [e.rule for e in report.edits] == ["dynamic-batch"]
    assert report.profiles[0]["max"][0] == 4
    report = surgery.run("generic", parsed(REFUSED["softmax"][0]), overrides={"batch": "dynamic"})
    assert report.exit_code == 4
    assert report.failure is not None
    assert report.failure.code == "no-batch"
