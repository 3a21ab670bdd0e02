"""Applying rewrite rules to the graph of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.errors import ConversionError
from surgery.graph.fold import drop_dead, fold_constants
from surgery.graph.infer import infer_foreign_types, infer_types
from surgery.report import Edit, IoChange

if TYPE_CHECKING:
    from surgery.pipeline import State
    from surgery.rules.engine.run import Engine, Outcome, Wanted
    from surgery.stages.oracle import Oracle

ROUNDS = 6
"""Folding can make operands constant that let further rules apply."""

TOO_OLD = "rules are written for opsets"
MODERN_OPSET = 13
"""Operator set that older models are converted to; the newest that onnx's converter reaches with few surprises."""

CARRIERS = frozenset(
    {
        "Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Concat", "Gather", "Slice", "Add", "Sub",
        "Mul", "Div", "Neg", "Min", "Max", "Floor", "Ceil", "CastLike", "Shape", "Size", "Split", "Where", "Equal",
        "ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin", "Abs", "Mod", "Expand", "Not", "And", "Or", "Less",
        "Greater", "LessOrEqual", "GreaterOrEqual",
    }
)  # fmt: skip
"""Operators through which an operand such as axes or a size is traced back to the input it comes from."""


def apply_rules(
    state: State, *, shipped: bool = True, files: Sequence[str] = (), optional: Sequence[str] = ()
) -> str:
    """Fold, apply rules, and again until nothing changes; the report gets edits and changes of contract.

    Args:
        state: The run.
        shipped: Whether to apply the rules that come with the package.
        files: Files with rules of the user's own, relative to the pipeline.
        optional: Names of rules that apply only where they are asked for.

    Raises:
        ConversionError: an operand has to be constant, and only the user can know it.
        ConfigError: a file of rules is wrong, or there is no rule of that name.
    """
    from surgery.graph.retype import written_out_first
    from surgery.rules.engine.run import Engine, Wanted
    from surgery.rules.engine.user_rules import choose_rules
    from surgery.stages.oracle import Oracle
    from surgery.stages.structure import resolve_structure

    oracle = Oracle(state)
    rules, own, names = choose_rules(state.config, shipped=shipped, files=files, optional=optional)
    engine = Engine(rules, oracle.takes, target=state.target.name, seed=state.options.seed, optional=names)
    counts: dict[str, int] = {}
    unresolved = resolve_structure(state) if shipped else []
    outcome = _until_settled(state, engine, oracle, counts)
    if any(m.reason.startswith(TOO_OLD) for m in outcome.misses) and _modernise(state):
        outcome = _until_settled(state, engine, oracle, counts)
    wanted = [*outcome.wanted, *(Wanted(u.node, u.op, u.tensor, u.reason) for u in unresolved if u.tensor)]
    if wanted:
        _ask(state, wanted, oracle)
    if unresolved:
        first = unresolved[0]
        raise ConversionError(
            f"{first.op} cannot be resolved when the engine is built: {first.reason}",
            code="control-flow",
            where=state.source.name,
            node=first.node,
            cause=f"{state.target.name} cannot run it as it stands",
            fix="export the model with that part fixed, or end the model before it",
        )
    if shipped and _unroll(state, oracle):
        outcome = _until_settled(state, engine, oracle, counts)
    first = written_out_first(state.graph, engine.refuses(state.graph))
    if first:
        engine.refuse(state.graph, first)
        _until_settled(state, engine, oracle, counts)
    if _retype(state, engine):
        outcome = _until_settled(state, engine, oracle, counts)
    _report_misses(state, outcome)
    for rule in own:
        if rule.name not in counts:
            nearest = outcome.nearest.get(rule.name)
            state.warn(
                f"your rule {rule.name} applies nowhere" + (f"; nearest: {nearest}" if nearest else "")
            )
    fold_constants(state.graph)
    return ", ".join(f"{n} x {rule}" for rule, n in sorted(counts.items())) or "no rule applies"


def _unroll(state: State, oracle: Oracle) -> bool:
    """Write out what the target does not take as a body; whether there was any."""
    from surgery.graph.control_flow import SMALL
    from surgery.stages.oracle import BODIES
    from surgery.stages.structure import resolve_structure

    nodes = [n for n in state.graph.nodes if n.op in BODIES]
    if all(oracle.takes_body(n) for n in nodes):
        return False
    edits = len(state.report.edits)
    resolve_structure(state, small=SMALL, scans=True, select=True)
    return len(state.report.edits) > edits


def _modernise(state: State) -> bool:
    """Convert a model of an old operator set with onnx's own converter; whether that worked."""
    import onnx
    import onnx.version_converter

    from surgery.graph.convert import export_graph, import_graph

    before = export_graph(state.graph, state.header, provenance=state.provenance)
    try:
        converted = onnx.version_converter.convert_version(before, MODERN_OPSET)
        onnx.checker.check_model(converted)
    except Exception as error:  # the converter raises many undocumented types
        state.warn(f"the model of opset {state.graph.opset} cannot be converted to {MODERN_OPSET}: {error}")
        return False
    state.warn(f"the model was converted from opset {state.graph.opset} to {MODERN_OPSET}, for the rules")
    state.graph, state.header = import_graph(converted)
    return True


def _until_settled(state: State, engine: Engine, oracle: Oracle, counts: dict[str, int]) -> Outcome:
    outcome: Outcome | None = None
    for _ in range(ROUNDS):
        fold_constants(state.graph)
        if infer_foreign_types(state.graph):
            infer_types(state.graph)
        state.say("asking the target about each kind of node")
        outcome = engine.run(state.graph, state.provenance)
        _keep_bounds(state, outcome, oracle)
        drop_dead(state.graph)
        for edit in outcome.edits:
            counts[edit.rule] = counts.get(edit.rule, 0) + 1
            state.report.edits.append(edit)
        if not outcome.edits:
            break
    assert outcome is not None
    return outcome


def _retype(state: State, engine: Engine) -> bool:
    """Carry dtypes that the target lacks in others; inputs and outputs that change are told in io_changes."""
    from surgery.graph.retype import CannotRetype, retype

    infer_types(state.graph)
    try:
        done = retype(state.graph, engine.refuses(state.graph))
    except CannotRetype as error:
        raise ConversionError(
            f"a dtype that {state.target.name} lacks cannot be carried in another: {error}",
            code="dtype",
            where=state.source.name,
            fix="export the model with another dtype, or see `surgery list rules`",
        ) from error
    if not done.nodes and not done.inputs:
        return False
    for name in done.made:
        state.provenance[name] = {"surgery.rule": "retype"}
    state.report.edits.append(
        Edit(
            "retype", "retype", tuple(done.nodes), tuple(done.made),
            "skipped: all dtypes at once, compared as a whole by verify",
        )
    )  # fmt: skip
    for name, (old, new) in done.inputs.items():
        rounds = ", rounded" if old == "float64" else "; a value that does not fit is an error"
        state.report.io_changes.append(
            IoChange(
                name,
                f"the input is {new} instead of {old}{rounds}",
                {"name": name, "dtype": old},
                {"name": name, "dtype": new},
                {"op": "cast_input", "name": name, "to": new},
            )
        )
    for name, (old, new) in done.outputs.items():
        state.report.io_changes.append(
            IoChange(
                name,
                f"the output is {new} instead of {old}",
                {"name": name, "dtype": old},
                {"name": name, "dtype": new},
                {"op": "cast", "name": name, "to": old},
            )
        )
    return True


def _keep_bounds(state: State, outcome: Outcome, oracle: Oracle) -> None:
    """Outputs whose size depends on data: the padded tensor, its count beside it, and the way back."""
    from surgery.graph.view import View

    if not outcome.bounded:
        return
    view = View(state.graph)
    outputs = {t.name: t for t in state.graph.outputs}
    tensors = state.graph.tensors()
    added: dict[str, str] = {}
    stack = [(name, axis, count) for name, (axis, count) in outcome.bounded.items()]
    while stack:
        name, axis, count = stack.pop()
        tensors[name].shape = None
        if name in outputs:
            if count not in added:
                added[count] = f"{name}_count"
                tensors[count].name = added[count]
                tensors[count].dtype, tensors[count].shape = np.dtype(np.int64), []
                state.graph.outputs.append(tensors[count])
            state.report.io_changes.append(
                IoChange(
                    name,
                    f"its size depends on the data: padded along axis {axis}, {added[count]} says how much counts",
                    {"name": name},
                    {"name": name, "count": added[count], "axis": axis},
                    {
                        "op": "slice_by_count",
                        "name": name,
                        "count": added[count],
                        "axis": axis,
                        "added": True,
                    },
                )
            )
        for key in view.consumers.get(name, ()):
            node = view.nodes[key]
            stack.append((node.outputs[0].name, _axis_behind(state, node, name, axis, oracle), count))


PER_ENTRY = frozenset(
    {
        "Cast", "Identity", "Relu", "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Neg", "Abs", "Floor", "Ceil", "Round",
        "Not", "Sign", "Erf", "Clip", "LeakyRelu",
    }
)  # fmt: skip
"""Operators that look at one entry at a time: what is behind the count stays behind it."""


def _axis_behind(state: State, node: Any, name: str, axis: int, oracle: Oracle) -> int:
    """Where a padded axis is behind a node, if padding stays padding there."""
    from surgery.stages.because import because
    from surgery.stages.oracle import DATA_DEPENDENT

    shape = node.inputs[0].shape
    if node.op in PER_ENTRY:
        return axis
    if node.op == "Transpose" and "perm" in node.attrs:
        return list(node.attrs["perm"]).index(axis)
    if node.op == "Transpose" and shape is not None:
        return len(shape) - 1 - axis
    if node.op == "GatherND" and node.inputs[1].name == name and not node.attrs.get("batch_dims", 0):
        return axis  # padded positions are positions too, and their entries come out behind the count
    if node.op == "Gather" and node.inputs[1].name == name and shape is not None:
        return int(node.attrs.get("axis", 0)) % len(shape) + axis
    refused = [op for op in oracle.said if op in DATA_DEPENDENT]
    why = because(oracle.said[refused[0]], state.source.proto, op=refused[0]) if refused else None
    raise ConversionError(
        f"the size of {name!r} depends on the data, and {node.op} cannot work on a padded tensor",
        code="data-dependent-shape",
        where=state.source.name,
        node=node.name,
        cause="TensorRT needs sizes that follow from the sizes of the inputs"
        + (f" [{why.id}]" if why is not None and why.id else ""),
        fix="end the model at that tensor, or replace what follows by a form of fixed size",
    )


def _report_misses(state: State, outcome: Outcome) -> None:
    for miss in outcome.misses:
        state.warn(f"rule {miss.rule} does not apply to {miss.node!r} ({miss.op}): {miss.reason}")


def _ask(state: State, wanted: list[Wanted], oracle: Oracle) -> None:
    from surgery.stages.because import because

    inputs = {t.name: t for t in state.graph.inputs}
    producers = {t.name: n for n in state.graph.nodes for t in n.outputs if t.name}
    names: dict[str, Wanted] = {}
    for entry in wanted:
        for name in _sources(entry.tensor, inputs, producers):
            names.setdefault(name, entry)
    first = wanted[0]
    why = because(oracle.said.get(first.op, ()), state.source.proto, op=first.op, node=first.node)
    told = f" [{why.id}]" if why.id else ""
    if not names:
        raise ConversionError(
            f"{first.op} needs to know {first.tensor!r} when the engine is built: {first.why}",
            code="needs-constant",
            where=state.source.name,
            node=first.node,
            cause=f"it is computed from data{told}",
            fix="export the model with a fixed value for it",
        )
    listed = tuple(names)
    raise ConversionError(
        f"{', '.join(repr(n) for n in listed)} must be known when the engine is built: {first.why}",
        code="needs-constant",
        where=state.source.name,
        node=first.node,
        cause=f"{first.op} takes it as an input, and the target wants a constant there{told}",
        fix="give it: " + " ".join(f"--constant {n}={_example(inputs[n])}" for n in listed),
        needs_constant=listed,
    )


def _example(tensor: Any) -> str:
    shape = list(tensor.shape or ())
    return "[1]" if shape else "1"


def _sources(name: str, inputs: dict[str, Any], producers: dict[str, Any]) -> list[str]:
    """Graph inputs that a small operand comes from, or nothing if it comes from data."""
    found: dict[str, None] = {}
    stack, seen = [name], set()
    while stack:
        here = stack.pop()
        if here in seen:
            continue
        seen.add(here)
        if here in inputs:
            found[here] = None
        elif here in producers:
            node = producers[here]
            if node.op in ("Shape", "Size"):
                continue
            if node.op not in CARRIERS:
                return []
            stack.extend(t.name for t in node.inputs if t.name)
    return sorted(found)
