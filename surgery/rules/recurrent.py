"""RNN, GRU and LSTM: the whole operators as a Scan over their cells, and simpler repairs where those are enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, Sample, lowering, samples_in
from surgery.rules.engine.site import Site

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
"""Blocks of `hidden_size` rows in W and R."""

ACTIVATIONS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
"""Activation functions of one direction where the node names none."""

TAKES = {
    "affine": (None, None), "leakyrelu": (0.01, 0.0), "thresholdedrelu": (1.0, 0.0), "scaledtanh": (None, None),
    "hardsigmoid": (0.2, 0.5), "elu": (1.0, 0.0),
}  # fmt: skip
"""Activations that take a value of `activation_alpha`, with the alpha and beta they have without one."""

TAKES_BETA = frozenset({"affine", "scaledtanh", "hardsigmoid"})
"""Activations that take a value of `activation_beta`."""

TINY = 6
"""Hidden units up to which the builder unrolls the steps of a single sequence."""

PLAIN = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "softsign": "Softsign", "softplus": "Softplus"}

Activation = Callable[[Body, str], str]


@dataclass(frozen=True)
class _Form:
    """What a node says about its cells."""

    op: str
    hidden: int
    dtype: Any
    functions: tuple[tuple[Activation, ...], ...]
    reverse: tuple[bool, ...]
    clip: float
    linear_before_reset: bool
    input_forget: bool


@dataclass(frozen=True)
class _Weights:
    """Names of the values of one direction that its cell reads inside the scan."""

    recurrent: tuple[str, ...]
    bias: str
    peepholes: tuple[str, ...]


def _activation(name: str, alpha: float, beta: float, dtype: Any) -> Activation:
    """A function that writes one activation."""
    key = name.lower()

    def apply(b: Body, x: str) -> str:
        def scalar(value: float) -> str:
            return b.const(value, dtype)

        if key in PLAIN:
            return b.op(PLAIN[key], x)
        if key == "affine":
            return b.add(b.mul(x, scalar(alpha)), scalar(beta))
        if key == "scaledtanh":
            return b.mul(b.op("Tanh", b.mul(x, scalar(beta))), scalar(alpha))
        if key == "leakyrelu":
            return b.where(b.less(x, scalar(0)), b.mul(x, scalar(alpha)), x)
        if key == "thresholdedrelu":
            return b.where(b.greater(x, scalar(alpha)), x, scalar(0))
        if key == "hardsigmoid":
            line = b.add(b.mul(x, scalar(alpha)), scalar(beta))
            return b.maximum(b.minimum(line, scalar(1)), scalar(0))
        # Elu: TensorRT-RTX cannot build its own inside a loop.
        below = b.sub(b.op("Exp", b.minimum(x, scalar(0))), scalar(1))
        return b.where(b.less(x, scalar(0)), b.mul(below, scalar(alpha)), x)

    return apply


def _functions(site: Site, directions: int, dtype: Any) -> tuple[tuple[Activation, ...], ...]:
    """Activations of each direction; alphas and betas go in order to the functions that take one."""
    defaults = ACTIVATIONS[site.op]
    given = site.attributes.get("activations") or ()  # the schema's default is for two directions
    names = [str(n) for n in given] or list(defaults) * directions
    if len(names) != len(defaults) * directions:
        raise NoMatch(f"{len(names)} activations for {directions} directions of {site.op}")
    alphas, betas = list(site.attr("activation_alpha", [])), list(site.attr("activation_beta", []))
    made: list[Activation] = []
    for name in names:
        key = name.lower()
        if key not in PLAIN and key not in TAKES:
            raise NoMatch(f"the activation {name} is not known")
        alpha, beta = TAKES.get(key, (0.0, 0.0))
        if key in TAKES and alphas:
            alpha = float(alphas.pop(0))
        if key in TAKES_BETA and betas:
            beta = float(betas.pop(0))
        if alpha is None or beta is None:
            raise NoMatch(f"the activation {name} has no alpha or beta")
        made.append(_activation(name, alpha, beta, dtype))
    count = len(defaults)
    return tuple(tuple(made[d * count : (d + 1) * count]) for d in range(directions))


def _hidden(site: Site) -> int:
    """Size of a state."""
    hidden = site.attributes.get("hidden_size")
    recurrence = site.input(2).shape
    if not isinstance(hidden, int) and recurrence is not None and len(recurrence) == 3:
        hidden = recurrence[2]
    if not isinstance(hidden, int):
        raise NoMatch("the hidden size is not known")
    return hidden


def _form(site: Site) -> _Form:
    direction = str(site.attr("direction", "forward")).lower()
    reverse = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}.get(direction)
    if reverse is None:
        raise NoMatch(f"the direction {direction} is not known")
    if site.kind(0) != "f":
        raise NoMatch(f"{site.op} of {site.dtype(0)}")
    dtype = np.dtype(np.float64 if site.dtype(0) == np.float64 else np.float32)
    return _Form(
        site.op, _hidden(site), dtype, _functions(site, len(reverse), dtype), reverse, float(site.attr("clip", 0.0)),
        bool(site.attr("linear_before_reset", 0)), bool(site.attr("input_forget", 0)),
    )  # fmt: skip


def _columns(b: Body, x: str, hidden: int, start: int, end: int) -> str:
    """Blocks start..end of the last axis."""
    return b.slice(x, -1, start * hidden, end * hidden)


def _clipped(b: Body, x: str, form: _Form) -> str:
    if not form.clip:
        return x
    return b.maximum(b.minimum(x, b.const(form.clip, form.dtype)), b.const(-form.clip, form.dtype))


def _rnn_cell(b: Body, form: _Form, d: int, x: str, states: Sequence[str], weights: _Weights) -> list[str]:
    total = b.add(x, b.op("MatMul", states[0], weights.recurrent[0]))
    return [form.functions[d][0](b, _clipped(b, total, form))]


def _gru_cell(b: Body, form: _Form, d: int, x: str, states: Sequence[str], weights: _Weights) -> list[str]:
    (h,), n = states, form.hidden
    f, g = form.functions[d]
    gates = b.add(_columns(b, x, n, 0, 2), b.op("MatMul", h, weights.recurrent[0]))
    update = f(b, _clipped(b, _columns(b, gates, n, 0, 1), form))
    reset = f(b, _clipped(b, _columns(b, gates, n, 1, 2), form))
    if form.linear_before_reset:
        linear = b.op("MatMul", h, weights.recurrent[1])
        inner = b.mul(reset, b.add(linear, weights.bias) if weights.bias else linear)
    else:
        inner = b.op("MatMul", b.mul(reset, h), weights.recurrent[1])
    new = g(b, _clipped(b, b.add(_columns(b, x, n, 2, 3), inner), form))
    one = b.const(1, form.dtype)
    return [b.add(b.mul(b.sub(one, update), new), b.mul(update, h))]


def _lstm_cell(b: Body, form: _Form, d: int, x: str, states: Sequence[str], weights: _Weights) -> list[str]:
    (h, c), n = states, form.hidden
    f, g, out = form.functions[d]
    gates = b.add(x, b.op("MatMul", h, weights.recurrent[0]))
    i, o, forget, cell = (_columns(b, gates, n, k, k + 1) for k in range(4))

    def peep(gate: str, k: int, state: str) -> str:
        seen = b.add(gate, b.mul(state, weights.peepholes[k])) if weights.peepholes else gate
        return f(b, _clipped(b, seen, form))

    i = peep(i, 0, c)
    forget = b.sub(b.const(1, form.dtype), i) if form.input_forget else peep(forget, 2, c)
    new = b.add(b.mul(forget, c), b.mul(i, g(b, _clipped(b, cell, form))))
    return [b.mul(peep(o, 1, new), out(b, new)), new]


CELLS = {"RNN": _rnn_cell, "GRU": _gru_cell, "LSTM": _lstm_cell}


def _wide(site: Site, b: Body, i: int, form: _Form) -> str:
    """Input `i` in the dtype that is computed in."""
    return site.x(i) if site.dtype(i) == form.dtype else b.cast(site.x(i), form.dtype)


def _of_direction(b: Body, x: str, d: int, directions: int) -> str:
    """Direction `d` of a tensor whose first axis counts directions."""
    return b.squeeze(x if directions == 1 else b.slice(x, 0, d, d + 1), 0)


def _inside(site: Site, b: Body, form: _Form, d: int) -> tuple[str, _Weights]:
    """W times X plus what biases can be added at once, and what the cell of direction `d` reads."""
    n, count, gates = form.hidden, len(form.reverse), GATES[form.op]
    w, r = (b.transpose(_of_direction(b, _wide(site, b, i, form), d, count), 1, 0) for i in (1, 2))
    product = b.op("MatMul", _wide(site, b, 0, form), w)
    late = ""
    if site.has(3):
        bias = _of_direction(b, _wide(site, b, 3, form), d, count)
        of_w, of_r = b.slice(bias, 0, 0, gates * n), b.slice(bias, 0, gates * n, 2 * gates * n)
        if form.op == "GRU" and form.linear_before_reset:
            late = b.slice(of_r, 0, 2 * n, 3 * n)
            of_r = b.concat([b.slice(of_r, 0, 0, 2 * n), b.const(np.zeros(n), form.dtype)], 0)
        product = b.add(product, b.add(of_w, of_r))
    recurrent: tuple[str, ...] = (r,)
    if form.op == "GRU":
        recurrent = (_columns(b, r, n, 0, 2), _columns(b, r, n, 2, 3))
    peepholes: tuple[str, ...] = ()
    if form.op == "LSTM" and site.has(7):
        p = _of_direction(b, _wide(site, b, 7, form), d, count)
        peepholes = tuple(b.slice(p, 0, k * n, (k + 1) * n) for k in range(3))
    return product, _Weights(recurrent, late, peepholes)


def _initial(site: Site, b: Body, form: _Form, i: int, d: int) -> str:
    """Initial state of direction `d`: input `i`, or zeros of [batch, hidden]."""
    if site.has(i):
        return _of_direction(b, _wide(site, b, i, form), d, len(form.reverse))
    batch = site.input(0).shape
    if batch is not None and isinstance(batch[1], int):
        return b.const(np.zeros((batch[1], form.hidden)), form.dtype)
    size = b.slice(b.op("Shape", site.x(0)), 0, 1, 2)
    return b.op("Expand", b.const(np.zeros((1, form.hidden)), form.dtype), b.concat([size, b.ints(1)], 0))


def _real(site: Site, b: Body) -> str:
    """Which steps lie inside each sequence: [steps, batch, 1] of bool, or "" without lengths."""
    if not site.has(4):
        return ""
    length = b.squeeze(b.slice(b.op("Shape", site.x(0)), 0, 0, 1), 0)
    steps = b.op("Range", b.const(0, np.int64), length, b.const(1, np.int64))
    limits = b.unsqueeze(b.cast(site.x(4), np.int64), 0, 2)
    return b.less(b.unsqueeze(steps, 1, 2), limits)


def _scan(site: Site, b: Body, form: _Form, d: int, real: str) -> tuple[str, ...]:
    """States after the last step, and the hidden state of every step, of one direction."""
    product, weights = _inside(site, b, form, d)
    starts = [_initial(site, b, form, 5, d)]
    if form.op == "LSTM":
        starts.append(_initial(site, b, form, 6, d))
    inner = b.nested()
    states = [inner.fresh("state") for _ in starts]
    step, keep = inner.fresh("step"), inner.fresh("keep")
    new = CELLS[form.op](inner, form, d, step, states, weights)
    shown = new[0]
    if real:
        # Beyond a sequence's end nothing moves; going backwards, its first step is its own last entry.
        shown = inner.where(keep, new[0], inner.const(0, form.dtype))
        new = [inner.where(keep, n, s) for n, s in zip(new, states, strict=True)]
    results = [inner.op("Identity", v) for v in (*new, shown)]
    scanned = [(step, form.dtype), *([(keep, np.dtype(np.bool_))] if real else [])]
    body = inner.subgraph(
        f"{form.op.lower()}_cell",
        [*((s, form.dtype) for s in states), *scanned],
        [(r, form.dtype) for r in results],
    )
    way = int(form.reverse[d])
    made = b.node(
        "Scan",
        [*starts, product, *([real] if real else [])],
        outputs=len(results),
        attributes={
            "body": body,
            "num_scan_inputs": len(scanned),
            "scan_input_directions": [way] * len(scanned),
            "scan_output_directions": [way],
        },
    )
    return made if not real else (*(_where_any(site, b, form, m) for m in made[:-1]), made[-1])


def _where_any(site: Site, b: Body, form: _Form, state: str) -> str:
    """A last state, zero for sequences without any step, as ONNX Runtime has it; the specification is silent."""
    any_step = b.greater(b.unsqueeze(b.cast(site.x(4), np.int64), 1), b.const(0, np.int64))
    return b.where(any_step, state, b.const(0, form.dtype))


def _by_scan(site: Site, b: Body) -> list[str]:
    """The outputs of a node whose layout is 0."""
    if site.attr("layout", 0):
        raise NoMatch("batches come first: another rule writes that as layout 0")
    form = _form(site)
    real = _real(site, b)
    directions = [_scan(site, b, form, d, real) for d in range(len(form.reverse))]

    def narrow(x: str) -> str:
        return x if site.dtype(0) == form.dtype else b.cast(x, site.dtype(0))

    outputs = [narrow(b.concat([b.unsqueeze(parts[-1], 1) for parts in directions], 1))]
    last = range(len(directions[0]) - 1)
    outputs += [narrow(b.concat([b.unsqueeze(parts[k], 0) for parts in directions], 0)) for k in last]
    return outputs


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
    if _hidden(site) > TINY:
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
    return _by_scan(site, b)


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
    return _by_scan(site, b)
