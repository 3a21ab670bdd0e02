"""The cells of RNN, GRU and LSTM, by ONNX's equations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch
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

PLAIN = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "softsign": "Softsign", "softplus": "Softplus"}


Activation = Callable[[Body, str], str]


@dataclass(frozen=True)
class Form:
    """What a node says about its cells."""

    op: str
    hidden: int
    dtype: Any
    functions: tuple[tuple[Activation, ...], ...]
    reverse: tuple[bool, ...]
    clip: float
    linear_before_reset: bool
    input_forget: bool


Product = Callable[[Body, str], str]
"""A function that writes the product of a state with weights."""


@dataclass(frozen=True)
class Weights:
    """What the cell of one direction reads inside the scan.

    Attributes:
        recurrent: Products of a state with the recurrent weights, all gates at once, or those of a GRU that are
            needed apart.
        bias: Name of a bias that can only be added inside: for LSTM behind both products, for GRU behind that of
            its last gate; or "".
        peepholes: Names of an LSTM's peepholes; none if it has none.
    """

    recurrent: tuple[Product, ...]
    bias: str = ""
    peepholes: tuple[str, ...] = ()


def times(matrix: str) -> Product:
    """The product with a matrix of floats."""
    return lambda b, state: b.op("MatMul", state, matrix)


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


def _functions(site: Site, op: str, directions: int, dtype: Any) -> tuple[tuple[Activation, ...], ...]:
    """Activations of each direction; alphas and betas go in order to the functions that take one."""
    defaults = ACTIVATIONS[op]
    given = site.attributes.get("activations") or ()  # the schema's default is for two directions
    names = [str(n) for n in given] or list(defaults) * directions
    if len(names) != len(defaults) * directions:
        raise NoMatch(f"{len(names)} activations for {directions} directions of {op}")
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


def hidden_of(site: Site) -> int:
    """Size of a state."""
    hidden = site.attributes.get("hidden_size")
    recurrence = site.input(2).shape
    if not isinstance(hidden, int) and recurrence is not None and len(recurrence) == 3:
        hidden = recurrence[2]
    if not isinstance(hidden, int):
        raise NoMatch("the hidden size is not known")
    return hidden


def form_of(site: Site, op: str = "") -> Form:
    """What a node says about its cells; NoMatch where something of it is not known.

    Args:
        site: The node.
        op: RNN, GRU or LSTM; the node's own operator where it is left out.
    """
    op = op or site.op
    direction = str(site.attr("direction", "forward")).lower()
    reverse = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}.get(direction)
    if reverse is None:
        raise NoMatch(f"the direction {direction} is not known")
    if site.kind(0) != "f":
        raise NoMatch(f"{site.op} of {site.dtype(0)}")
    dtype = np.dtype(np.float64 if site.dtype(0) == np.float64 else np.float32)
    return Form(
        op, hidden_of(site), dtype, _functions(site, op, len(reverse), dtype), reverse,
        float(site.attr("clip", 0.0)), bool(site.attr("linear_before_reset", 0)), bool(site.attr("input_forget", 0)),
    )  # fmt: skip


def block_columns(b: Body, x: str, hidden: int, start: int, end: int) -> str:
    """Blocks start..end of the last axis."""
    return b.slice(x, -1, start * hidden, end * hidden)


def _clipped(b: Body, x: str, form: Form) -> str:
    if not form.clip:
        return x
    return b.maximum(b.minimum(x, b.const(form.clip, form.dtype)), b.const(-form.clip, form.dtype))


def _rnn_cell(b: Body, form: Form, d: int, x: str, states: Sequence[str], weights: Weights) -> list[str]:
    total = b.add(x, weights.recurrent[0](b, states[0]))
    return [form.functions[d][0](b, _clipped(b, total, form))]


def _gru_cell(b: Body, form: Form, d: int, x: str, states: Sequence[str], weights: Weights) -> list[str]:
    (h,), n = states, form.hidden
    f, g = form.functions[d]
    gates = b.add(block_columns(b, x, n, 0, 2), weights.recurrent[0](b, h))
    update = f(b, _clipped(b, block_columns(b, gates, n, 0, 1), form))
    reset = f(b, _clipped(b, block_columns(b, gates, n, 1, 2), form))
    if form.linear_before_reset:
        linear = weights.recurrent[1](b, h)
        inner = b.mul(reset, b.add(linear, weights.bias) if weights.bias else linear)
    else:
        inner = weights.recurrent[1](b, b.mul(reset, h))
    new = g(b, _clipped(b, b.add(block_columns(b, x, n, 2, 3), inner), form))
    one = b.const(1, form.dtype)
    return [b.add(b.mul(b.sub(one, update), new), b.mul(update, h))]


def _lstm_cell(b: Body, form: Form, d: int, x: str, states: Sequence[str], weights: Weights) -> list[str]:
    (h, c), n = states, form.hidden
    f, g, out = form.functions[d]
    gates = b.add(x, weights.recurrent[0](b, h))
    if weights.bias:
        gates = b.add(gates, weights.bias)
    i, o, forget, cell = (block_columns(b, gates, n, k, k + 1) for k in range(4))

    def peep(gate: str, k: int, state: str) -> str:
        seen = b.add(gate, b.mul(state, weights.peepholes[k])) if weights.peepholes else gate
        return f(b, _clipped(b, seen, form))

    i = peep(i, 0, c)
    forget = b.sub(b.const(1, form.dtype), i) if form.input_forget else peep(forget, 2, c)
    new = b.add(b.mul(forget, c), b.mul(i, g(b, _clipped(b, cell, form))))
    return [b.mul(peep(o, 1, new), out(b, new)), new]


CELLS = {"RNN": _rnn_cell, "GRU": _gru_cell, "LSTM": _lstm_cell}
