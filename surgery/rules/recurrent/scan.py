"""A recurrent node as one Scan over its cell for each direction."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch
from surgery.rules.engine.site import Site
from surgery.rules.recurrent.cells import CELLS, GATES, Form, Product, Weights, block_columns, form_of, times


def widened(site: Site, b: Body, i: int, form: Form) -> str:
    """Input `i` in the dtype that is computed in."""
    return site.x(i) if site.dtype(i) == form.dtype else b.cast(site.x(i), form.dtype)


def of_direction(b: Body, x: str, d: int, directions: int) -> str:
    """Direction `d` of a tensor whose first axis counts directions."""
    return b.squeeze(x if directions == 1 else b.slice(x, 0, d, d + 1), 0)


Inside = Callable[[Site, Body, Form, int], tuple[str, Weights]]
"""A function that gives W times X, and what the cell reads, of one direction."""


def in_floats(site: Site, b: Body, form: Form, d: int) -> tuple[str, Weights]:
    """W times X plus what biases can be added at once, and what the cell of direction `d` reads."""
    n, count, gates = form.hidden, len(form.reverse), GATES[form.op]
    w, r = (b.transpose(of_direction(b, widened(site, b, i, form), d, count), 1, 0) for i in (1, 2))
    product = b.op("MatMul", widened(site, b, 0, form), w)
    late = ""
    if site.has(3):
        bias = of_direction(b, widened(site, b, 3, form), d, count)
        of_w, of_r = b.slice(bias, 0, 0, gates * n), b.slice(bias, 0, gates * n, 2 * gates * n)
        if form.op == "GRU" and form.linear_before_reset:
            late = b.slice(of_r, 0, 2 * n, 3 * n)
            of_r = b.concat([b.slice(of_r, 0, 0, 2 * n), b.const(np.zeros(n), form.dtype)], 0)
        product = b.add(product, b.add(of_w, of_r))
    recurrent: tuple[Product, ...] = (times(r),)
    if form.op == "GRU":
        recurrent = (times(block_columns(b, r, n, 0, 2)), times(block_columns(b, r, n, 2, 3)))
    return product, Weights(recurrent, late, peepholes_of(site, b, form, d))


def peepholes_of(site: Site, b: Body, form: Form, d: int) -> tuple[str, ...]:
    """Peepholes of an LSTM's direction `d`, one for each gate that has one; none if the node has none."""
    if form.op != "LSTM" or not site.has(7):
        return ()
    p = of_direction(b, widened(site, b, 7, form), d, len(form.reverse))
    return tuple(b.slice(p, 0, k * form.hidden, (k + 1) * form.hidden) for k in range(3))


def _initial(site: Site, b: Body, form: Form, i: int, d: int) -> str:
    """Initial state of direction `d`: input `i`, or zeros of [batch, hidden]."""
    if site.has(i):
        return of_direction(b, widened(site, b, i, form), d, len(form.reverse))
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


def _scan(site: Site, b: Body, form: Form, d: int, real: str, inside: Inside) -> tuple[str, ...]:
    """States after the last step, and the hidden state of every step, of one direction."""
    product, weights = inside(site, b, form, d)
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


def _where_any(site: Site, b: Body, form: Form, state: str) -> str:
    """A last state, zero for sequences without any step, as ONNX Runtime has it; the specification is silent."""
    any_step = b.greater(b.unsqueeze(b.cast(site.x(4), np.int64), 1), b.const(0, np.int64))
    return b.where(any_step, state, b.const(0, form.dtype))


def scan_outputs(site: Site, b: Body, op: str = "", inside: Inside = in_floats) -> list[str]:
    """The outputs of a node whose layout is 0.

    Args:
        site: The node.
        b: What is written to.
        op: RNN, GRU or LSTM; the node's own operator where it is left out.
        inside: How the products with W and R are computed.
    """
    if site.attr("layout", 0):
        raise NoMatch("batches come first: another rule writes that as layout 0")
    form = form_of(site, op)
    real = _real(site, b)
    directions = [_scan(site, b, form, d, real, inside) for d in range(len(form.reverse))]

    def narrow(x: str) -> str:
        return x if site.dtype(0) == form.dtype else b.cast(x, site.dtype(0))

    outputs = [narrow(b.concat([b.unsqueeze(parts[-1], 1) for parts in directions], 1))]
    last = range(len(directions[0]) - 1)
    outputs += [narrow(b.concat([b.unsqueeze(parts[k], 0) for parts in directions], 0)) for k in last]
    return outputs
