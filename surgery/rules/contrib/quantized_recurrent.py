"""An LSTM whose weights are quantised, and whose input and states are on the way."""

from __future__ import annotations

import numpy as np

from surgery.graph.body import Body
from surgery.rules.contrib.common import MS, ms
from surgery.rules.contrib.quantized_products import integer_product
from surgery.rules.engine.rule import NoMatch, Sample, lowering
from surgery.rules.engine.site import Site
from surgery.rules.recurrent.cells import Form, Weights
from surgery.rules.recurrent.scan import of_direction, peepholes_of, scan_outputs, widened


def part(site: Site, b: Body, i: int, d: int, count: int) -> str:
    """Input `i` of direction `d`; a constant stays one, for the rules of the product."""
    value = site.input(i).value
    return b.const(value[d], value.dtype) if value is not None else of_direction(b, site.x(i), d, count)


def product(site: Site, b: Body, x: str, weights: int, scale: int, d: int, count: int) -> str:
    """A product with quantised weights: the left operand gets 8 bits by its own range, as ONNX Runtime does it.

    Args:
        site: The node.
        b: What is written to; inside the scan that is another one than outside.
        x: Name of the left operand, in float32.
        weights: Position of the weights.
        scale: Position of their scale; their zero point is the next.
        d: The direction.
        count: How many directions there are.
    """
    q, step, zero = b.node("DynamicQuantizeLinear", [x], outputs=3)
    known = site.input(scale + 1).value
    offset = "" if known is not None and not known[d].any() else part(site, b, scale + 1, d, count)
    sums = integer_product(b, q, part(site, b, weights, d, count), zero, offset)
    return b.mul(sums, b.mul(step, part(site, b, scale, d, count)))


def in_whole_numbers(site: Site, b: Body, form: Form, d: int) -> tuple[str, Weights]:
    """W times X, and what the cell reads; the bias comes behind both products, as in ONNX Runtime's kernel."""
    count, bias = len(form.reverse), ""
    if site.has(3):
        both, half = of_direction(b, widened(site, b, 3, form), d, count), 4 * form.hidden
        bias = b.add(b.slice(both, 0, 0, half), b.slice(both, 0, half, 2 * half))

    def recurrent(inner: Body, state: str) -> str:
        return product(site, inner, state, 2, 10, d, count)

    return product(site, b, site.x(0), 1, 8, d, count), Weights(
        (recurrent,), bias, peepholes_of(site, b, form, d)
    )


def quantised(kind: str, dims: str, attributes: str = "", *, columns: bool = False, rest: str = "") -> Sample:
    """A sample with 4 features and 5 hidden units.

    Args:
        kind: Dtype of the weights.
        dims: Steps and batch.
        attributes: Attributes beside the hidden size.
        columns: Whether each column of the weights has a scale of its own.
        rest: Names of those of the inputs B, initial_h, initial_c and P that are given: letters of "bhcp".
    """
    count = 2 if "bidirectional" in attributes else 1
    batch = dims.split(", ")[1]
    shapes = {
        "b": f"{count}, 40",
        "h": f"{count}, {batch}, 5",
        "c": f"{count}, {batch}, 5",
        "p": f"{count}, 15",
    }
    given = "".join(f", float[{shapes[n]}] {n}" for n in rest)
    one = f"[{count}, 20]" if columns else f"[{count}]"
    weights = "".join(
        f", {kind}[{count}, {rows}, 20] {n}, float{one} {n}s, {kind}{one} {n}z"
        for n, rows in (("w", 4), ("r", 5))
    )
    b, h, c, p = (n if n in rest else "" for n in "bhcp")
    size = (count, 20) if columns else (count,)
    scales = np.linspace(0.011, 0.023, int(np.prod(size)), dtype=np.float32).reshape(size)
    zeros = np.full(size, 0 if kind == "int8" else 121, kind)
    return ms(
        f"(float[{dims}, 4] x{weights}{given}) => (float[{dims.replace(', ', f', {count}, ')}, 5] y, "
        f"float[{count}, {batch}, 5] last, float[{count}, {batch}, 5] cell) "
        f"{{ y, last, cell = @DynamicQuantizeLSTM <hidden_size = 5{attributes}> "
        f"(x, w, r, {b}, , {h}, {c}, {p}, ws, wz, rs, rz) }}",
        ws=scales, rs=scales, wz=zeros, rz=zeros,
    )  # fmt: skip


@lowering(
    "ms-dynamic-quantize-lstm",
    "DynamicQuantizeLSTM",
    domain=MS,
    why="An LSTM as ONNX Runtime's dynamic quantizer writes it: its input is quantised on the way, its state in each "
    "step by the range over the batch. DynamicQuantizeLinear and MatMulInteger, in a Scan.",
    samples=[
        quantised("int8", "6, 1"),
        quantised("uint8", "6, 3", rest="bhcp"),
        quantised("int8", "t, n", ', direction = "reverse"', columns=True, rest="b"),
        quantised("uint8", "4, 2", ', direction = "bidirectional"', columns=True, rest="bhc"),
        quantised("int8", "5, 2", ", clip = 0.4, input_forget = 1", rest="b"),
    ],
    near_misses=[
        ms(
            "(float[6, 2, 4] x, int8[1, 4, 20] w, int8[1, 5, 20] r, int32[2] n, float[1] s, int8[1] z) => "
            "(float[6, 1, 2, 5] y) "
            "{ y = @DynamicQuantizeLSTM <hidden_size = 5> (x, w, r, , n, , , , s, z, s, z) }",
            n=[6, 4],
            z=np.zeros(1, np.int8),
        ),
        "(float[6, 1, 4] x, float[1, 20, 4] w, float[1, 20, 5] r) => (float[6, 1, 1, 5] y) "
        "{ y = LSTM <hidden_size = 5> (x, w, r) }",
    ],
)
def dynamic_quantize_lstm(site: Site, b: Body) -> list[str]:
    """A Scan per direction, the products in whole numbers."""
    if site.has(4):
        raise NoMatch(
            "sequences of several lengths: which of their steps are quantised together is the kernel's own"
        )
    if "hidden_size" not in site.attributes:
        raise NoMatch("no hidden_size")
    return scan_outputs(site, b, "LSTM", in_whole_numbers)
