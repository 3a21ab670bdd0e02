"""Products with weights of few bits, and rows of tables of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from surgery.graph.body import Body
from surgery.rules.contrib.common import MS, ms
from surgery.rules.engine.rule import NoMatch, lowering
from surgery.rules.engine.site import Site
from surgery.rules.precision import HALVES, to

PACKED = {2: 4, 4: 2, 8: 1}
"""Bits of a weight to weights in a byte."""


def unpacked(values: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    """Whole numbers of so many bits, the lowest bits of a byte first, along the last axis."""
    shifts = np.arange(PACKED[bits]) * bits
    apart = (values[..., None].astype(np.int64) >> shifts) & ((1 << bits) - 1)
    return apart.reshape(*values.shape[:-1], -1)


def block_weights(site: Site) -> np.ndarray[Any, Any]:
    """The weights of MatMulNBits, (K, N), in float32."""
    bits, block = int(site.attr("bits", 4)), int(site.attr("block_size"))
    rows, columns = int(site.attr("N")), int(site.attr("K"))
    if bits not in PACKED:
        raise NoMatch(f"weights of {bits} bits are not written out")
    blocks = -(-columns // block)
    numbers = unpacked(site.const(1).reshape(rows, blocks, -1), bits)[..., :block]
    scales = site.const(2).astype(np.float32).reshape(rows, blocks, 1)
    zeros: Any = 1 << (bits - 1)
    if site.has(3):
        zeros = site.const(3)
        if zeros.dtype == np.uint8:
            zeros = unpacked(zeros.reshape(rows, -1), bits)[:, :blocks]
        zeros = zeros.astype(np.float32).reshape(rows, blocks, 1)
    weights = (numbers.astype(np.float32) - zeros) * scales
    return np.ascontiguousarray(weights.reshape(rows, -1)[:, :columns].T)


def packed_weights(bits: int, rows: int, columns: int, block: int, zeros: str = "") -> str:
    """Constants of a sample of MatMulNBits."""
    blocks = -(-columns // block)
    numbers = [(37 * i + 11 * (i // 7)) % 256 for i in range(rows * blocks * (block // PACKED[bits]))]
    scales = [0.01 * (1 + i % 5) for i in range(rows * blocks)]
    text = (
        f"w = Constant <value = uint8[{rows}, {blocks}, {block // PACKED[bits]}] "
        f"{{{', '.join(map(str, numbers))}}}> () "
        f"s = Constant <value = float[{rows * blocks}] {{{', '.join(map(str, scales))}}}> () "
    )
    count = rows * -(-blocks // PACKED[bits])
    if zeros:
        text += f"z = Constant <value = uint8[{count}] {{{', '.join(str(17 * i % 256) for i in range(count))}}}> () "
    return text


@lowering(
    "ms-matmul-nbits",
    "MatMulNBits",
    domain=MS,
    why="Products with weights of 2, 4 or 8 bits in blocks. The weights become real numbers when the model is "
    "rewritten.",
    samples=[
        ms(
            f"(float[2, n, {columns}] x) => (float[2, n, {rows}] y) {{ "
            + packed_weights(bits, rows, columns, 16, zeros)
            + f"y = @MatMulNBits <bits = {bits}, block_size = 16, K = {columns}, N = {rows}> (x, w, s{zeros}) }}"
        )
        for bits, rows, columns, zeros in ((4, 3, 32, ""), (4, 3, 48, ", z"), (8, 2, 32, ""), (4, 2, 40, ""))
    ],
    near_misses=[
        ms(
            "(float[2, 32] x, uint8[3, 2, 8] w, float[6] s) => (float[2, 3] y) "
            "{ y = @MatMulNBits <bits = 4, block_size = 16, K = 32, N = 3> (x, w, s) }"
        )
    ],
)
def matmul_nbits(site: Site, b: Body) -> str:
    """MatMul with the weights written out, and the bias."""
    if site.has(4):
        raise NoMatch("weights in another order are not written out")
    dtype = site.dtype(0)
    work = np.dtype(np.float32) if dtype.name in HALVES else dtype
    y = b.op("MatMul", to(b, site.x(0), dtype, work), b.const(block_weights(site), work))
    if site.has(5):
        y = b.add(y, to(b, site.x(5), site.dtype(5), work))
    return to(b, y, work, dtype)


def table_values(site: Site) -> np.ndarray[Any, Any]:
    """The table of GatherBlockQuantized in float32; blocks lie along the quantised axis."""
    data, scales = site.const(0), site.const(2).astype(np.float32)
    bits, block = int(site.attr("bits", 4)), int(site.attr("block_size", 128))
    whole = data.dtype == np.uint8
    if bits not in PACKED:
        raise NoMatch(f"numbers of {bits} bits are not written out")
    numbers = unpacked(data, bits) if whole else data
    axis = int(site.attr("quantize_axis", 1)) % numbers.ndim
    zeros: Any = np.float32(1 << (bits - 1) if whole else 0)
    if site.has(3):
        packed = site.const(3)
        # Zeros of an odd number of blocks are filled up to a byte.
        zeros = (unpacked(packed, bits)[..., : scales.shape[-1]] if whole else packed).astype(np.float32)
        zeros = _along(zeros, block, axis, numbers.shape[axis])
    steps = _along(scales, block, axis, numbers.shape[axis])
    return np.asarray((numbers.astype(np.float32) - zeros) * steps)


def _along(values: np.ndarray[Any, Any], block: int, axis: int, size: int) -> np.ndarray[Any, Any]:
    """What holds for a block, for each of its entries."""
    repeated: np.ndarray[Any, Any] = np.repeat(values, block, axis)
    return repeated.take(np.arange(size), axis)


def table(
    kind: str, shape: tuple[int, ...], blocks: tuple[int, ...], zeros: bool, scale: str = "float"
) -> str:
    """Constants of a sample of GatherBlockQuantized."""
    top, low = {"uint8": (256, 0), "uint4": (16, 0), "int4": (8, -8)}[kind]
    texts = []
    for name, dims in (("w", shape), *((("z", blocks),) if zeros else ())):
        packed = (*dims[:-1], -(-dims[-1] // 2)) if kind == "uint8" and name == "z" else dims
        values = [(37 * i + 11 * (i // 7)) % (top - low) + low for i in range(int(np.prod(packed)))]
        texts.append(
            f"{name} = Constant <value = {kind}[{', '.join(map(str, packed))}] {{{', '.join(map(str, values))}}}> ()"
        )
    steps = ", ".join(str(0.125 * (1 + i % 5)) for i in range(int(np.prod(blocks))))
    texts.append(f"s = Constant <value = float[{', '.join(map(str, blocks))}] {{{steps}}}> ()")
    return " ".join(texts)


@lowering(
    "ms-gather-block-quantized",
    "GatherBlockQuantized",
    domain=MS,
    why="Rows of a table of 4 or 8 bits in blocks, as quantised embeddings are. The table becomes real numbers when "
    "the model is rewritten.",
    samples=[
        ms(
            f"({index}[b, n] i) => (float[b, n, {width}] y) {{ {constants} "
            f"y = @GatherBlockQuantized <block_size = 16, {attributes}> (w, i, s{zeros}) }}",
            opset=21,
            i=(0, 5),
        )
        for index, width, constants, attributes, zeros in (
            ("int64", 32, table("uint4", (5, 32), (5, 2), True), "gather_axis = 0, quantize_axis = 1", ", z"),
            ("int32", 40, table("int4", (5, 40), (5, 3), False), "quantize_axis = 1", ""),
            ("int64", 48, table("uint8", (5, 24), (5, 3), True), "bits = 4, quantize_axis = -1", ", z"),
            ("int64", 32, table("uint8", (5, 32), (5, 2), False), "bits = 8, quantize_axis = 1", ""),
        )
    ],
    near_misses=[
        ms(
            "(uint4[5, 32] w, int64[n] i, float[5, 2] s) => (float[n, 32] y) "
            "{ y = @GatherBlockQuantized <block_size = 16, quantize_axis = 1> (w, i, s) }",
            opset=21,
        )
    ],
)
def gather_block_quantized(site: Site, b: Body) -> str:
    """Gather from the table written out."""
    values = b.const(table_values(site), np.float32)
    y = b.op("Gather", values, site.x(1), axis=int(site.attr("gather_axis", 0)))
    return to(b, y, np.dtype(np.float32), site.dtype(2))
