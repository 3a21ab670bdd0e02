"""Outputs that are inputs: TensorRT has one name for one tensor of an engine, so such an output gets its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.report import IoChange

if TYPE_CHECKING:
    from surgery.pipeline import State


def set_apart(state: State) -> None:
    """Copy inputs that are given out again to outputs of other names, and tell it as a change of the contract.

    TensorRT's parser renames the input of such a model instead, and the profile of that name then fits nothing.
    """
    import onnx_graphsurgeon as gs

    graph = state.graph
    inputs = {t.name for t in graph.inputs}
    taken = set(graph.tensors()) | inputs
    made: dict[str, Any] = {}
    for i, tensor in enumerate(graph.outputs):
        name = tensor.name
        if name not in inputs:
            continue
        if name not in made:
            new = f"{name}_out"
            while new in taken:
                new += "_"
            taken.add(new)
            made[name] = gs.Variable(new, dtype=tensor.dtype, shape=tensor.shape)
            graph.nodes.append(
                gs.Node("Identity", name=f"surgery/{new}", inputs=[tensor], outputs=[made[name]])
            )
            # Before all others: what they say of the output they say by its own name.
            state.report.io_changes.insert(
                0,
                IoChange(
                    name,
                    f"the output, which is the input of that name, is called {new}",
                    {"name": name},
                    {"name": new},
                    {"op": "rename", "from": new, "to": name},
                ),
            )
        graph.outputs[i] = made[name]
