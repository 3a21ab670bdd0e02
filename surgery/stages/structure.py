"""Control flow, sequences and optionals of known structure, resolved before rules are applied."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from surgery.graph.control_flow import resolve_control_flow
from surgery.graph.fold import fold_constants
from surgery.graph.lists import stack_lists
from surgery.graph.scope import SEQUENCE_OPS
from surgery.graph.tidy import drop_dead
from surgery.graph.unresolved import Unresolved
from surgery.graph.unroll import SCANNED
from surgery.graph.view import body_nodes
from surgery.report import Edit

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.pipeline import State
    from surgery.stages.sizes import Sizes

STRUCTURE_OPS = SEQUENCE_OPS | {"If", "Loop", "Scan"}
"""Operators with bodies, and those on sequences and optionals."""

PRODUCTS = "TensorRT-RTX fails when it runs products of free size inside a conditional"
"""Why both branches of an If are computed."""


def resolve_structure(
    state: State, *, small: int = 0, scans: bool = False, select: bool = False
) -> list[Unresolved]:
    """Resolve If, Loop and Scan, sequences and optionals as far as they are known; the report gets an edit.

    A loop that TensorRT runs as it stands stays a loop.

    Args:
        state: The run; its graph changes in place.
        small: Rounds up to which a loop is unrolled though TensorRT has loops.
        scans: Whether to unroll Scan nodes.
        select: Whether to compute both branches of an If whose condition is data.

    Returns:
        What TensorRT cannot run and could not be resolved.
    """
    from surgery.graph.sequences import resolve_sequences

    if not _structured(state.graph):
        return []
    _resolve_pastes(state)
    before = {id(n): n for n in state.graph.nodes}
    # What runs inside a conditional of TensorRT-RTX may not have products of free size.
    products: list[str] | None = [] if state.target.flavour == "tensorrt-rtx" else None
    total, first = 0, sorted(n.name for n in _structured(state.graph))
    counted = _counted(state.graph)
    while True:
        fold_constants(state.graph)
        left: list[Unresolved] = []
        count = resolve_control_flow(
            state.graph, small=small, scans=scans, select=select, products=products, unresolved=left
        )
        count += resolve_sequences(state.graph, unresolved=left)
        total += count
        stacked = [] if count else stack_lists(state.graph)
        total += len(stacked)
        if not count and not stacked:
            break
    fold_constants(state.graph)
    drop_dead(state.graph)
    if total:
        made = [n for n in state.graph.nodes if id(n) not in before]
        for node in made:
            name = next(t.name for t in node.outputs if t.name)
            state.provenance.setdefault(name, {"surgery.rule": "resolve-structure"})
        state.report.edits.append(
            Edit(
                "resolve-structure", "rewrite", tuple(first), tuple(n.name for n in made),
                "skipped: compared as a whole by verify", None,
                tuple(f"both branches of {name!r} are computed: {PRODUCTS}" for name in products or ()),
                {"resolved": dict(counted - _counted(state.graph))},
            )
        )  # fmt: skip
    return left


def take_given_sizes(state: State) -> bool:
    """Declare the sizes that inputs are only ever to have, as profiles ask for; whether there were any.

    Args:
        state: The run; its graph changes in place.
    """
    asked = {
        **{name: (p.min, p.opt, p.max) for name, p in state.config.profiles.items()},
        **state.options.shapes,
    }
    sizes: dict[str, int] = {}
    changed = False
    for tensor in state.graph.inputs:
        if tensor.name not in asked or len(tensor.shape or ()) != len(asked[tensor.name][0]):
            continue
        fixed = [dims[0] if len(set(dims)) == 1 else None for dims in zip(*asked[tensor.name], strict=True)]
        free = [(d, n) for d, n in zip(tensor.shape, fixed, strict=True) if n and not isinstance(d, int)]
        sizes.update({d: n for d, n in free if isinstance(d, str) and d})
        changed |= bool(free)
        tensor.shape = [d if isinstance(d, int) else n or d for d, n in zip(tensor.shape, fixed, strict=True)]
    if sizes:
        inner = [t for n in state.graph.nodes for m in (n, *body_nodes(n)) for t in m.outputs]
        for tensor in [*state.graph.inputs, *state.graph.outputs, *inner]:
            if tensor.shape is not None and any(d in sizes for d in tensor.shape):
                tensor.shape = [sizes.get(d, d) for d in tensor.shape]
    return changed


def _resolve_pastes(state: State) -> None:
    """Loops that paste masks or repeat rows, at once; the report gets an edit for each."""
    from surgery.graph.paste_masks import RULE, resolve_pastes
    from surgery.graph.repeats import RULE as REPEATS
    from surgery.graph.repeats import resolve_repeats

    if not any(n.op == "Loop" for n in state.graph.nodes):
        return
    fold_constants(state.graph)
    for name, made in resolve_repeats(state.graph, state.provenance):
        state.report.edits.append(
            Edit(REPEATS, "rewrite", (name,), tuple(made), "skipped: compared as a whole by verify")
        )
    for entry in resolve_pastes(state.graph, state.provenance):
        state.report.edits.append(
            Edit(RULE, "rewrite", (entry.node,), entry.made, "passed", entry.error),
        )


def resolve_open_loops(
    state: State, sizes: Sizes, unresolved: list[Unresolved], most: int | None
) -> list[Unresolved]:
    """Write out loops whose number of rounds depends on data and decides sizes; what is left unresolved.

    Args:
        state: The run; its graph changes in place.
        sizes: Gets what is padded.
        unresolved: What could not be resolved without.
        most: Rounds that a loop makes at most, where its condition does not say.
    """
    from surgery.graph.rounds import CHANGES, Grown, write_out_rounds

    left = list(unresolved)
    while True:
        names = [u.node for u in left if u.op == "Loop" and u.known_as in (CHANGES, SCANNED)]
        found = write_out_rounds(state.graph, names, most) if names else []
        stuck = {u.node: u for u in found if isinstance(u, Unresolved)}
        grown = [g for g in found if isinstance(g, Grown)]
        if not grown:
            # Who gives the operand that decides it needs no bound.
            known = [stuck.get(u.node, u) for u in left]
            return [k if not u.tensor else replace(u, fix=k.fix) for k, u in zip(known, left, strict=True)]
        for one in grown:
            told = f"{one.node!r} makes no more than {one.rounds} rounds, as rewrite.most_rounds says"
            if one.given:
                state.warn(told + "; it would be stopped there")
            for name in one.made:
                state.provenance.setdefault(name, {"surgery.rule": "write-out-rounds"})
            state.report.edits.append(
                Edit(
                    "write-out-rounds", "rewrite", (one.node,), one.made, "skipped: compared as a whole by verify",
                    None, (told,) if one.given else (), {"rounds": one.rounds},
                )
            )  # fmt: skip
        sizes.take_grown(p for g in grown for p in g.padded)
        left = resolve_structure(state)


def _counted(graph: gs.Graph) -> Counter[str]:
    """How many nodes with bodies, and on sequences and optionals, there are at any depth, by operator."""
    return Counter(m.op for n in graph.nodes for m in (n, *body_nodes(n)) if m.op in STRUCTURE_OPS)


def _structured(graph: gs.Graph) -> list[gs.Node]:
    return [
        n for n in graph.nodes if n.op in STRUCTURE_OPS or any(m.op in STRUCTURE_OPS for m in body_nodes(n))
    ]
