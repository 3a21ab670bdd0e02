"""The pass that changes nodes behind padded tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from surgery.graph.bounded.dims import FREE
from surgery.graph.bounded.equations import settle
from surgery.graph.bounded.operators import handle, prepare
from surgery.graph.bounded.survey import survey
from surgery.graph.bounded.values import limited
from surgery.graph.bounded.work import No, Unbounded
from surgery.graph.infer import is_static
from surgery.graph.view import captured_names

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.graph.bounded.work import Bounds


def follow(bounds: Bounds, graph: gs.Graph, waits: Callable[[gs.Node], bool]) -> list[gs.Node]:
    """Change the nodes behind padded tensors, in place, up to nodes that wait.

    Args:
        bounds: What is padded; gets what is found.
        graph: The graph, in topological order.
        waits: Whether the size of what a node makes depends on data, and the node is still to be replaced: its
            operands are masked, and what is behind it is left for a later call. Asked only once all in front
            of a node is done.

    Returns:
        The nodes that wait and have nothing in front of them that waits.

    Raises:
        Unbounded: a node cannot work on padded tensors.
    """
    bounds.opset = int(graph.opset)
    bounds.named = frozenset(d for t in graph.inputs for d in t.shape or () if isinstance(d, str))
    for tensor in graph.inputs:
        for axis, dim in enumerate(tensor.shape or ()):
            bounds.present.add(f"{FREE}{dim}" if isinstance(dim, str) else f"{FREE}{tensor.name}:{axis}")
    bounds.out = []
    bounds.opaque.clear()
    found = []
    blocked: set[str] = set()
    typed: set[str] = set()
    for node in list(graph.nodes):
        name = next((t.name for t in node.outputs if t.name), "")
        reads = {t.name for t in node.inputs if t.name}
        if node.attrs:
            reads |= {c for body in node.subgraphs() for c in captured_names(body)}
        if reads & blocked:
            blocked.update(t.name for t in node.outputs)
        elif waits(node):
            blocked.update(t.name for t in node.outputs)
            found.append(node)
            if name not in bounds.done and any(r in bounds.padded for r in reads):
                settle(bounds, node)
                _guard(bounds, node, prepare)
                bounds.done.add(name)
        elif (
            name not in bounds.done
            and (any(r in bounds.padded or r in bounds.sizes for r in reads) or limited(bounds, node))
            and not _open_for(bounds, node)
        ):
            bounds.done.add(name)
            _step(bounds, node, reads)
            continue
        elif _open_for(bounds, node):
            blocked.update(t.name for t in node.outputs)
        elif name not in bounds.done and any(r in bounds.done or r in typed for r in reads):
            if name not in bounds.done and _sized(bounds, node):
                _step(bounds, node, reads)
                continue
            typed.update(_sharpen(bounds, node))
        if name not in blocked:
            _look(bounds, node)
        bounds.out.append(node)
    graph.nodes.clear()
    graph.nodes.extend(bounds.out)
    bounds.out = []
    return found


def _open_for(bounds: Bounds, node: gs.Node) -> bool:
    """Whether a node makes something as long as a number from data that nothing bounds yet."""
    limited(bounds, node)
    return any(wants is node for name, (_, wants) in bounds.open.items() if name not in bounds.given)


def _look(bounds: Bounds, node: gs.Node) -> None:
    """Take note of the free sizes of what a node makes; those that are numbers are so from now on."""
    for tensor in node.outputs:
        if tensor.name in bounds.padded or tensor.shape is None or is_static(tensor.shape):
            continue
        found = bounds.exact_dims(tensor)
        known = [found[a].number if a in found else None for a in range(len(tensor.shape))]
        if any(n is not None for n in known):
            tensor.shape = [d if n is None else n for d, n in zip(tensor.shape, known, strict=True)]


def _guard(bounds: Bounds, node: gs.Node, handler: Any) -> bool:
    try:
        return bool(handler(bounds, node))
    except No as error:
        tensor = next((t.name for t in node.inputs if t.name in bounds.padded), "")
        raise Unbounded(node, tensor, str(error)) from error


def _step(bounds: Bounds, node: gs.Node, reads: set[str]) -> None:
    """Handle a node; it is written unless its handler has written something in its place."""
    made = [t for t in node.outputs if t.name]
    for tensor in node.outputs:
        tensor.shape = None  # what was declared holds for the true size
    inner = reads - {t.name for t in node.inputs}
    if any(r in bounds.padded for r in inner):
        raise Unbounded(node, next(r for r in inner if r in bounds.padded), "its body reads a padded tensor")
    settle(bounds, node)
    sizes = survey(bounds, node) if node.domain in (None, "", "ai.onnx") and made == node.outputs[:1] else {}
    replaced = _guard(bounds, node, handle)
    if not replaced:
        bounds.out.append(node)
        bounds.infer(node)
    if sizes:
        own = bounds.padded.get(made[0].name, {})
        bounds.note_exact(made[0], {a: d for a, d in sizes.items() if d.exact and a not in own})
    for tensor in made:
        _fill(bounds, tensor)
    bounds.done.update(t.name for t in made)


def _fill(bounds: Bounds, tensor: Any) -> None:
    """Write sizes that are known into the type of a tensor, where inference does not know them."""
    known = {**bounds.known_dims(tensor), **bounds.padded.get(tensor.name, {})}
    if tensor.shape is None or max(known, default=0) >= len(tensor.shape):
        return
    rooms = {axis: bounds.room(dim).number for axis, dim in known.items()}
    tensor.shape = [
        d if isinstance(d, int) or rooms.get(axis) is None else rooms[axis]
        for axis, d in enumerate(tensor.shape)
    ]


def _sized(bounds: Bounds, node: gs.Node) -> bool:
    """Whether a node lays out what has been written anew in sizes that are known, if not to inference."""
    if node.op != "Reshape" or node.domain not in (None, "", "ai.onnx"):
        return False
    shape = node.outputs[0].shape
    return (shape is None or not is_static(shape)) and bounds.elements(node.inputs[1]) is not None


def _sharpen(bounds: Bounds, node: gs.Node) -> list[str]:
    """Types behind what has been written anew: names of the outputs whose sizes are better known now."""
    before = [(t, t.shape) for t in node.outputs if t.name]
    if not bounds.known and all(shape is None or is_static(shape) for _, shape in before):
        return []  # where rooms have been left out, sizes that are known have changed too
    bounds.infer(node)
    found = []
    for tensor, old in before:
        new = tensor.shape
        if old is None or new is None or len(new) != len(old):
            tensor.shape = old
            continue
        tensor.shape = [n if isinstance(n, int) else o for n, o in zip(new, old, strict=True)]
        if tensor.shape != list(old):
            found.append(tensor.name)
    return found
