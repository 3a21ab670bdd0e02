"""Rules with exact results, run with divisions as GPUs have them: by a product with the reciprocal, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from surgery.rules import shipped_rules
from surgery.rules.engine.rule import Sample
from surgery.rules.engine.selfproof import apply_to_sample, parse_sample
from surgery.verify.ranges import Wide, draw_wide

RULES = {rule.name: rule for rule in shipped_rules()}
COUNT = 3000


def weakened(model: onnx.ModelProto, factor: float = 1.0) -> onnx.ModelProto:
    """The model with every Div, and every Mod of whole numbers, by a product with the reciprocal in float32."""
    model = onnx.shape_inference.infer_shapes(model)
    graph, node = model.graph, onnx.helper.make_node
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    kinds |= {n.output[0]: n.attribute[0].t.data_type for n in graph.node if n.op_type == "Constant"}
    nodes = []
    for k, old in enumerate(graph.node):
        if old.op_type not in ("Div", "Mod"):
            nodes.append(old)
            continue
        x, w, kind = old.input[0], old.input[1], kinds[old.input[0]]
        nodes += [
            node("Cast", [x], [f"x{k}"], to=1),
            node("Cast", [w], [f"w{k}"], to=1),
            node("Reciprocal", [f"w{k}"], [f"r{k}"]),
            node("Constant", [], [f"f{k}"], value_float=factor),
            node("Mul", [f"x{k}", f"r{k}"], [f"p{k}"]),
            node("Mul", [f"p{k}", f"f{k}"], [f"q{k}"]),
        ]
        if old.op_type == "Div":
            nodes.append(node("Cast", [f"q{k}"], [old.output[0]], to=kind))
        else:
            nodes += [
                node("Floor", [f"q{k}"], [f"d{k}"]),
                node("Cast", [f"d{k}"], [f"e{k}"], to=kind),
                node("Mul", [f"e{k}", w], [f"m{k}"]),
                node("Sub", [x, f"m{k}"], [old.output[0]]),
            ]
    assert len(nodes) > len(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    model.opset_import[0].version = min(model.opset_import[0].version, 24)
    return model


def run(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return list(ort.InferenceSession(model.SerializeToString(), options).run(None, dict(feeds)))


def rewritten(rule: str, sample: Sample, factor: float = 1.0) -> onnx.ModelProto:
    proof = apply_to_sample([RULES[rule]], sample)
    assert [e.rule for e in proof.outcome.edits] == [rule]
    return weakened(proof.model, factor)


def numbers(dtype: str, seed: int) -> Any:
    kind = np.dtype(dtype)
    return draw_wide(Wide("bits", (kind,)), kind, (COUNT,), np.random.default_rng(seed))


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize(
    ("op", "rule"), [("And", "bitwise-and"), ("Or", "bitwise-or"), ("Xor", "bitwise-xor")]
)
def test_bits_of_two_numbers(op: str, rule: str, dtype: str) -> None:
    x, w = numbers(dtype, 1), numbers(dtype, 2)
    text = f"({dtype}[{COUNT}] x, {dtype}[{COUNT}] w) => ({dtype}[{COUNT}] y) {{ y = Bitwise{op} (x, w) }}"
    (found,) = run(rewritten(rule, Sample(text)), {"x": x, "w": w})
    assert np.array_equal(found, getattr(np, f"bitwise_{op.lower()}")(x, w))


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64"])
@pytest.mark.parametrize("mask", [1, 255, 0xFF0, 0x7FFFFFF0])
def test_bits_under_a_mask(dtype: str, mask: int) -> None:
    x = numbers(dtype, 3)
    text = (
        f"({dtype}[{COUNT}] x) => ({dtype}[{COUNT}] y) "
        f"{{ w = Constant <value = {dtype} {{{mask}}}> () y = BitwiseAnd (x, w) }}"
    )
    (found,) = run(rewritten("bitwise-and", Sample(text)), {"x": x})
    assert np.array_equal(found, x & np.dtype(dtype).type(mask))


@pytest.mark.parametrize(
    ("dtype", "direction"),
    # To the left, 64 bits move by products alone.
    [(t, "RIGHT") for t in ("uint8", "uint32", "uint64", "int32", "int64")]
    + [(t, "LEFT") for t in ("uint8", "uint32", "int32")],
)
def test_shifts(dtype: str, direction: str) -> None:
    kind = np.dtype(dtype)
    x = numbers(dtype, 4)
    w = np.random.default_rng(5).integers(0, kind.itemsize * 8, COUNT).astype(kind)
    text = (
        f"({dtype}[{COUNT}] x, {dtype}[{COUNT}] w) => ({dtype}[{COUNT}] y) "
        f'{{ y = BitShift <direction = "{direction}"> (x, w) }}'
    )
    sample = Sample(text, opset=28 if kind.kind == "i" else 18, feeds={"w": (0, 8)})
    (found,) = run(rewritten("bit-shift", sample), {"x": x, "w": w})
    assert np.array_equal(found, (np.left_shift if direction == "LEFT" else np.right_shift)(x, w))


@pytest.mark.parametrize("factor", [1.0, 1 + 2.0**-22, 1 - 2.0**-22])
def test_values_halfway_between_two_steps(factor: float) -> None:
    text = f"(float[{COUNT}] x) => (uint8[{COUNT}] y, float s, uint8 z) {{ y, s, z = DynamicQuantizeLinear (x) }}"
    model = rewritten("dynamic-quantize-by-arithmetic", Sample(text), factor)
    for seed in range(4):
        x = draw_wide(Wide("halves"), np.dtype(np.float32), (COUNT,), np.random.default_rng(seed))
        for want, found in zip(run(parse_sample(Sample(text)), {"x": x}), run(model, {"x": x}), strict=True):
            assert np.array_equal(want, found)


@pytest.mark.parametrize("kind", ["Floor", "Ceil", "Round"])
def test_quotients_that_are_whole_stay_whole(kind: str) -> None:
    text = f"(float[{COUNT}] x, float[{COUNT}] w) => (float[{COUNT}] y) {{ q = Div (x, w) y = {kind} (q) }}"
    rng = np.random.default_rng(6)
    w = rng.integers(1, 1000, COUNT).astype(np.float32)
    x = w * rng.integers(1, 1000, COUNT).astype(np.float32)
    (found,) = run(rewritten("division-before-rounding", Sample(text)), {"x": x, "w": w})
    assert np.array_equal(found, x / w)
    (plain,) = run(weakened(parse_sample(Sample(text))), {"x": x, "w": w})
    assert kind == "Round" or not np.array_equal(plain, x / w)
