"""Applying rewrite rules to the graph of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.errors import ConversionError
from surgery.graph.backwards import bind_declared, infer_backwards
from surgery.graph.fold import fold_constants
from surgery.graph.infer import infer_foreign_types, infer_types
from surgery.graph.tidy import drop_dead, drop_unused_outputs
from surgery.graph.unresolved import Unresolved
from surgery.report import Edit, IoChange
from surgery.stages.because import because
from surgery.stages.in_float import quantised, tell
from surgery.stages.told import told

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.pipeline import State
    from surgery.rules.engine.run import Engine, Outcome, Wanted
    from surgery.stages.oracle import Oracle
    from surgery.stages.sizes import Sizes

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
        "Greater", "LessOrEqual", "GreaterOrEqual", "Relu",
    }
)  # fmt: skip
"""Operators through which an operand such as axes or a size is traced back to the input it comes from."""


def apply_rules(
    state: State,
    *,
    shipped: bool = True,
    files: Sequence[str] = (),
    optional: Sequence[str] = (),
    most_rounds: int | None = None,
    limits: Mapping[str, int] | None = None,
) -> str:
    """Fold, apply rules, and again until nothing changes; the report gets edits and changes of contract.

    Args:
        state: The run.
        shipped: Whether to apply the rules that come with the package.
        files: Files with rules of the user's own, relative to the pipeline.
        optional: Names of rules that apply only where they are asked for.
        most_rounds: Rounds that a loop makes at most, where its condition does not say.
        limits: Tensor of numbers from data that decide sizes to the largest that they can be.

    Raises:
        ConversionError: an operand has to be constant, and only the user can know it.
        ConfigError: a file of rules is wrong, or there is no rule of that name.
    """
    from surgery.diagnose.static import MAX_K
    from surgery.graph.bounded.limits import sorts_more
    from surgery.graph.retype import written_out_first
    from surgery.rules.engine.run import Engine
    from surgery.rules.engine.user_rules import choose_rules
    from surgery.stages.oracle import Oracle
    from surgery.stages.quantized import refused_weights
    from surgery.stages.sizes import Sizes
    from surgery.stages.structure import resolve_open_loops, resolve_structure, take_given_sizes
    from surgery.stages.trt_model import worker_for

    if state.target.installed:
        worker_for(state).begin()
    before = len(state.report.edits)
    in_steps = quantised(state.graph)
    converted: int | None = None
    oracle = Oracle(state)
    rules, own, names = choose_rules(state.config, shipped=shipped, files=files, optional=optional)
    engine = Engine(rules, oracle.takes, target=state.target.name, seed=state.options.seed, optional=names)
    counts: dict[str, int] = {}
    sizes = Sizes(state, engine, oracle, limits)
    unresolved = resolve_structure(state) if shipped else []
    if unresolved and take_given_sizes(state):
        unresolved = resolve_structure(state)
    if unresolved:
        unresolved = resolve_open_loops(state, sizes, unresolved, most_rounds)
    _count(state, sizes.resolve(), counts)
    outcome = _until_settled(state, engine, sizes, counts)
    if any(m.reason.startswith(TOO_OLD) for m in outcome.misses) and _modernise(state):
        converted = MODERN_OPSET
        outcome = _until_settled(state, engine, sizes, counts)
    here = {n.name or n.outputs[0].name for n in state.graph.nodes if n.outputs}
    unresolved = [u for u in unresolved if u.node in here]  # some are decided by sizes
    if outcome.wanted or unresolved:
        _ask(state, outcome.wanted, unresolved, oracle)
    if shipped and _unroll(state, oracle):
        outcome = _until_settled(state, engine, sizes, counts)
    nodes = [
        *written_out_first(state.graph, engine.refuses(state.graph)), *sorts_more(state.graph, MAX_K)
    ]  # fmt: skip
    if shipped:
        nodes += refused_weights(state, oracle)
    if nodes:
        engine.refuse(state.graph, nodes)
        _until_settled(state, engine, sizes, counts)
    if _retype(state, engine):
        outcome = _until_settled(state, engine, sizes, counts)
    if shipped:
        _widen(state, counts)
    sizes.release()
    tell(state, in_steps, before)
    _report_misses(state, outcome)
    for rule in own:
        if rule.name not in counts:
            nearest = outcome.nearest.get(rule.name)
            state.warn(
                f"your rule {rule.name} applies nowhere" + (f"; nearest: {nearest}" if nearest else "")
            )
    fold_constants(state.graph)
    return told(state, state.report.edits[before:], converted)


def _widen(state: State, counts: dict[str, int]) -> None:
    """Compute small attentions of float16 in float32; the report gets an edit for each."""
    from surgery.graph.halves import widen_attention

    for entry in widen_attention(state.graph):
        counts["small-attention-in-halves"] = counts.get("small-attention-in-halves", 0) + 1
        for name in entry.made:
            state.provenance[name] = {"surgery.rule": "small-attention-in-halves"}
        state.report.edits.append(
            Edit(
                "small-attention-in-halves", "rewrite", entry.nodes, entry.made,
                "skipped: fewer roundings than the original; compared as a whole by verify",
            )
        )  # fmt: skip


def _unroll(state: State, oracle: Oracle) -> bool:
    """Write out what the target does not take as a body; whether there was any."""
    from surgery.graph.unroll import SMALL
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

    from surgery.graph.convert import export_graph, import_graph
    from surgery.graph.upgrade import upgrade

    before = export_graph(state.graph, state.header, provenance=state.provenance)
    try:
        converted = upgrade(before, MODERN_OPSET)
        onnx.checker.check_model(converted)
    except Exception as error:  # the converter raises many undocumented types
        state.warn(f"the model of opset {state.graph.opset} cannot be converted to {MODERN_OPSET}: {error}")
        return False
    state.note(f"the model was converted from opset {state.graph.opset} to {MODERN_OPSET}, for the rules")
    state.graph, state.header = import_graph(converted)
    return True


def _until_settled(state: State, engine: Engine, sizes: Sizes, counts: dict[str, int]) -> Outcome:
    outcome: Outcome | None = None
    for _ in range(ROUNDS):
        fold_constants(state.graph)
        drop_unused_outputs(state.graph)
        if infer_foreign_types(state.graph):
            infer_types(state.graph)
        if infer_backwards(state.graph) + bind_declared(state.graph):
            infer_types(state.graph)
        state.say("asking the target about each kind of node")
        outcome = engine.run(state.graph, state.provenance)
        if outcome.bounded:
            sizes.take(outcome)
            sizes.follow()
        drop_dead(state.graph)
        _count(state, outcome, counts)
        if not outcome.edits:
            break
    assert outcome is not None
    return outcome


def _count(state: State, outcome: Outcome | None, counts: dict[str, int]) -> None:
    for edit in outcome.edits if outcome is not None else ():
        counts[edit.rule] = counts.get(edit.rule, 0) + 1
        state.report.edits.append(edit)


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
        said = f"the input is {new} instead of {old}{rounds}"
        inverse = {"op": "cast_input", "name": name, "to": new}
        state.report.io_changes.append(_retyped(name, old, new, said, inverse))
    for name, (old, new) in done.outputs.items():
        said = f"the output is {new} instead of {old}"
        state.report.io_changes.append(
            _retyped(name, old, new, said, {"op": "cast", "name": name, "to": old})
        )
    return True


def _retyped(name: str, old: str, new: str, said: str, inverse: dict[str, Any]) -> IoChange:
    """An input or output of another dtype, with what brings the original's back."""
    return IoChange(name, said, {"name": name, "dtype": old}, {"name": name, "dtype": new}, inverse)


def _report_misses(state: State, outcome: Outcome) -> None:
    """Why rules leave nodes alone that the target refuses when it is asked about them one by one."""
    found = [(m.node, m.op, m.rule, m.reason) for m in outcome.misses if m.refused]
    state.report.misses[:] = dict.fromkeys([*state.report.misses, *found])


def _ask(state: State, wanted: list[Wanted], unresolved: list[Unresolved], oracle: Oracle) -> None:
    """Say what has to be known when the engine is built, by the names of the inputs that it comes from.

    Raises:
        ConversionError: always.
    """
    inputs = {t.name: t for t in state.graph.inputs if getattr(t, "type", "tensor_type") == "tensor_type"}
    others = {t.name for t in state.graph.inputs} - set(inputs)
    for stuck in unresolved:
        if stuck.tensor in others:
            raise ConversionError(
                f"the input {stuck.tensor!r} is a sequence or an optional, and {stuck.op} reads it",
                code="input-type",
                where=state.source.name,
                node=stuck.node,
                cause=f"{state.target.name} takes tensors alone",
                fix="export the model with one input for each tensor",
            )
    producers = {t.name: n for n in state.graph.nodes for t in n.outputs if t.name}
    found: list[tuple[Any, list[str], str]] = []
    for entry in wanted:
        why = because(oracle.said.get(entry.op, ()), state.source.proto, op=entry.op, node=entry.node)
        found.append((entry, _sources(entry.tensor, inputs, producers), why.id or ""))
    found += [
        (e, _sources(e.tensor, inputs, producers) if e.tensor and not e.by_size else [], e.known_as)
        for e in unresolved
    ]
    sizes = [f for f in found if isinstance(f[0], Unresolved) and f[0].by_size]
    entry, _, known_as = next((f for f in found if f[1]), (sizes or found)[0])
    listed = tuple(dict.fromkeys(name for _, names, _ in found for name in names))
    reason = entry.reason if isinstance(entry, Unresolved) else entry.why
    known = f" [{known_as}]" if known_as else ""
    if listed:
        other = f"; or {entry.fix}" if isinstance(entry, Unresolved) and entry.fix else ""
        raise ConversionError(
            f"{', '.join(repr(n) for n in listed)} must be known when the engine is built: {reason}",
            code="needs-constant",
            where=state.source.name,
            node=entry.node,
            cause=f"{entry.op} takes it as an input, and the target wants a constant there{known}",
            fix="give it: " + " ".join(f"--constant {n}={_example(inputs[n])}" for n in listed) + other,
            needs_constant=listed,
        )
    if entry.tensor:
        by_size = isinstance(entry, Unresolved) and entry.by_size
        sized = _first_free(state.graph) if by_size else _sizing(entry.tensor, state.graph)
        fixed = f"give {sized.name!r} a fixed size: --shape {sized.name}={_ones(sized)}; or " if sized else ""
        if sized and _batch_alone(state):
            raise ConversionError(
                f"{entry.op} needs to know the number of samples when the engine is built: {reason}",
                code="needs-constant",
                where=state.source.name,
                node=entry.node,
                cause=f"batch: dynamic made the batch free, and {state.target.name} takes no free batch there{known}",
                fix="run without batch: dynamic, for the batch that the model was exported with",
            )
        raise ConversionError(
            f"{entry.op} needs to know {'the size of ' if by_size else ''}{entry.tensor!r} when the engine is built: "
            f"{reason}",
            code="needs-constant",
            where=state.source.name,
            node=entry.node,
            cause=f"it is computed from {'sizes' if sized or by_size else 'data'}{known}",
            fix=f"{fixed}export the model with a fixed value for it",
        )
    raise ConversionError(
        f"{entry.op} cannot be resolved when the engine is built: {reason}",
        code="control-flow",
        where=state.source.name,
        node=entry.node,
        cause=f"{state.target.name} cannot run it as it stands{known}",
        fix=getattr(entry, "fix", "") or "export the model with that part fixed, or end the model before it",
    )


def _sizing(name: str, graph: gs.Graph) -> Any:
    """The first input of free size, if a tensor holds sizes; else None."""
    from surgery.graph.bounded.nothing import is_size
    from surgery.graph.from_sizes import from_sizes
    from surgery.graph.scope import Scope

    tensor = graph.tensors().get(name)
    if tensor is None or not (is_size(tensor) or from_sizes(tensor, Scope(graph))):
        return None
    return _first_free(graph)


def _first_free(graph: gs.Graph) -> Any:
    """The first input of free size, or None."""
    free = [t for t in graph.inputs if t.shape and any(not isinstance(d, int) for d in t.shape)]
    return free[0] if free else None


def _batch_alone(state: State) -> bool:
    """Whether this run has made the batch free, and nothing else is."""
    from surgery.graph.batch_inputs import NAME

    free = {d for t in state.graph.inputs for d in t.shape or () if not isinstance(d, int)}
    return free == {NAME} and any(e.rule == "dynamic-batch" for e in state.report.edits)


def _ones(tensor: Any) -> str:
    return "x".join(str(d if isinstance(d, int) else 1) for d in tensor.shape)


def _example(tensor: Any) -> str:
    """A value of the right shape."""
    one = "true" if tensor.dtype is not None and np.dtype(tensor.dtype) == np.bool_ else "1"
    shape = list(tensor.shape or ())
    if not shape:
        return one
    count = shape[0] if len(shape) == 1 and isinstance(shape[0], int) and 0 < shape[0] <= 8 else 1
    return "[" * len(shape) + ",".join([one] * count) + "]" * len(shape)


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
