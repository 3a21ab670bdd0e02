"""Cutting off preprocessing: the graph's input becomes the tensor that the network itself reads.

The prefix is extracted as a model of its own, never retyped, so that ``original(x)`` can be compared with
``result(prefix(x))``. What the prefix computes from shapes alone (TensorFlow's true image shapes, say) and
that turns out to be the same for every image becomes a constant instead of a second input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.errors import ConversionError
from surgery.graph.convert import constant, extract
from surgery.graph.cut import Cut
from surgery.graph.evaluate import EvaluationError, Evaluator
from surgery.graph.taint import tainted_by
from surgery.graph.tidy import drop_dead, replace_uses
from surgery.graph.view import View
from surgery.heads.image_loops import LoopForm, ResolvedLoop, resolve

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

Shape = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class NewInput:
    """An input of the shortened graph: its name, the tensor it stands for, dtype, shape (names: free dims)."""

    name: str
    tensor: str
    dtype: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class FrontCut:
    """What cutting the front did: the prefix model, the new inputs, what became constant, what is gone."""

    pre: onnx.ModelProto
    inputs: tuple[NewInput, ...]
    constants: tuple[str, ...]
    removed_inputs: tuple[str, ...]
    evidence: str


def probe_shapes(inputs: Sequence[Any]) -> list[dict[str, tuple[int, ...]]]:
    """Concrete shapes to try for inputs with free dims.

    The leading free dim is taken as the batch and tried at 1 and 2, other free dims at two sizes each, not
    square. Returns one mapping per trial, the first with batch 1.
    """
    trials: list[dict[str, tuple[int, ...]]] = []
    free_batch = any(not isinstance(t.shape[0], int) for t in inputs if t.shape)
    for batch in (1, 2) if free_batch else (None,):
        for sizes in ((224, 288), (333, 201)):
            trial = {}
            for tensor in inputs:
                dims: list[int] = []
                rest = iter(sizes * 4)
                for axis, dim in enumerate(tensor.shape or ()):
                    if isinstance(dim, int) and dim >= 0:
                        dims.append(dim)
                    elif axis == 0:
                        dims.append(batch or 1)
                    else:
                        dims.append(next(rest))
                trial[tensor.name] = tuple(dims)
            if trial not in trials:
                trials.append(trial)
    return trials


def cut_front(graph: gs.Graph, cut: Cut, *, name: str | None, seed: int) -> FrontCut:
    """Cut off the front, in place.

    Args:
        graph: The graph; its view must be the one `cut` was found in.
        cut: A cut whose inputs are all graph inputs.
        name: Name for the new input if there is exactly one; None keeps the tensor's own name.
        seed: Seed of the trial images.

    Raises:
        ConversionError: the cut depends on something that is not a graph input, or does not run.
    """
    view = View(graph)
    originals = [t for t in graph.inputs if t.name in cut.inputs]
    inner = [n for n in cut.inputs if n not in {t.name for t in originals}]
    if inner:
        raise ConversionError(
            f"cut {cut.name!r} is not at the front: it depends on {inner[0]!r}",
            code="cut-not-at-front",
            where=f"cuts.{cut.name}",
            fix="choose a scope or boundary that starts at the model's inputs",
        )
    nodes = cut.nodes(view)
    pre = extract(graph, nodes, [t.name for t in originals], cut.outputs, name=f"{cut.name}")
    trials = probe_shapes(originals)
    results = _try(pre, originals, trials, seed, cut.name)
    tainted = tainted_by(view, [t.name for t in graph.inputs])
    batch_name = next((t.shape[0] for t in originals if t.shape and isinstance(t.shape[0], str)), "N")

    new_inputs: list[NewInput] = []
    fixed: dict[str, np.ndarray[Any, Any]] = {}
    for output in cut.outputs:
        values = [r[output] for r in results]
        row = _constant_row(values) if output not in tainted else None
        if row is not None:
            fixed[output] = row
        else:
            shape = _common_shape(values, trials, str(batch_name), output)
            new_inputs.append(NewInput(output, output, values[0].dtype.name, shape))
    if not new_inputs:
        raise ConversionError(
            f"nothing after cut {cut.name!r} depends on the image",
            code="cut-takes-all",
            where=f"cuts.{cut.name}",
            fix="the scope matches more than the preprocessing; give boundary tensors instead",
        )
    if name and len(new_inputs) == 1:
        first = new_inputs[0]
        new_inputs = [NewInput(name, first.tensor, first.dtype, first.shape)]
    _rewire(graph, view, cut, new_inputs, fixed)
    pre = _rename_outputs(pre, new_inputs)
    tried = "; ".join(", ".join("x".join(map(str, s)) for s in t.values()) for t in trials)
    kept = {t.name for t in graph.inputs}
    return FrontCut(
        pre,
        tuple(new_inputs),
        tuple(fixed),
        tuple(t.name for t in originals if t.name not in kept),
        f"shapes observed by running the prefix at {tried}",
    )


def _try(
    pre: onnx.ModelProto,
    inputs: Sequence[Any],
    trials: Sequence[Mapping[str, tuple[int, ...]]],
    seed: int,
    name: str,
) -> list[dict[str, np.ndarray[Any, Any]]]:
    rng = np.random.default_rng(seed)
    try:
        evaluator = Evaluator(pre)
        results = []
        for trial in trials:
            feeds = {}
            for tensor in inputs:
                dtype = np.dtype(tensor.dtype)
                shape = trial[tensor.name]
                if dtype.kind in "ui":
                    feeds[tensor.name] = rng.integers(0, 256, shape).astype(dtype)
                else:
                    feeds[tensor.name] = rng.uniform(0, 255, shape).astype(dtype)
            results.append(evaluator.run(feeds))
    except EvaluationError as error:
        raise ConversionError(
            f"cut {name!r} does not run on its own",
            code="cut-does-not-run",
            where=f"cuts.{name}",
            cause=str(error),
            fix="check the scope or boundary of the cut",
        ) from error
    return results


def _constant_row(values: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any] | None:
    """The one row that all values repeat along their first axis, or None."""
    first = values[0]
    if first.ndim == 0:
        return first if all(np.array_equal(v, first) for v in values) else None
    if first.shape[0] == 0:
        return None
    row = first[:1]
    for value in values:
        if value.ndim != first.ndim or value.shape[1:] != first.shape[1:]:
            return None
        if not np.array_equal(value, np.broadcast_to(row, value.shape)):
            return None
    return row


def _common_shape(
    values: Sequence[np.ndarray[Any, Any]],
    trials: Sequence[Mapping[str, tuple[int, ...]]],
    batch_name: str,
    output: str,
) -> Shape:
    batches = [next(iter(t.values()))[0] for t in trials]
    shape: list[int | str] = []
    for axis in range(values[0].ndim):
        seen = [v.shape[axis] for v in values]
        if len(set(seen)) == 1 and (axis > 0 or len(set(batches)) == 1):
            shape.append(seen[0])
        elif seen == batches:
            shape.append(batch_name)
        else:
            shape.append(f"{output.replace('/', '_').replace(':', '_')}_dim_{axis}")
    return tuple(shape)


def _rewire(
    graph: gs.Graph,
    view: View,
    cut: Cut,
    new_inputs: Sequence[NewInput],
    fixed: Mapping[str, np.ndarray[Any, Any]],
) -> None:
    import onnx_graphsurgeon as gs

    inside = set(cut.keys)
    variables = []
    for new in new_inputs:
        variable = gs.Variable(new.name, dtype=np.dtype(new.dtype), shape=list(new.shape))
        replace_uses(view, new.tensor, variable)
        _retire(view, inside, new.tensor)
        variables.append(variable)
    for name, row in fixed.items():
        replace_uses(view, name, _repeated(graph, name, row, variables[0]))
        _retire(view, inside, name)
    graph.inputs = [*variables, *(t for t in graph.inputs if t.name not in cut.inputs)]
    drop_dead(graph)
    _count_new(graph, variables, _original_inputs(view, cut))
    # An original input that something outside the cut reads as well stays an input.
    used = {n for users in (View(graph).consumers,) for n in users}
    graph.inputs = [
        *graph.inputs,
        *(t for t in _original_inputs(view, cut) if t.name in used),
    ]


def _count_new(graph: gs.Graph, variables: Sequence[gs.Variable], originals: Sequence[Any]) -> None:
    """Let what reads nothing of an original input but its number of samples count those of a new one."""
    view = View(graph)
    for original in originals:
        batch = original.shape[0] if original.shape else None
        new = next((v for v in variables if v.shape and v.shape[0] == batch), None)
        if not isinstance(batch, str) or new is None:
            continue
        for key in view.consumers.get(original.name, ()):
            shape = view.nodes[key]
            if shape.op != "Shape" or shape.attrs.get("start", 0) or "end" in shape.attrs:
                continue
            sizes = shape.outputs[0].name
            readers = [view.nodes[k] for k in view.consumers.get(sizes, ())]
            if sizes not in view.outputs and readers and all(_takes_first(n, sizes) for n in readers):
                shape.inputs[0] = new


def _takes_first(node: gs.Node, sizes: str) -> bool:
    """Whether a node takes the first entry of a list of sizes and no other."""
    import onnx_graphsurgeon as gs

    if node.op not in ("Gather", "Slice") or node.inputs[0].name != sizes:
        return False
    operands = node.inputs[1:]
    if not all(isinstance(t, gs.Constant) for t in operands):
        return False
    values = [np.asarray(t.values).reshape(-1).tolist() for t in operands]
    if node.op == "Gather":
        return not any(values[0])
    return values[:2] == [[0], [1]] and all(v == [axis] for v, axis in zip(values[2:], (0, 1), strict=False))


def _retire(view: View, keys: set[int], name: str) -> None:
    """Give the old producer's tensor another name, now that something else carries this one."""
    for key in keys:
        for tensor in view.nodes[key].outputs:
            if tensor.name == name:
                tensor.name = f"{name}__cut"


def _original_inputs(view: View, cut: Cut) -> list[Any]:
    seen: dict[str, Any] = {}
    for key in cut.keys:
        for tensor in view.nodes[key].inputs:
            if tensor.name in cut.inputs:
                seen.setdefault(tensor.name, tensor)
    return list(seen.values())


def _repeated(graph: gs.Graph, name: str, row: np.ndarray[Any, Any], image: gs.Variable) -> Any:
    """A constant, or its repetition over the batch of `image` where that is free."""
    import onnx_graphsurgeon as gs

    if row.ndim == 0 or isinstance(image.shape[0], int):
        count = 1 if row.ndim == 0 else int(image.shape[0])
        return constant(name, row if row.ndim == 0 else np.repeat(row, count, axis=0))
    made = gs.Variable(name, dtype=row.dtype, shape=[image.shape[0], *row.shape[1:]])
    shape = gs.Variable(f"{name}__image_shape", dtype=np.int64, shape=[len(image.shape)])
    batch = gs.Variable(f"{name}__batch", dtype=np.int64, shape=[1])
    full = gs.Variable(f"{name}__shape", dtype=np.int64, shape=[row.ndim])

    def node(op: str, inputs: list[Any], output: Any, **attrs: Any) -> gs.Node:
        return gs.Node(op=op, name=f"{output.name}", inputs=inputs, outputs=[output], attrs=attrs)

    zero = constant(f"{name}__zero", np.asarray([0], np.int64))
    tail = constant(f"{name}__tail", np.asarray(row.shape[1:], np.int64))
    graph.nodes.append(node("Shape", [image], shape))
    graph.nodes.append(node("Gather", [shape, zero], batch, axis=0))
    graph.nodes.append(node("Concat", [batch, tail], full, axis=0))
    graph.nodes.append(node("Expand", [constant(f"{name}__row", row), full], made))
    return made


def _rename_outputs(pre: onnx.ModelProto, new_inputs: Sequence[NewInput]) -> onnx.ModelProto:
    """The prefix with just the outputs that are still needed, under the new inputs' names."""
    import onnx

    wanted = {n.tensor: n for n in new_inputs}
    for node in pre.graph.node:
        for i, output in enumerate(node.output):
            if output in wanted:
                node.output[i] = wanted[output].name
        for i, name in enumerate(node.input):
            if name in wanted:
                node.input[i] = wanted[name].name
    del pre.graph.output[:]
    for new in new_inputs:
        element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(new.dtype))
        pre.graph.output.append(onnx.helper.make_tensor_value_info(new.name, element, list(new.shape)))
    kept = [v for v in pre.graph.value_info if v.name not in wanted]
    del pre.graph.value_info[:]
    pre.graph.value_info.extend(kept)
    return pre


def keep_front(
    graph: gs.Graph, cut: Cut, provenance: dict[str, dict[str, str]], *, seed: int
) -> list[ResolvedLoop]:
    """Keep the preprocessing in the graph, in place, but resolve its loops over the images of a batch.

    Values that it derives from shapes alone and that are the same for every image become constants.

    Raises:
        ConversionError: a loop has another form, or its replacement computes something else.
    """
    view = View(graph)
    originals = [t for t in graph.inputs if t.name in cut.inputs]
    trials = probe_shapes(originals)
    pre = extract(graph, cut.nodes(view), [t.name for t in originals], cut.outputs, name=cut.name)
    before = _try(pre, originals, trials, seed, cut.name)
    tainted = tainted_by(view, [t.name for t in graph.inputs])
    inside = set(cut.keys)
    for name in cut.outputs:
        row = _constant_row([r[name] for r in before]) if name not in tainted else None
        if row is not None:
            replace_uses(view, name, _repeated(graph, name, row, originals[0]))
            _retire(view, inside, name)
    batches = [next(iter(t.values()))[0] for t in trials]
    resolved = []
    for node in [n for n in cut.nodes(view) if n.op == "Loop"]:
        needed = [i for i, t in enumerate(node.outputs) if t.name and _is_used(graph, t.name)]
        lengths = [len(r[node.outputs[i].name]) for r in before for i in needed if node.outputs[i].name in r]
        form: LoopForm = "once" if all(n == 1 for n in lengths) and set(batches) == {1} else "batch"
        made = resolve(graph, node, form, needed)
        for new in made:
            key = next((t.name for t in new.outputs if t.name), "")
            provenance[key] = {"surgery.rule": "resolve-image-loop", "surgery.from": node.name}
        resolved.append((node.name, tuple(n.name for n in made), form))
    drop_dead(graph)
    _cast_first(graph, [t.name for t in originals])
    after_view = View(graph)
    left = [n for n in cut.outputs if n in after_view.producer and n in tainted]
    keys = after_view.ancestors(after_view.producer[n] for n in left)
    nodes = [after_view.nodes[k] for k in sorted(keys, key=lambda k: after_view.order[k])]
    after = _try(
        extract(graph, nodes, [t.name for t in originals], left, name=cut.name),
        originals,
        trials,
        seed,
        cut.name,
    )
    worst = 0.0
    for one, other in zip(before, after, strict=True):
        for name in left:
            same = one[name].shape == other[name].shape
            error = float(np.max(np.abs(one[name] - other[name]), initial=0)) if same else np.inf
            worst = max(worst, error)
    if worst > 1e-5:
        raise ConversionError(
            "resolving the loops of the preprocessing changes its result",
            code="unproven",
            where=f"cuts.{cut.name}",
            cause=f"largest difference {worst:g}",
            fix="use `input: normalized`",
        )
    return [ResolvedLoop(name, made_names, form, worst) for name, made_names, form in resolved]


def _is_used(graph: gs.Graph, name: str) -> bool:
    view = View(graph)
    return name in view.outputs or bool(view.consumers.get(name))


MOVES = frozenset(
    {"Gather", "Slice", "Unsqueeze", "Squeeze", "Reshape", "Transpose", "Identity", "Expand", "Tile"}
)
"""Operators that move values and never look at them, so that a cast may go before or after."""


def _cast_first(graph: gs.Graph, names: Sequence[str]) -> None:
    """Let integer images be cast to float before anything else is done with them.

    TensorRT takes UINT8 only at the network's border, in front of a cast. Where an image is first moved
    (gathered out of a batch, transposed) and cast behind that, the cast goes to the front, and the old one is
    then from float to float.
    """
    import onnx
    import onnx_graphsurgeon as gs

    for name in names:
        image = next((t for t in graph.inputs if t.name == name), None)
        if image is None or np.dtype(image.dtype) != np.uint8:
            continue
        view = View(graph)
        moved: list[Any] = []
        kinds: set[int] = set()
        stack = [name]
        clean = name not in view.outputs
        while stack and clean:
            tensor_name = stack.pop()
            for key in view.consumers.get(tensor_name, ()):
                node = view.nodes[key]
                if node.op == "Cast":
                    kinds.add(int(node.attrs["to"]))
                elif node.op in MOVES and node.inputs[0].name == tensor_name:
                    moved.append(node)
                    stack.append(node.outputs[0].name)
                    clean = clean and node.outputs[0].name not in view.outputs
                elif node.op not in ("Shape", "Size"):
                    clean = False
        if not (clean and moved and kinds == {onnx.TensorProto.FLOAT}):
            continue
        cast = gs.Variable(f"{name}/float", dtype=np.dtype(np.float32), shape=image.shape)
        replace_uses(view, name, cast)
        for node in moved:
            node.outputs[0].dtype = np.dtype(np.float32)
        attrs = {"to": onnx.TensorProto.FLOAT}
        graph.nodes.append(gs.Node("Cast", f"{name}/cast_first", attrs, [image], [cast]))
        drop_dead(graph)
