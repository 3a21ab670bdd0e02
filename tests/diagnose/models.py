"""Models for the tests, and a way to change all names in one."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import onnx

CORPUS = Path(__file__).parents[3] / "shared" / "corpus" / "failures"

FIVE = """
<ir_version: 8, opset_import: ["" : 18, "f" : 1, "com.microsoft" : 1]>
g (float[4, 4] x, bool c) => (float y1, float[n] y2, float[4, 4] y3, float[m, 2] y4, float y5) {
  [det] y1 = Det (x)
  [relu] a = Relu (x)
  [unique] y2, i, j, k = Unique (a)
  [sigmoid] b = Sigmoid (x)
  [gelu] y3 = com.microsoft.BiasGelu (b, b)
  [neg] e = Neg (x)
  [nonzero] nz = NonZero (e)
  [transpose] y4 = Transpose (nz)
  [call] y5 = f.Head (x, c)
}
<domain: "f", opset_import: ["" : 18]>
Head (q, cc) => (r) {
  [choose] r = If (cc) <
    then_branch = t () => (float w) {
      [inner] w0 = Relu (q)
      [draw] w1 = Multinomial <sample_size = 3> (w0)
      [cast] w2 = Cast <to = 1> (w1)
      [mean] w = ReduceMean <keepdims = 0> (w2)
    },
    else_branch = e () => (float z) { [sum] z = ReduceSum <keepdims = 0> (q) }
  >
}
"""
"""Five bad nodes in five branches, one of them in an If in a local function."""


def parsed(text: str) -> onnx.ModelProto:
    """A model from ONNX's text syntax; the header may be left out."""
    if not text.lstrip().startswith("<"):
        text = f'<ir_version: 8, opset_import: ["" : 18]> {text}'
    return onnx.parser.parse_model(text)


class _Renamer:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.names: dict[str, str] = {}

    def new(self, name: str) -> str:
        return self.names.setdefault(name, f"q{len(self.names) * 7 + 3}k") if name else name

    def nodes(self, graph: Any) -> None:
        for node in graph.node:
            if node.name:
                node.name = self.new(f"node {node.name}")
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    names[i] = self.new(name)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    self.graph(attribute.g)

    def graph(self, graph: onnx.GraphProto) -> None:
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            value.name = self.new(value.name)
        for sparse in graph.sparse_initializer:
            sparse.values.name = self.new(sparse.values.name)
        self.nodes(graph)
        self.shuffle(graph)

    def shuffle(self, graph: onnx.GraphProto) -> None:
        left = list(graph.node)
        made = {o for n in left for o in n.output}
        done: set[str] = set()
        order: list[onnx.NodeProto] = []
        while left:
            ready = [n for n in left if not (_reads(n) & made) - done]
            if not ready:
                return  # a cycle: the order says nothing
            node = self.random.choice(ready)
            left = [n for n in left if n is not node]
            done.update(node.output)
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            order.append(copy)
        del graph.node[:]
        graph.node.extend(order)


def _reads(node: onnx.NodeProto) -> set[str]:
    found = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                found |= _reads(inner)
            found |= {o.name for o in attribute.g.output}
    return found


def renamed(model: onnx.ModelProto, seed: int = 1) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A copy with every name changed and independent nodes in another order; old names to new ones.

    The name of a node is listed as ``node NAME``.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    renamer = _Renamer(seed)
    renamer.graph(copy.graph)
    for function in copy.functions:
        for names in (function.input, function.output):
            for i, name in enumerate(names):
                names[i] = renamer.new(name)
        renamer.nodes(function)
    return copy, renamer.names
