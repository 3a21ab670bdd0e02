"""How much of a difference rounding alone can make: the original against itself, moved a little.

A GPU adds in another order than a CPU, so that each number comes out a few roundings away. Mostly that stays small.
Where a model ranks, rounds or takes a threshold, it does not: two scores that are nearly equal change places, and
whole rows with them. How far an output may move is asked of the original: its weights and inputs are moved by
random signs times a small number, and what comes out then is what rounding decides. This is the backward error of
numerical analysis (Higham, Accuracy and Stability of Numerical Algorithms, chapter 1): a result is right if it is
the exact one of a problem as near as the precision allows. Weights that are moved move two nearly equal scores
together, so the results of operators are rounded a little differently, too, each on its own (the standard model of
rounding, chapter 2 there). What ONNX leaves open, as which of two updates of a scatter stays, is drawn, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.outside import load_whole
from surgery.graph.typed import infer_shapes
from surgery.graph.walk import all_nodes, bodies
from surgery.verify.compare import Arrays, CaseResult, compare_case
from surgery.verify.tensors import MANTISSA_BITS, OutputResult, Tolerance, is_float

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from surgery.verify.cases import Case

DRAWS = (8, 24)
"""Times the original is moved at first, and at most: in eight, two nearly equal scores may keep their order."""

MOVE = 2.0**-18
"""What float32 is moved by, relative to each number: less than a twentieth of the usual tolerance."""

ROUNDED = 2.0**-22
"""What float32 results of operators are off by, at most, relative to each: two units in the last place."""

ROUNDING = frozenset(
    {
        "Add", "AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "Cos", "Div", "Einsum", "Elu", "Erf",
        "Exp", "Gelu", "Gemm", "GlobalAveragePool", "GridSample", "HardSigmoid", "HardSwish", "InstanceNormalization",
        "LayerNormalization", "Log", "LogSoftmax", "MatMul", "Mish", "Mul", "Pow", "Reciprocal", "ReduceMean",
        "ReduceSum", "Resize", "RoiAlign", "Selu", "Sigmoid", "Sin", "Softmax", "Softplus", "Sqrt", "Sub", "Sum",
        "Tanh",
    }
)  # fmt: skip
"""Operators that round; the others hand numbers on, compare them, or work on whole ones."""

OLDEST = 11
"""Oldest operator set with all the operators that are put in."""

UNDRAWN = 22
"""Operator set from which on ONNX Runtime 1.31 has no kernels for operators that draw numbers."""

EXACT = 256.0
"""Results that are whole multiples of one over this are taken for exact: places, counts and sizes are."""

SPREADS = 3.0
"""How many times as far as the original moved, there or in the middle of the output, an entry may be off."""

LARGEST = 1_900_000_000
"""Bytes of the largest model that is moved; ONNX Runtime takes no more from memory."""

HALF = 0.5
"""Part of an output that has to be compared within the tolerance for the output to count as compared."""


class Moved:
    """Outputs of the original when its weights and inputs are moved, for the cases that ask.

    Args:
        original: The model, a path if it has external weights.
        seed: Of the moves.
    """

    def __init__(self, original: onnx.ModelProto | bytes | Path, seed: int = 0) -> None:
        self._original, self._seed = original, seed

    def runs(self, feeds: Sequence[Arrays], draws: Iterable[int] = range(DRAWS[0])) -> list[list[Arrays]]:
        """For each of the feeds the outputs of all draws that ran; none for a model that is too large."""
        from surgery.verify.runner import RunError, run_onnx

        found: list[list[Arrays]] = [[] for _ in feeds]
        model = self._load()
        if model is None:
            return found
        for draw in draws:
            rng = np.random.default_rng([self._seed, draw])
            moved = type(model)()
            moved.CopyFrom(model)
            for tensor in _tensors(moved):
                _move_tensor(tensor, rng)
            write_otherwise(moved, int(rng.integers(1 << 20)))
            round_otherwise(moved, int(rng.integers(1 << 20)))
            near = [{n: _move(np.asarray(v), rng) for n, v in feed.items()} for feed in feeds]
            try:
                outputs = run_onnx(moved, near, "the original, moved")
            except RunError:  # a number that is no weight was moved, so this draw says nothing
                continue
            for of_case, one in zip(found, outputs, strict=True):
                of_case.append(one)
        return found

    def _load(self) -> onnx.ModelProto | None:
        import onnx

        if isinstance(self._original, Path):
            sizes = sum(f.stat().st_size for f in self._original.parent.iterdir() if f.is_file())
            return load_whole(self._original) if sizes < LARGEST else None
        if isinstance(self._original, bytes):
            return onnx.load_from_string(self._original)
        return self._original


def excuse(
    cases: Sequence[Case],
    results: Sequence[CaseResult],
    want: Sequence[Arrays],
    got: Sequence[Arrays],
    moved: Moved,
    tolerances: Mapping[str, Tolerance],
) -> tuple[list[CaseResult], str | None]:
    """Judge again the cases that failed, by how far the original moves.

    Args:
        cases: Inputs of the original.
        results: Of the comparison within tolerances.
        want: Outputs of the original.
        got: Outputs of what is verified.
        moved: The original, moved.
        tolerances: Of the plain outputs.

    Returns:
        The results, and why they do not prove anything though each passed, or None: an output has to agree within
        its tolerance in at least half of its entries in one case.
    """
    judged = list(results)
    known: dict[int, list[Arrays]] = {}
    for draws in (range(DRAWS[0]), range(*DRAWS)):
        asked = [k for k, r in enumerate(judged) if not r]
        runs = moved.runs([cases[k].feeds for k in asked], draws)
        for k, near in zip(asked, runs, strict=True):
            known.setdefault(k, []).extend(near)
            judged[k] = _judge_again(results[k], want[k], got[k], known[k], tolerances)
    if not all(judged):
        return judged, None
    decided = {o.name for r in judged for o in r.outputs if o.excused <= HALF}
    left = sorted({o.name for r in judged for o in r.outputs} - decided)
    if not left:
        return judged, None
    return judged, (
        f"{', '.join(left)}: rounding decides most of it on all inputs that were tried, so that agreement proves "
        "nothing; give inputs as they occur (--inputs FILE.npz)"
    )


def _judge_again(
    result: CaseResult, want: Arrays, got: Arrays, near: Sequence[Arrays], tolerances: Mapping[str, Tolerance]
) -> CaseResult:
    if set(want) != set(got) or any(want[n].shape != got[n].shape for n in want):
        return result
    near = [d for d in near if all(d[n].shape == want[n].shape for n in want)]
    if not near:
        return result
    shown = dict(got)
    excused: dict[str, tuple[int, float]] = {}
    for output in result.outputs:
        name = output.name
        if output.passed:
            continue
        allowed, spread = _within(want[name], got[name], [d[name] for d in near])
        shown[name] = np.where(allowed, want[name], got[name])
        excused[name] = (
            int(np.count_nonzero(allowed & _apart(want[name], got[name], tolerances.get(name)))),
            spread,
        )
    again = compare_case(result.name, result.shapes, want, shown, None, tolerances)
    before = {o.name: o for o in result.outputs}
    outputs = tuple(
        _noted(before[o.name], o, *excused[o.name], want[o.name].size) if o.name in excused else o
        for o in again.outputs
    )
    return CaseResult(
        again.name, again.shapes, outputs, None, (), again.reason and _both(result, again), empty=again.empty
    )


def _both(result: CaseResult, again: CaseResult) -> str:
    return (
        f"{again.reason}; rounding decides some of it, but not that"
        if again.reason != result.reason
        else str(again.reason)
    )


def _noted(before: OutputResult, after: OutputResult, count: int, spread: float, size: int) -> OutputResult:
    note = f"{count} of {size} entries are at the mercy of rounding: the original moves by up to {spread:.4g} there"
    return OutputResult(
        before.name,
        before.max_abs,
        before.max_rel,
        f"{before.compare}, or {SPREADS:g} times what the original moves",
        after.passed,
        f"{after.note}; {note}" if after.note else note,
        count / max(size, 1),
    )


def _apart(want: NDArray[Any], got: NDArray[Any], tolerance: Tolerance | None) -> NDArray[Any]:
    """Entries that are not equal within the tolerance."""
    if not is_float(want.dtype):
        differ: NDArray[Any] = want != got
        return differ
    limit = (tolerance or Tolerance()).widened(want.dtype)
    one, two = want.astype(np.float64), got.astype(np.float64)
    near: NDArray[Any] = np.abs(one - two) <= limit.atol + limit.rtol * np.abs(one)
    equal: NDArray[Any] = one == two
    differ = ~(near | equal)
    return differ


def _within(
    want: NDArray[Any], got: NDArray[Any], near: Sequence[NDArray[Any]]
) -> tuple[NDArray[Any], float]:
    """Entries no further off than the original moves, and how far that is at most."""
    if want.dtype.kind not in "fiub" and not is_float(want.dtype):
        same = [np.asarray(d == got) for d in near]
        return np.any(same, axis=0), 0.0
    one, two = want.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        spread = np.max([np.abs(d.astype(np.float64) - one) for d in near], axis=0)
        # A few draws may miss an entry of an output that moves everywhere: the middle one stands for it.
        limit = SPREADS * np.maximum(spread, np.median(spread))
        allowed = np.isfinite(two) & np.isfinite(spread) & (np.abs(two - one) <= limit)
    return allowed, float(np.max(spread[allowed], initial=0.0))


def round_otherwise(model: onnx.ModelProto, seed: int) -> None:
    """Move the float results of rounding operators by random parts of `ROUNDED`, in place, each entry on its own.

    Args:
        model: The model; bodies and functions in it stay, and everything does before operator set 11.
        seed: Of the random numbers.
    """
    from onnx import TensorProto, helper, numpy_helper

    if _opset(model) < OLDEST:
        return
    inferred = _inferred(model)
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    sizes: dict[int, float] = {int(TensorProto.FLOAT): ROUNDED, int(TensorProto.FLOAT16): 2.0**-10}
    made: list[onnx.NodeProto] = []
    for count, node in enumerate(model.graph.node):
        kind = kinds.get(node.output[0], 0) if node.output else 0
        made.append(node)
        if node.op_type not in ROUNDING or node.domain not in ("", "ai.onnx") or kind not in sizes:
            continue
        name = node.output[0]
        raw, noise, wide, times, whole, plain, moved = (f"{name}/rounded/{k}" for k in range(7))
        number = numpy_helper.from_array(
            np.asarray(EXACT, helper.tensor_dtype_to_np_dtype(kind)), f"{name}/rounded/exact"
        )
        model.graph.initializer.append(number)
        node.output[0] = raw
        made += [
            *_noise(model, raw, noise, seed + count, 1 - sizes[kind], 1 + sizes[kind]),
            helper.make_node("Cast", [noise], [wide], to=kind),
            helper.make_node("Mul", [raw, wide], [moved]),
            helper.make_node("Mul", [raw, number.name], [times]),
            helper.make_node("Round", [times], [whole]),
            helper.make_node("Equal", [times, whole], [plain]),
            helper.make_node("Where", [plain, raw, moved], [name]),
        ]  # fmt: skip
    _put(model, made)


def write_otherwise(model: onnx.ModelProto, seed: int) -> None:
    """Let scatters without a reduction write their updates in a random order, in place.

    Where two updates are for one place, ONNX leaves open which of them stays ("indices should not have duplicate
    entries"); ONNX Runtime takes the last, a GPU any. Bodies and functions stay, and all before operator set 11.

    Args:
        model: The model.
        seed: Of the order.
    """
    from onnx import helper, numpy_helper

    if _opset(model) < OLDEST or not any(map(_scatters, model.graph.node)):
        return
    ranks = _ranks(model)
    made: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if not _scatters(node) or ranks.get(node.input[1], 0) < (2 if node.op_type == "ScatterND" else 1):
            made.append(node)
            continue
        own = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        axis = int(own.get("axis", 0)) if node.op_type == "ScatterElements" else 0
        at = numpy_helper.from_array(np.array([axis % ranks[node.input[1]]]), f"{node.output[0]}/order/axis")
        model.graph.initializer.append(at)
        shape, size, flat, noise, drawn, order, *moved = (f"{node.output[0]}/order/{k}" for k in range(8))
        made += [
            helper.make_node("Shape", [node.input[1]], [shape]),
            helper.make_node("Gather", [shape, at.name], [size]),
            helper.make_node("ConstantOfShape", [size], [flat]),
            *_noise(model, flat, noise, seed + len(made)),
            helper.make_node("TopK", [noise, size], [drawn, order]),
            *(helper.make_node("Gather", [node.input[k], order], [moved[k - 1]], axis=axis) for k in (1, 2)),
            node,
        ]
        node.input[1], node.input[2] = moved
    _put(model, made)


def _noise(
    model: onnx.ModelProto, like: str, name: str, seed: int, low: float = 0.0, high: float = 1.0
) -> list[onnx.NodeProto]:
    """Nodes that make float32 numbers between two bounds, of the shape of another tensor.

    Where no operator draws numbers, they are the places of the entries, scattered: what is behind the point of a
    large multiple of their sines. Constants become weights of the model.
    """
    from onnx import TensorProto, helper, numpy_helper

    if _opset(model) < UNDRAWN:
        kind = int(TensorProto.FLOAT)
        return [
            helper.make_node(
                "RandomUniformLike", [like], [name], dtype=kind, low=low, high=high, seed=float(seed)
            )
        ]
    made: list[onnx.NodeProto] = []

    def step(op: str, out: str, *operands: str, **attributes: Any) -> str:
        made.append(helper.make_node(op, operands, [f"{name}/{out}"], **attributes))
        return f"{name}/{out}"

    def number(value: Any) -> str:
        tensor = numpy_helper.from_array(np.asarray(value), f"{name}/number/{len(made)}")
        model.graph.initializer.append(tensor)
        return str(tensor.name)

    size = step("Size", "size", like)
    zero, one = (step("Identity", f"from{v}", number(np.int64(v))) for v in range(2))
    place = step("Cast", "place", step("Range", "places", zero, size, one), to=int(TensorProto.DOUBLE))
    angle = step("Add", "angle", step("Mul", "apart", place, number(12.9898)), number(float(seed)))
    large = step("Mul", "large", step("Sin", "sine", angle), number(43758.5453))
    part = step("Sub", "part", large, step("Floor", "whole", large))
    part = step("Cast", "drawn", part, to=int(TensorProto.FLOAT))
    part = step("Mul", "spread", part, number(np.float32(high - low)))
    part = step("Add", "flat", part, number(np.float32(low)))
    shape = step("Shape", "shape", like)
    return [*made, helper.make_node("Reshape", [part, shape], [name])]


def _scatters(node: onnx.NodeProto) -> bool:
    """Whether a node writes updates over what was there."""
    plain = all(a.s in (b"", b"none") for a in node.attribute if a.name == "reduction")
    return node.domain in ("", "ai.onnx") and node.op_type in ("ScatterND", "ScatterElements") and plain


def _opset(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operator set that a model declares; 0 if it declares none."""
    return next((i.version for i in model.opset_import if i.domain in ("", "ai.onnx")), 0)


def _inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    """The outermost graph with the types and shapes that onnx infers, or as it is."""
    try:
        return infer_shapes(model).graph
    except Exception:  # a help; onnx raises many undocumented types
        return model.graph


def _put(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Let some nodes, of the graph's own or new, be those of the outermost graph."""
    kept = list(nodes)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    """Ranks of the tensors of the outermost graph, as far as they are known."""
    graph = _inferred(model)
    found = {t.name: len(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            found[value.name] = len(value.type.tensor_type.shape.dim)
    return found


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Initializers and constants, of bodies and functions too."""
    yield from model.graph.initializer
    for node in all_nodes([*model.graph.node, *(n for f in model.functions for n in f.node)]):
        for body in bodies(node):
            yield from body.initializer
        if node.op_type == "Constant":
            yield from (a.t for a in node.attribute if a.HasField("t"))


def _move_tensor(tensor: onnx.TensorProto, rng: np.random.Generator) -> None:
    from onnx import TensorProto, numpy_helper

    if tensor.data_type not in (
        TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16
    ):  # fmt: skip
        return
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(_move(numpy_helper.to_array(tensor), rng), name))


def _move(value: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """A float tensor with each number moved up or down; whole numbers and plain fractions are exact, and stay."""
    if not is_float(value.dtype):
        return value
    bits = MANTISSA_BITS.get(value.dtype.name)
    size = MOVE if bits is None else 2.0**-bits
    wide = value.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        exact = (wide * 256 == np.round(wide * 256)) | ~np.isfinite(wide)
        moved = wide * (1.0 + size * rng.choice((-1.0, 1.0), value.shape))
    return np.asarray(np.where(exact, wide, moved).astype(value.dtype)).reshape(value.shape)
