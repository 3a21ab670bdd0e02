"""Damaged models: ``python -m tests.diagnose.mutations NUMBER...`` puts some through inspect, explain and run.

A line of JSON for each call: number, what was done to the model, command, exit code, seconds, peak memory in MB.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.diagnose.models import FIVE, parsed

CLASSIFIER = (
    "g (float[n, 3, 16, 16] image) => (float[n, 4] scores) <float[8, 3, 3, 3] w, float[8] b, float[8, 4] f> "
    "{ [conv] c = Conv <pads = [1, 1, 1, 1]> (image, w, b) [relu] r = Relu (c) "
    "[pool] p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r) [mean] m = GlobalAveragePool (p) "
    "[flat] v = Flatten (m) [mat] s = MatMul (v, f) [soft] scores = Softmax (s) }"
)
SHAPES = (
    "g (float[b, 6] x, int64[2] size) => (float[] y, int64[] i) <int64[1] zero = {0}, int64[1] one = {1}, "
    "int64[2] tail = {2, 3}, int64[1] k = {2}> { [shape] s = Shape (x) [slice] h = Slice (s, zero, one) "
    "[concat] t = Concat <axis = 0> (h, tail) [reshape] r = Reshape (x, t) [tile] e = Expand (r, t) "
    "[top] y, i = TopK (e, k) }"
)
LOOP = (
    "g (float[2, 4] x, bool q) => (float[] y) <int64 m = {3}, bool c = {1}> { [a] s = Relu (x) "
    "[loop] l = Loop (m, c, s) <body = b (int64 n, bool ci, float[2, 4] v) => (bool co, float[2, 4] w) "
    "{ [k] w = Add (v, x) [j] co = Identity (ci) }> [if] y = If (q) <then_branch = t () => (float[2, 4] u) "
    "{ [n] u = Neg (l) }, else_branch = e () => (float[2, 4] z) { [d] z = Abs (l) }> }"
)


def bases() -> list[onnx.ModelProto]:
    """Valid models, with weights."""
    rng = np.random.default_rng(0)
    classifier = parsed(CLASSIFIER)
    del classifier.graph.initializer[:]
    for name, shape in (("w", (8, 3, 3, 3)), ("b", (8,)), ("f", (8, 4))):
        value = rng.normal(size=shape).astype(np.float32)
        classifier.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return [classifier, parsed(SHAPES), parsed(LOOP), parsed(FIVE)]


Mutation = Callable[[onnx.ModelProto, random.Random], onnx.ModelProto | bytes]


def flipped(model: onnx.ModelProto, chance: random.Random) -> bytes:
    data = bytearray(model.SerializeToString())
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def cut_off(model: onnx.ModelProto, chance: random.Random) -> bytes:
    data = model.SerializeToString()
    return data[: chance.randrange(len(data))]


def spliced(model: onnx.ModelProto, chance: random.Random) -> bytes:
    data = model.SerializeToString()
    a, b = sorted(chance.randrange(len(data)) for _ in range(2))
    return data[:b] + data[a:]


def _messages(message: Any) -> list[Any]:
    found = [message]
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in value if not hasattr(value, "ListFields") else [value]:
                found += _messages(one)
    return found


def field_removed(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    message = chance.choice([m for m in _messages(model) if m.ListFields()])
    field = chance.choice([f for f, _ in message.ListFields()])
    message.ClearField(field.name)
    return model


def field_doubled(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    several = [(m, f, v) for m in _messages(model) for f, v in m.ListFields() if not hasattr(v, "ListFields")]
    several = [(m, f, v) for m, f, v in several if hasattr(v, "extend")]
    message, field, values = chance.choice(several)
    getattr(message, field.name).extend(list(values))
    return model


def numbers_changed(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    absurd = (-1, 0, -(2**31), 2**31 - 1, 2**31, 2**40, 2**62, -(2**63), 2**63 - 1, 7, 99)
    places = [(m, f) for m in _messages(model) for f, v in m.ListFields() if type(v) is int]
    message, field = chance.choice(places)
    for value in chance.sample(absurd, len(absurd)):
        with contextlib.suppress(ValueError):
            setattr(message, field.name, value)
            break
    return model


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [m for m in _messages(model) if isinstance(m, onnx.NodeProto)]


def cycle(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    nodes = [n for n in model.graph.node if n.input]
    early = chance.choice(nodes)
    later = chance.choice(list(model.graph.node))
    early.input[chance.randrange(len(early.input))] = later.output[0]
    return model


def doubled_name(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    one, other = chance.choice(_nodes(model)), chance.choice(_nodes(model))
    if chance.random() < 0.5:
        one.name = other.name
    else:
        one.output[0] = other.output[0]
    return model


def operand_changed(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    node = chance.choice([n for n in _nodes(model) if n.input])
    names = [o for n in _nodes(model) for o in n.output] + ["ghost", "", "x", "\u0000", "a" * 5000]
    if chance.random() < 0.3:
        del node.input[chance.randrange(len(node.input))]
    elif chance.random() < 0.3:
        node.input.extend([chance.choice(names)] * chance.choice((1, 3, 2000)))
    else:
        node.input[chance.randrange(len(node.input))] = chance.choice(names)
    return model


def operator_changed(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    node = chance.choice(_nodes(model))
    known = [s.name for s in onnx.defs.get_all_schemas() if not s.domain]
    node.op_type = chance.choice([*known, "", "NoSuchOperator", "x" * 3000, "Loop", "If", "Scan"])
    if chance.random() < 0.2:
        node.domain = chance.choice(("com.microsoft", "nobody", "ai.onnx.ml", "trt.plugins"))
    return model


def attribute_changed(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    node = chance.choice(_nodes(model))
    names = [a.name for a in node.attribute] + [
        "axis",
        "axes",
        "kernel_shape",
        "pads",
        "to",
        "value",
        "then_branch",
    ]
    name = chance.choice(names)
    kept = [a for a in node.attribute if a.name != name]
    values = (
        -1,
        2**62,
        [0] * 9,
        [2**40, -5],
        1e300,
        float("nan"),
        "text",
        b"\xff\xfe",
        [],
        ["a", "b"],
        [0.5],
    )
    value = chance.choice(values)
    del node.attribute[:]
    node.attribute.extend(kept)
    if value == []:
        node.attribute.append(onnx.AttributeProto(name=name, type=onnx.AttributeProto.INTS))
    else:
        node.attribute.append(helper.make_attribute(name, value))
    return model


def dims_changed(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    values = [
        m for m in _messages(model) if isinstance(m, onnx.ValueInfoProto) and m.type.HasField("tensor_type")
    ]
    value = chance.choice(values)
    shape = value.type.tensor_type.shape
    if chance.random() < 0.3:
        shape.dim.add().dim_value = 5
    elif shape.dim:
        dim = chance.choice(list(shape.dim))
        dim.dim_value = chance.choice((-1, -(2**40), 0, 2**31, 2**40, 2**62, 100_000))
    if chance.random() < 0.3:
        value.type.tensor_type.elem_type = chance.choice(
            (0, 2, 6, 7, 8, 9, 10, 11, 13, 14, 16, 17, 22, 99, -3)
        )
    return model


def tensor_changed(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    tensors = [m for m in _messages(model) if isinstance(m, onnx.TensorProto)]
    if not tensors:
        return flipped_again(model, chance)
    tensor = chance.choice(tensors)
    what = chance.randrange(5)
    if what == 0:
        tensor.dims.append(chance.choice((-1, 0, 3, 2**40, 2**62)))
    elif what == 1:
        tensor.data_type = chance.choice((0, 2, 7, 8, 10, 14, 16, 17, 22, 77))
    elif what == 2:
        tensor.raw_data = tensor.raw_data[:-3] or b"abc"
    elif what == 3:
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", chance.choice(("../../etc/passwd", "none.bin", "/dev/zero", ""))),
                           ("offset", chance.choice(("0", "-5", "x", str(2**70)))), ("length", "16")):  # fmt: skip
            tensor.external_data.add(key=key, value=value)
    else:
        values = (2**40, -(2**62), -7, 10**6)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([chance.choice(values)] * 2), tensor.name))
    return model


def flipped_again(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    with contextlib.suppress(Exception):
        return onnx.ModelProto.FromString(flipped(model, chance))
    return model


def opset_changed(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    model.opset_import[0].version = chance.choice((-1, 0, 1, 6, 9, 12, 26, 99, 2**40))
    if chance.random() < 0.3:
        model.ir_version = chance.choice((0, 1, 3, 14, 99, 2**40))
    if chance.random() < 0.2:
        model.opset_import[0].domain = "nobody"
    return model


def _field(number: int, data: bytes) -> bytes:
    """A field of bytes as protobuf writes it."""
    size, head = len(data), bytearray([number << 3 | 2])
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes([*head, size]) + data


def nested(model: onnx.ModelProto, chance: random.Random) -> bytes:
    """Bodies in bodies; protobuf itself reads about thirty, and more are written by hand."""
    depth = chance.choice((3, 10, 25, 30, 60, 300, 5000))
    graph = helper.make_graph(
        [helper.make_node("Neg", ["deep"], ["o"])], "g", [], [helper.make_tensor_value_info("o", 1, [2])]
    )
    rest = onnx.GraphProto(name="g", output=[helper.make_tensor_value_info("o", 1, [2])]).SerializeToString()
    twice = depth < 12
    data = graph.SerializeToString()
    for _ in range(depth):
        bodies = b""
        for name in ("then_branch", "else_branch") if twice else ("body",):
            attribute = onnx.AttributeProto(name=name, type=onnx.AttributeProto.GRAPH).SerializeToString()
            bodies += _field(5, attribute + _field(6, data))
        node = helper.make_node(
            "If" if twice else "Loop", ["deep_c"] if twice else ["", "deep_c", "deep"], ["o"]
        )
        data = rest + _field(1, node.SerializeToString() + bodies)
    model.graph.input.append(helper.make_tensor_value_info("deep", 1, [2]))
    model.graph.input.append(helper.make_tensor_value_info("deep_c", 9, []))
    return model.SerializeToString() + _field(7, data)


def huge(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    """Valid, small as a file, and of no end when it runs."""
    size = chance.choice(([2**20, 2**20], [2**31], [2**62], [-1, 4], [10**5] * 3))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(size), "huge_s"))
    kind = chance.choice(("ConstantOfShape", "Expand", "Tile", "RandomNormal", "Range", "EyeLike"))
    first = model.graph.input[0].name
    limit = onnx.numpy_helper.from_array(np.array(2**40), "huge_l")
    model.graph.initializer.append(limit)
    one = onnx.numpy_helper.from_array(np.array(1), "huge_1")
    model.graph.initializer.append(one)
    nodes = {
        "ConstantOfShape": helper.make_node("ConstantOfShape", ["huge_s"], ["h"]),
        "Expand": helper.make_node("Expand", [first, "huge_s"], ["h"]),
        "Tile": helper.make_node("Tile", [first, "huge_s"], ["h"]),
        "RandomNormal": helper.make_node("RandomNormal", [], ["h"], shape=[abs(s) for s in size]),
        "Range": helper.make_node("Range", ["huge_1", "huge_l", "huge_1"], ["h"]),
        "EyeLike": helper.make_node("EyeLike", ["huge_s"], ["h"]),
    }
    model.graph.node.append(nodes[kind])
    model.graph.node.append(helper.make_node("Shape", ["h"], ["hs"]))
    model.graph.output.append(helper.make_tensor_value_info("hs", TensorProto.INT64, None))
    return model


def reordered(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    nodes = list(model.graph.node)
    chance.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def function_changed(model: onnx.ModelProto, chance: random.Random) -> onnx.ModelProto:
    if not model.functions:
        return operand_changed(model, chance)
    function = model.functions[0]
    what = chance.randrange(4)
    if what == 0:
        function.node.append(
            helper.make_node(function.name, list(function.input), ["r2"], domain=function.domain)
        )
    elif what == 1:
        del function.input[0]
    elif what == 2:
        function.output.append("nothing")
    else:
        model.functions.append(function)
    return model


MUTATIONS: tuple[Mutation, ...] = (
    flipped, cut_off, spliced, field_removed, field_doubled, numbers_changed, cycle, doubled_name, operand_changed,
    operator_changed, attribute_changed, dims_changed, tensor_changed, opset_changed, nested, huge, reordered,
    function_changed, field_removed, numbers_changed,
)  # fmt: skip


def mutated(number: int) -> tuple[str, bytes]:
    """What was done, and the file that came of it; always the same for one number."""
    chance = random.Random(number)
    model = chance.choice(bases())
    done = []
    data: onnx.ModelProto | bytes = model
    for _ in range(chance.choice((1, 1, 1, 2))):
        if isinstance(data, bytes):
            break
        mutation = MUTATIONS[(number + len(done)) % len(MUTATIONS)] if not done else chance.choice(MUTATIONS)
        try:
            data = mutation(data, chance)
            done.append(mutation.__name__)
        except (IndexError, ValueError):  # nothing left to change
            break
    return ", ".join(done), data if isinstance(data, bytes) else data.SerializeToString()


def peak() -> int:
    """Most memory of this process so far, in MB."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) >> 10


def main(numbers: list[int]) -> None:
    """Three calls for each model; a line each."""
    from surgery.cli import main as surgery

    for number in numbers:
        what, data = mutated(number)
        with tempfile.TemporaryDirectory(prefix="mutated-") as folder:
            path = Path(folder) / "m.onnx"
            path.write_bytes(data)
            calls = {
                "inspect": ["inspect", str(path)],
                "explain": ["explain", str(path), "--seconds", "20"],
                "run": ["run", "generic", str(path), "--output", f"{folder}/out", "--set", "build.seconds=20",
                        "--set", "build.memory_mib=4000"],
            }  # fmt: skip
            for name, arguments in calls.items():
                sys.stderr.write(f"{number} {what}: {name}\n")
                sys.stderr.flush()
                out, err = io.StringIO(), io.StringIO()
                started = time.monotonic()
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                    code = surgery(arguments)
                said = err.getvalue()
                entry = {
                    "number": number,
                    "what": what,
                    "command": name,
                    "code": code,
                    "seconds": round(time.monotonic() - started, 1),
                    "memory": peak(),
                    "errors": said.count("error["),
                    "printed": bool(out.getvalue().strip()),
                    "traceback": "Traceback" in said + out.getvalue(),
                    "text": said[:300] if code not in (0, 3) else "",
                }
                sys.__stdout__.write(json.dumps(entry) + "\n")
                sys.__stdout__.flush()


if __name__ == "__main__":
    main([int(n) for n in sys.argv[1:]])
