"""The beginning of a run: the model is loaded, looked at and imported, before the first stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.errors import ConfigError, ConversionError
from surgery.pipeline import Listener, RunOptions, State
from surgery.report import Edit, Report

if TYPE_CHECKING:
    import onnx

    from surgery.config import PipelineConfig
    from surgery.graph.load import LoadedModel
    from surgery.targets import Target


KINDS = {"sequence_type": "a sequence", "optional_type": "an optional", "map_type": "a map"}

FOREIGN = {
    8: (
        "holds strings",
        "string-ops",
        "leave what turns strings into numbers (vectorizer, tokenizer, encoder of categories) outside of the model",
    ),
    14: ("is complex", "complex-dtype", "export the model with real and imaginary parts in an axis of two"),
    15: ("is complex", "complex-dtype", "export the model with real and imaginary parts in an axis of two"),
}
"""Types of tensors, as ``TensorProto`` counts them, that no TensorRT has: what it is, its known name, the fix."""


PROCESSOR_LAYOUTS = frozenset({"com.microsoft.nchwc", "com.ms.internal.nhwc"})
"""Domains of operators on layouts that ONNX Runtime makes for the processor that it runs on."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What a run has before its first stage: the model as it is by then, and the target."""

    source: LoadedModel
    target: Target


def begin(
    config: PipelineConfig,
    model: str | Path | bytes | onnx.ModelProto | None,
    target: str | None,
    options: RunOptions,
    report: Report,
    listener: Listener,
    hold: Callable[[Begun], None],
) -> State:
    """What the stages of a run begin with.

    Args:
        config: The pipeline.
        model: The user's model; None takes the pipeline's.
        target: Name of the target; None takes the pipeline's, else what is installed.
        options: Options of the run.
        report: Gets what is known by then.
        listener: Called with every event.
        hold: Given what there is as soon as there is something: a run that fails later is told with it.

    Raises:
        ConfigError: no model is given; an option does not fit the model.
        ModelError: the model cannot be read.
        ConversionError: it is one that no target takes.
    """
    from surgery.graph.convert import import_graph
    from surgery.graph.functions import PLUGIN_DOMAIN, inline_functions
    from surgery.graph.load import load_model
    from surgery.graph.volumes import check_volumes
    from surgery.plugins.registry import Registry
    from surgery.stages.asked import check_asked
    from surgery.stages.original import completed, with_batch
    from surgery.targets import resolve_target

    chosen = resolve_target(target or config.target)
    report.target = {"name": chosen.name, "installed": chosen.installed, "table": chosen.table}
    report.versions = versions(chosen)
    if chosen.note:
        # An installed TensorRT answers for itself.
        (report.notes if chosen.installed else report.warnings).append(chosen.note)
    given = model if model is not None else config.model_path()
    if given is None:
        raise ConfigError(
            "no MODEL given, and the pipeline names none",
            code="no-model",
            where=config.name,
            fix="give the model after the pipeline: surgery run PIPELINE MODEL",
        )
    source = load_model(given)
    hold(Begun(source, chosen))
    report.warnings.extend(source.mended)
    report.model_info = describe(source)
    _tensors_alone(source.proto, chosen, source.name)
    _not_for_one_processor(source.proto, source.name)
    check_volumes(source)
    registry = Registry.load([*config.plugin_folders(), *options.plugin_paths])
    if config.batch == "dynamic":
        source, edit = with_batch(source, registry, report, options.seed)
        if edit is not None:
            report.edits.append(edit)
            hold(Begun(source, chosen))
    source, put_right = completed(source, registry)
    report.warnings.extend(put_right)
    functions = [f for f in source.proto.functions if f.domain != PLUGIN_DOMAIN]
    graph, header = import_graph(inline_functions(source.proto) if functions else source.proto)
    if functions:
        names = tuple(f"{f.domain}.{f.name}" for f in functions)
        report.edits.append(
            Edit("inline-function", "rewrite", names, (), "skipped: compared as a whole by verify")
        )
    state = State(
        source=source,
        graph=graph,
        header=header,
        target=chosen,
        config=config,
        options=options,
        report=report,
        registry=registry,
        reference=source.proto,
        listener=listener,
    )
    if options.constants:
        from surgery.stages.constants import bind_constants

        bind_constants(state)
    check_asked(state)
    return state


def _not_for_one_processor(model: onnx.ModelProto, name: str) -> None:
    """Refuse what ONNX Runtime saved for itself: weights lie as the processor wants them, by an unsaid size."""
    from surgery.graph.walk import all_nodes

    node = next((n for n in all_nodes(model.graph.node) if n.domain in PROCESSOR_LAYOUTS), None)
    if node is not None:
        raise ConversionError(
            f"the model is one that ONNX Runtime optimised for one processor: {node.domain}.{node.op_type}",
            code="processor-layout",
            where=name,
            node=node.name or None,
            cause="weights and images lie in blocks, whose size the model does not say",
            fix="give the model from before; or save it with ORT_ENABLE_EXTENDED at most, not with ORT_ENABLE_ALL",
        )


def _tensors_alone(model: onnx.ModelProto, target: Target, name: str) -> None:
    """Refuse inputs and outputs that are no tensors, or tensors of what is no number: no TensorRT has any."""
    for title, values in (("input", model.graph.input), ("output", model.graph.output)):
        for value in values:
            kind = KINDS.get(value.type.WhichOneof("value") or "")
            if kind is not None:
                raise ConversionError(
                    f"the {title} {value.name!r} is {kind}",
                    code=f"{title}-type",
                    where=name,
                    cause=f"{target.name} takes and gives tensors alone [sequence-optional-ops]",
                    fix=f"export the model with one {title} for each tensor",
                )
            said = FOREIGN.get(value.type.tensor_type.elem_type)
            if said is not None:
                what, known_as, fix = said
                raise ConversionError(
                    f"the {title} {value.name!r} {what}",
                    code=f"{title}-type",
                    where=name,
                    cause=f"{target.name} has no type for that [{known_as}]",
                    fix=fix,
                )


def describe(source: Any) -> dict[str, Any]:
    """The ``model`` entry of the report."""
    import onnx

    from surgery.graph.infer import dims_of

    def value(v: onnx.ValueInfoProto) -> dict[str, Any]:
        kind = onnx.TensorProto.DataType.Name(v.type.tensor_type.elem_type).lower()
        return {"name": v.name, "dtype": kind, "shape": dims_of(v)}

    initial = {i.name for i in source.proto.graph.initializer}
    return {
        "path": str(source.path.resolve()) if source.path else None,
        "sha256": source.sha256,
        "nodes": len(source.proto.graph.node),
        "opset": source.opset,
        "inputs": [value(v) for v in source.proto.graph.input if v.name not in initial],
        "outputs": [value(v) for v in source.proto.graph.output],
    }


def versions(target: Target) -> dict[str, str]:
    """Versions of what a run depends on; the target's TensorRT only if it is installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("surgery", "onnx", "onnxruntime", "onnx-graphsurgeon", "polygraphy", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    if target.installed and target.installed_version:
        found[target.flavour] = target.installed_version
    return found
