"""How the largest tensor of a model grows with the picture: attention over pixels fills any memory at usual sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.evaluate import EvaluationError, Evaluator

if TYPE_CHECKING:
    import onnx

    from surgery.verify.sizes import FreeDim

SMALL = (64, 128)
"""Heights and widths of the two runs that are measured."""

QUADRATIC = ("Softmax", "MatMul", "Einsum", "Attention", "MultiHeadAttention")
"""Operators that make pairs of pixels; without them tensors are as large as pictures."""


class Growth:
    """The largest tensor, measured at two small sizes and carried on.

    Args:
        model: The original.
        draw: Values of its inputs for sizes by dim.
        free: Its free dims.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        draw: Callable[[Mapping[str, int]], dict[str, Any]],
        free: Sequence[FreeDim],
    ) -> None:
        self._model, self._draw, self._free = model, draw, free
        self._measured: tuple[int, int] | None = None
        self._done = False

    def at(self, images: Mapping[str, int]) -> int:
        """Elements of the largest tensor of one sample with these heights and widths; 0 if it is not known."""
        if not self._done:
            self._done = True
            self._measured = self._measure()
        if self._measured is None or not images:
            return 0
        small, large = self._measured
        power = max(0.0, math.log(max(large, 1) / max(small, 1)) / math.log(SMALL[1] / SMALL[0]))
        size = math.exp(sum(math.log(n) for n in images.values()) / len(images))
        return int(large * (size / SMALL[1]) ** power)

    def _measure(self) -> tuple[int, int] | None:
        import onnx

        from surgery.graph.load import tensors_of

        operators = {n.op_type for n in self._model.graph.node}
        if operators.isdisjoint(QUADRATIC):
            return None
        if any(t.data_location == onnx.TensorProto.EXTERNAL for t in tensors_of(self._model.graph)):
            return None
        copy = onnx.ModelProto()
        copy.CopyFrom(self._model)
        known = {v.name for v in copy.graph.output}
        for node in copy.graph.node:
            if node.op_type in QUADRATIC:
                copy.graph.output.extend(
                    onnx.ValueInfoProto(name=n) for n in node.output if n and n not in known
                )
        found = []
        try:
            session = Evaluator(copy)
            for size in SMALL:
                sizes = {d.key: {"image": size, "batch": 1}.get(d.role, 16) for d in self._free}
                values = session.run(self._draw(sizes)).values()
                found.append(max(v.size for v in values if isinstance(v, np.ndarray)))
        except (EvaluationError, ValueError):
            return None
        return found[0], found[1]
