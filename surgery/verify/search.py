"""Finding values that a model takes, where its graph does not say what its inputs mean."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.deadline import EndlessError
from surgery.graph.evaluate import EvaluationError, Evaluator
from surgery.graph.infer import dims_of
from surgery.graph.operands import Call, draw_operands
from surgery.graph.typed import infer_shapes
from surgery.verify.ranges import draw_wide, ranges_from_use, wide_from_use

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]

EMPTYING = frozenset({"Compress", "ConcatFromSequence", "Loop", "NonZero"})
"""Operators that may find nothing in some values of good shapes, which what follows does not take."""

ATTEMPTS, ATTEMPTS_SMALL, FEW_NODES = 64, 512, 50
"""Draws per case, and per case of a model of few nodes. Most models take the first draw; axes, sizes and thresholds
that arrive as inputs take more."""

SMALL = 8
"""Inputs of at most so many numbers may be axes, sizes, scales or thresholds."""

SPANS = ((0, 2), (1, 2), (1, 3), (0, 1), (0, 4), (-2, 0), (2, 5), (-3, 3), (0, 3), (0, 6))
"""Ranges of whole numbers, low <= value < high, tried after the usual one."""

FLOAT_SPANS = ((0.0, 1.0), (1.0, 2.0), (0.3, 0.7), (2.0, 3.0), (0.0, 0.1))
"""Ranges of small float inputs tried after the usual one."""

MOST_SIZES = 8
"""Declared sizes of outputs that are tried as values of whole numbers."""

MOST_ORDERS = 24
"""Orders of declared sizes that are tried as values of a vector."""

WIDE_ATTEMPTS = 4
"""Draws in which operators on bits get every number there is; where the model indexes with bits it may need less."""

Span = tuple[float, float] | None


class Search:
    """Draws ranges for the inputs of a model until the model runs.

    The best draw is one on which every output has the shape that the model declares, the next best one on which
    ONNX Runtime runs the model at all. Whole numbers that index something keep the range that follows from what
    they index.

    Args:
        proto: The model.
        model: The same, or its path if it has external weights.
        given: The user's own values, by input: what draws fall back to at the same shapes.

    Attributes:
        attempts: Draws per case; 1 if no input is open to more than one reading.
        enough: Grade of :meth:`judge` from which on a draw is taken.
        error: Why the model did not run when it was last judged, in ONNX Runtime's words; None if it did.
    """

    def __init__(
        self, proto: onnx.ModelProto, model: onnx.ModelProto | Path, given: Mapping[str, Any] | None = None
    ) -> None:
        import onnx

        self._given = given or {}
        kinds = onnx.TensorProto
        self.used = ranges_from_use(proto)
        self.wide = {n: w for n, w in wide_from_use(proto).items() if n not in self.used}
        initial = {t.name for t in proto.graph.initializer}
        self.whole: list[str] = []
        self.floats: list[str] = []
        for value in proto.graph.input:
            kind = value.type.tensor_type.elem_type
            if value.name in initial or value.name in self.used:
                continue
            if kind in (kinds.FLOAT, kinds.FLOAT16, kinds.DOUBLE, kinds.BFLOAT16):
                dims = dims_of(value)
                if (
                    dims is not None
                    and len(dims) <= 1
                    and all(isinstance(d, int) and d <= SMALL for d in dims)
                ):
                    self.floats.append(value.name)
            elif kind not in (kinds.BOOL, kinds.STRING):
                self.whole.append(value.name)
        self.attempts = 1
        if self.whole or self.floats or self.wide:
            self.attempts = ATTEMPTS_SMALL if len(proto.graph.node) <= FEW_NODES else ATTEMPTS
        self.enough = 2
        if self.attempts == 1 and any(n.op_type in EMPTYING for n in proto.graph.node):
            self.attempts, self.enough = ATTEMPTS, 1
        if self.attempts == 1 and given:
            self.attempts, self.enough = len(self._given_parts()) + 1, 1
        self.declared = {v.name: dims_of(v) for v in proto.graph.output}
        sizes = {d for dims in self.declared.values() for d in dims or () if isinstance(d, int)}
        # A number that decides how long an output becomes is one of the declared sizes.
        self._spans = (*SPANS, *((d, d + 1) for d in sorted(sizes)[:MOST_SIZES]))
        self._read_nodes(proto)
        self._model = model
        self._session: Evaluator | None = None
        self.error: str | None = None

    def _read_nodes(self, proto: onnx.ModelProto) -> None:
        """Nodes with operands that come straight from an input, and what is known of shapes and constants."""
        import onnx

        open_ones = {*self.whole, *self.floats, *self.used, *self.wide}
        self._nodes: list[tuple[onnx.NodeProto, dict[int, str]]] = []
        self._constants: dict[str, NDArray[Any]] = {}
        self._known: dict[str, list[int | str | None] | None] = {}
        if not open_ones:
            return
        try:
            shaped = infer_shapes(proto, data_prop=True)
        except Exception:  # a help, never a condition; onnx raises many undocumented types
            shaped = proto
        graph = shaped.graph
        self._known = {v.name: dims_of(v) for v in (*graph.input, *graph.value_info, *graph.output)}
        self._known.update({t.name: list(t.dims) for t in graph.initializer})
        self._dtypes = {
            v.name: onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type)
            for v in graph.input
            if v.type.tensor_type.elem_type
        }
        same = {n: n for n in open_ones}
        for node in graph.node:
            if node.op_type in ("Cast", "Identity") and node.input[0] in same:
                same[node.output[0]] = same[node.input[0]]
            elif node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self._constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
                self._known[node.output[0]] = list(node.attribute[0].t.dims)
            else:
                sources = {i: same[n] for i, n in enumerate(node.input) if n in same}
                if sources:
                    self._nodes.append((node, sources))
        wanted = {n for node, _ in self._nodes for n in node.input}
        for tensor in graph.initializer:
            if tensor.name in wanted and np.prod(tensor.dims) <= 64:  # never weights
                self._constants[tensor.name] = onnx.numpy_helper.to_array(tensor)

    def spans(self, attempt: int, rng: np.random.Generator) -> dict[str, Span]:
        """Ranges for an attempt: the usual ones first, then one for all, then one for each."""
        found: dict[str, Span] = dict(self.used)
        if attempt == 0:
            return found
        if attempt <= len(self._spans):
            found.update(dict.fromkeys(self.whole, self._spans[attempt - 1]))
            found.update(dict.fromkeys(self.floats, FLOAT_SPANS[(attempt - 1) % len(FLOAT_SPANS)]))
            return found
        for name in self.whole:
            found[name] = self._spans[int(rng.integers(len(self._spans)))]
        for name in self.floats:
            place = int(rng.integers(len(FLOAT_SPANS) + 1))
            found[name] = FLOAT_SPANS[place] if place < len(FLOAT_SPANS) else None
        return found

    def values(
        self, shapes: Mapping[str, Sequence[int]], rng: np.random.Generator, attempt: int = 0
    ) -> dict[str, NDArray[Any]]:
        """Values of inputs that are axes, sizes or bounds of a node, fitting the shapes that the model declares.

        Also of inputs that operators on bits and quantisations read, in the first attempts.

        Args:
            shapes: Shapes of the model's inputs in this case.
            rng: Source of randomness.
            attempt: Number of the draw.
        """
        found: dict[str, NDArray[Any]] = {}
        for node, sources in self._nodes:
            call = Call(
                node.op_type,
                {a.name: onnx_value(a) for a in node.attribute},
                [self._shape(n, shapes) for n in node.input],
                [self._constants.get(n) for n in node.input],
                [self._shape(n, shapes) for n in node.output],
            )
            for i, value in draw_operands(call, rng).items():
                name = sources.get(i)
                if name is None or name in found:
                    continue
                array = np.asarray(value)
                if array.size == int(np.prod(shapes[name], dtype=np.int64)):
                    found[name] = array.astype(self._dtypes[name]).reshape(shapes[name])
        for name in self.whole if attempt else ():
            sizes = self._sizes_of(len(shapes[name]) == 1 and shapes[name][0])
            if name not in found and attempt <= len(sizes):
                found[name] = np.asarray(sizes[attempt - 1], self._dtypes[name])
        found.update(self._from_given(shapes, attempt))
        if attempt < WIDE_ATTEMPTS:
            for name, wide in self.wide.items():
                if name not in found:
                    found[name] = draw_wide(wide, np.dtype(self._dtypes[name]), shapes[name], rng)
        return found

    def _from_given(self, shapes: Mapping[str, Sequence[int]], attempt: int) -> Arrays:
        """The user's own whole numbers in the second draw, and all of their values in the third, if they fit."""
        parts = self._given_parts()
        if not 1 <= attempt <= len(parts) or any(
            np.shape(self._given[n]) != tuple(dims) for n, dims in shapes.items() if n in self._given
        ):
            return {}
        return parts[attempt - 1]

    def _given_parts(self) -> list[Arrays]:
        values = {n: np.asarray(v) for n, v in self._given.items()}
        whole = {n: v for n, v in values.items() if v.dtype.kind in "iub"}
        return [p for p in (whole, values) if p]

    def _sizes_of(self, length: int) -> list[tuple[int, ...]]:
        """Declared sizes of outputs that a vector of that length may ask for: all of them, or those of some axes."""
        found: list[tuple[int, ...]] = []
        for dims in self.declared.values():
            known = [d for d in dims or () if isinstance(d, int)]
            if length and dims and len(known) == len(dims) <= MOST_SIZES and length <= len(dims):
                found += itertools.islice(itertools.permutations(known, length), MOST_ORDERS)
        return found[:MOST_ORDERS]

    def _shape(self, name: str, shapes: Mapping[str, Sequence[int]]) -> tuple[int, ...] | None:
        if not name:
            return None
        dims = shapes.get(name, self._known.get(name))
        if dims is None or not all(isinstance(d, int) for d in dims):
            return None
        return tuple(int(d) for d in dims)  # type: ignore[arg-type]

    def judge(self, feeds: Arrays) -> int:
        """0: the model does not run on the values; 1: it runs; 2: it also keeps the shapes it declares.

        Raises:
            EndlessError: the model did not end in time.
        """
        if self._session is None:
            try:
                self._session = Evaluator(self._model)
            except EvaluationError as error:
                self.error = str(error)
                return 2  # no values will make it run; verification says why
        try:
            outputs = self._session.run(feeds)
        except EndlessError as error:
            error.where = "the original"
            raise
        except EvaluationError as error:
            self.error = str(error)
            return 0
        self.error = None
        kept = all(_fits(self.declared.get(name), np.shape(value)) for name, value in outputs.items())
        return 2 if kept else 1


def onnx_value(attribute: onnx.AttributeProto) -> Any:
    """An attribute's value."""
    import onnx

    return onnx.helper.get_attribute_value(attribute)


def _fits(declared: list[int | str | None] | None, shape: tuple[int, ...]) -> bool:
    if declared is None:
        return True
    return len(declared) == len(shape) and all(
        not isinstance(d, int) or d == n for d, n in zip(declared, shape, strict=True)
    )
