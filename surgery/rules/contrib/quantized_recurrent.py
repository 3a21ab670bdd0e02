"""An LSTM whose weights are quantised, and whose input and states are on the way."""

from __future__ import annotations

import numpy as np

from surgery.graph.body import Body
from surgery.rules.contrib.common import MS, ms
from surgery.rules.engine.rule import NoMatch, Sample, lowering
from surgery.rules.engine.site import Site
from surgery.rules.quantization.common import is_zero
from surgery.rules.quantization.linear import eight_bit_steps
from surgery.rules.quantization.products import exact_product
from surgery.rules.recurrent.cells import Form, Weights
from surgery.rules.recurrent.scan import of_direction, peepholes_of, scan_outputs, widened


def part(site: Site, b: Body, i: int, d: int, count: int) -> str:
    """Input `i` of direction `d` in float32; a constant stays one."""
    value = site.input(i).value
    if value is not None:
        return b.const(value[d], np.float32)
    return b.cast(of_direction(b, site.x(i), d, count), np.float32)


def weights_of(site: Site, b: Body, i: int, zero: int, d: int, count: int) -> tuple[str, list[int] | None]:
    """Weights minus their zero point, and how large each term of a product of 8 bits with them gets at most.

    That is None if the number of terms is not known.
    """
    known, zeros, shape = site.input(i).value, site.input(zero).value, site.input(i).shape
    if known is not None and zeros is not None:
        rows = known[d].astype(np.int64) - zeros[d].astype(np.int64)
        return b.const(rows, np.float32), [max(1, 255 * int(c)) for c in np.abs(rows).max(axis=1, initial=0)]
    most = [255 * 255] * shape[1] if shape is not None and isinstance(shape[1], int) else None
    weights = part(site, b, i, d, count)
    return weights if is_zero(site, zero) else b.sub(weights, part(site, b, zero, d, count)), most


def product(site: Site, b: Body, x: str, weights: int, scale: int, d: int, count: int) -> str:
    """A product with quantised weights: the left operand gets 8 bits by its own range, as ONNX Runtime does it.

    Whole numbers stay in float32: in the body of a loop a type that the target lacks cannot be exchanged.

    Args:
        site: The node.
        b: What is written to; inside the scan that is another one than outside.
        x: Name of the left operand, in float32.
        weights: Position of the weights.
        scale: Position of their scale; their zero point is the next.
        d: The direction.
        count: How many directions there are.
    """
    value, step, start = eight_bit_steps(x, b)
    right, most = weights_of(site, b, weights, scale + 1, d, count)
    sums = exact_product(b, b.sub(value, start), right, most)
    return b.mul(b.cast(sums, np.float32), b.mul(step, part(site, b, scale, d, count)))


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
    "step by the range over the batch. Both products of whole numbers, in a Scan.",
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
