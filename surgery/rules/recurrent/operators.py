"""RNN, GRU and LSTM where TensorRT refuses or misreads them."""

from __future__ import annotations

from typing import Any

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Site
from surgery.rules.recurrent.cells import hidden_of
from surgery.rules.recurrent.scan import scan_outputs

TINY = 6
"""Hidden units up to which the builder unrolls the steps of a single sequence."""


def _renamed(site: Site, b: Body, inputs: list[str], attributes: dict[str, Any]) -> list[str]:
    """The node written again; names of its outputs, "" for those that nobody reads."""
    wanted = [site.used(i) for i in range(len(site.outputs))]
    names = [b.fresh("out") if w else "" for w in wanted]
    b.node(site.op, inputs, outputs=names, attributes=attributes)
    return names


@lowering(
    "recurrent-batch-first", "RNN", "GRU", "LSTM",
    why="TensorRT ignores layout = 1 without a word and takes the batch for the time. Time is put first.",
    samples=[
        "(float[3, 2, 4] x, float[1, 5, 4] w, float[1, 5, 5] r) => (float[3, 2, 1, 5] y, float[3, 1, 5] h)"
        " { y, h = RNN <hidden_size = 5, layout = 1> (x, w, r) }",
        "(float[n, 2, 4] x, float[1, 15, 4] w, float[1, 15, 5] r, float[1, 30] b) => (float[n, 1, 5] h)"
        " { _, h = GRU <hidden_size = 5, layout = 1> (x, w, r, b) }",
        "(float[3, t, 4] x, float[1, 20, 4] w, float[1, 20, 5] r, float[3, 1, 5] h, float[3, 1, 5] c)"
        " => (float[3, t, 1, 5] y, float[3, 1, 5] yh, float[3, 1, 5] yc)"
        " { y, yh, yc = LSTM <hidden_size = 5, layout = 1> (x, w, r, , , h, c) }",
        "(float16[3, 2, 4] x, float16[1, 5, 4] w, float16[1, 5, 5] r) => (float16[3, 2, 1, 5] y)"
        " { y = RNN <hidden_size = 5, layout = 1> (x, w, r) }",
        *samples_in(
            "double",
            "(T[3, 2, 4] x, T[1, 5, 4] w, T[1, 5, 5] r) => (T[3, 2, 1, 5] y, T[3, 1, 5] h) { y, h = "
            "RNN <hidden_size = 5, layout = 1> (x, w, r) }",
        ),
    ],
    near_misses=[
        "(float[3, 2, 4] x, float[1, 5, 4] w, float[1, 5, 5] r) => (float[3, 1, 2, 5] y)"
        " { y = RNN <hidden_size = 5> (x, w, r) }",
    ],
    when="always",
    since=14,
)  # fmt: skip
def batch_first(site: Site, b: Body) -> list[str | None]:
    """The same node with layout 0."""
    if not site.attr("layout", 0):
        raise NoMatch("time comes first already")
    inputs = [site.optional(i) for i in range(len(site.inputs))]
    for i in (0, 5, 6):  # X, initial_h, initial_c
        if site.has(i):
            inputs[i] = b.transpose(inputs[i], 1, 0, 2)
    names = _renamed(site, b, inputs, {k: v for k, v in site.attributes.items() if k != "layout"})
    perms = ((2, 0, 1, 3), (1, 0, 2), (1, 0, 2))
    return [b.transpose(n, *p) if n else None for n, p in zip(names, perms, strict=False)]


@lowering(
    "recurrent-single-sequence", "GRU", "LSTM",
    why="TensorRT-RTX 1.7 does not finish building a GRU or LSTM of one sequence and at most 6 hidden units: it"
    " unrolls such tiny loops, in a time exponential in the steps. A second sequence is added and thrown away.",
    samples=[
        "(float[8, 1, 4] x, float[1, 15, 4] w, float[1, 15, 5] r) => (float[8, 1, 1, 5] y, float[1, 1, 5] h)"
        " { y, h = GRU <hidden_size = 5> (x, w, r) }",
        "(float[t, 1, 4] x, float[2, 24, 4] w, float[2, 24, 6] r, float[2, 48] b, float[2, 1, 6] h, float[2, 1, 6] c)"
        " => (float[2, 1, 6] yh, float[2, 1, 6] yc)"
        ' { _, yh, yc = LSTM <hidden_size = 6, direction = "bidirectional"> (x, w, r, b, , h, c) }',
        Sample(
            "(float[4, 1, 3] x, float[1, 12, 3] w, float[1, 12, 4] r, int32[1] n) => (float[4, 1, 1, 4] y)"
            ' { y = GRU <hidden_size = 4, direction = "reverse"> (x, w, r, , n) }',
            feeds={"n": (1, 5)},
        ),
        "(float16[4, 1, 3] x, float16[1, 12, 3] w, float16[1, 12, 4] r) => (float16[4, 1, 1, 4] y)"
        " { y = GRU <hidden_size = 4> (x, w, r) }",
        *samples_in(
            "double",
            "(T[8, 1, 4] x, T[1, 15, 4] w, T[1, 15, 5] r) => (T[8, 1, 1, 5] y, T[1, 1, 5] h) { y, h "
            "= GRU <hidden_size = 5> (x, w, r) }",
        ),
    ],
    near_misses=[
        "(float[8, 2, 4] x, float[1, 15, 4] w, float[1, 15, 5] r) => (float[8, 1, 2, 5] y)"
        " { y = GRU <hidden_size = 5> (x, w, r) }",
        "(float[8, 1, 4] x, float[1, 21, 4] w, float[1, 21, 7] r) => (float[8, 1, 1, 7] y)"
        " { y = GRU <hidden_size = 7> (x, w, r) }",
    ],
    when="always",
    targets=("tensorrt-rtx",),
)  # fmt: skip
def single_sequence(site: Site, b: Body) -> list[str | None]:
    """The same node for two sequences, and the first one of the results."""
    shape = site.input(0).shape
    if site.attr("layout", 0) or shape is None or shape[1] != 1:
        raise NoMatch("it is not known to have one sequence")
    if hidden_of(site) > TINY:
        raise NoMatch("the states are large enough")
    inputs = [site.optional(i) for i in range(len(site.inputs))]
    for i, axis in ((0, 1), (4, 0), (5, 1), (6, 1)):  # X, sequence_lens, initial_h, initial_c
        if site.has(i):
            inputs[i] = b.concat([inputs[i], inputs[i]], axis)
    names = _renamed(site, b, inputs, dict(site.attributes))
    return [b.slice(n, axis, 0, 1) if n else None for n, axis in zip(names, (2, 1, 1), strict=False)]


def _misread(site: Site) -> bool:
    """Whether TensorRT builds something else than the node says (found by running engines)."""
    if site.op == "LSTM" and site.attr("clip", 0.0):
        return True  # it also clips what goes into the last activation
    if any(str(n).lower() == "softplus" for n in site.attributes.get("activations") or ()):
        return True  # it makes zeros of it
    given = site.attributes.get("activation_alpha") or site.attributes.get("activation_beta")
    # It goes by position, where ONNX gives each value to the next function that takes one.
    return bool(given) and (site.op == "GRU" or site.attr("direction", "forward") == "bidirectional")


@lowering(
    "recurrent-misread-by-scan", "RNN", "GRU", "LSTM",
    why="TensorRT builds, and computes wrongly: LSTM with clip, Softplus as activation, GRU and bidirectional nodes"
    " with activation_alpha or activation_beta. The cells are written out in a Scan, by ONNX's equations.",
    samples=[
        "(float[5, 2, 4] x, float[1, 20, 4] w, float[1, 20, 5] r, float[1, 40] b, float[1, 15] p)"
        " => (float[5, 1, 2, 5] y, float[1, 2, 5] h, float[1, 2, 5] c)"
        " { y, h, c = LSTM <hidden_size = 5, clip = 0.4> (x, w, r, b, , , , p) }",
        '(float[t, n, 4] x, float[2, 5, 4] w, float[2, 5, 5] r) => (float[t, 2, n, 5] y)'
        ' { y = RNN <hidden_size = 5, direction = "bidirectional", activations = ["Softplus", "Tanh"]> (x, w, r) }',
        "(float[5, 2, 4] x, float[1, 15, 4] w, float[1, 15, 5] r, float[1, 2, 5] h0) => (float[5, 1, 2, 5] y)"
        ' { y = GRU <hidden_size = 5, activations = ["Sigmoid", "HardSigmoid"], activation_alpha = [0.3],'
        " activation_beta = [0.4]> (x, w, r, , , h0) }",
        "(float16[5, 2, 4] x, float16[1, 20, 4] w, float16[1, 20, 5] r) => (float16[5, 1, 2, 5] y)"
        " { y = LSTM <hidden_size = 5, clip = 0.4> (x, w, r) }",
    ],
    near_misses=[
        "(float[5, 2, 4] x, float[1, 5, 4] w, float[1, 5, 5] r) => (float[5, 1, 2, 5] y)"
        " { y = RNN <hidden_size = 5, clip = 0.4> (x, w, r) }",
    ],
    when="always",
)  # fmt: skip
def misread_by_scan(site: Site, b: Body) -> list[str]:
    """A Scan per direction."""
    if not _misread(site):
        raise NoMatch("TensorRT reads it as ONNX does")
    return scan_outputs(site, b)


@lowering(
    "recurrent-by-scan", "RNN", "GRU", "LSTM",
    why="TensorRT refuses coupled input and forget gates, the activations Affine and (inside its loop) Elu,"
    " directions with different activations, and GRU in bfloat16. The cells are written out in a Scan, by"
    " ONNX's equations.",
    samples=[
        "(float[t, 2, 4] x, float[1, 5, 4] w, float[1, 5, 5] r) => (float[t, 1, 2, 5] y, float[1, 2, 5] h)"
        ' { y, h = RNN <hidden_size = 5, activations = ["Affine"], activation_alpha = [0.3],'
        " activation_beta = [0.1]> (x, w, r) }",
        "(float[5, n, 4] x, float[2, 15, 4] w, float[2, 15, 5] r, float[2, 30] b)"
        " => (float[5, 2, n, 5] y, float[2, n, 5] h)"
        ' { y, h = GRU <hidden_size = 5, direction = "bidirectional", linear_before_reset = 1,'
        ' activations = ["Sigmoid", "Tanh", "Sigmoid", "Softsign"]> (x, w, r, b) }',
        "(float[5, 2, 4] x, float[1, 15, 4] w, float[1, 15, 5] r, float[1, 30] b) => (float[5, 1, 2, 5] y)"
        ' { y = GRU <hidden_size = 5, direction = "reverse", activations = ["Elu", "Elu"]> (x, w, r, b) }',
        "(float[t, n, 4] x, float[1, 20, 4] w, float[1, 20, 5] r, float[1, 40] b, float[1, n, 5] h0,"
        " float[1, n, 5] c0, float[1, 15] p)"
        " => (float[t, 1, n, 5] y, float[1, n, 5] h, float[1, n, 5] c)"
        ' { y, h, c = LSTM <hidden_size = 5, input_forget = 1, direction = "reverse"> (x, w, r, b, , h0, c0, p) }',
        Sample(
            "(float[4, 3, 2] x, float[2, 20, 2] w, float[2, 20, 5] r, int32[3] n, float[2, 3, 5] h0)"
            " => (float[4, 2, 3, 5] y, float[2, 3, 5] h, float[2, 3, 5] c)"
            ' { y, h, c = LSTM <hidden_size = 5, direction = "bidirectional", input_forget = 1> (x, w, r, , n, h0) }',
            feeds={"n": (0, 5)},
        ),
        "(float16[5, 2, 4] x, float16[1, 15, 4] w, float16[1, 15, 5] r) => (float16[5, 1, 2, 5] y)"
        " { y = GRU <hidden_size = 5> (x, w, r) }",
        "(double[5, 2, 4] x, double[1, 20, 4] w, double[1, 20, 5] r) => (double[5, 1, 2, 5] y)"
        " { y = LSTM <hidden_size = 5> (x, w, r) }",
        "(float[5, 2, 4] x, float[1, 20, 4] w, float[1, 20, 5] r) => (float[5, 1, 2, 5] y)"
        ' { y = LSTM <hidden_size = 5, activations = ["LeakyRelu", "ScaledTanh", "ThresholdedRelu"],'
        " activation_alpha = [0.1, 0.9, 0.5], activation_beta = [0.7]> (x, w, r) }",
        Sample(
            "(bfloat16[5, 2, 4] x, bfloat16[1, 5, 4] w, bfloat16[1, 5, 5] r) => (bfloat16[5, 1, 2, 5] y)"
            " { y = RNN <hidden_size = 5> (x, w, r) }",
            opset=22,
        ),
    ],
    near_misses=[
        "(float[3, 2, 4] x, float[1, 5, 4] w, float[1, 5, 5] r) => (float[3, 2, 1, 5] y)"
        " { y = RNN <hidden_size = 5, layout = 1> (x, w, r) }",
        "(float[5, 2, 4] x, float[1, 5, 4] w, float[1, 5, 5] r) => (float[5, 1, 2, 5] y)"
        ' { y = RNN <hidden_size = 5, activations = ["Affine"]> (x, w, r) }',
    ],
)  # fmt: skip
def by_scan(site: Site, b: Body) -> list[str]:
    """A Scan per direction."""
    return scan_outputs(site, b)
