"""Plugin nodes that stay in the target's model because a library of the user's has their plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.errors import ConfigError, MissingEnvironmentError
from surgery.graph.walk import all_nodes
from surgery.user_code import is_shipped

if TYPE_CHECKING:
    from surgery.config import PipelineConfig
    from surgery.pipeline import State

OPTION = "keep_plugins"


def kept_plugins(config: PipelineConfig) -> frozenset[str]:
    """Names of the plugins that a pipeline says a library of the user's has."""
    return frozenset(name for stage in config.stages for name in getattr(stage, OPTION, ()))


def check_kept(state: State) -> None:
    """Make sure that each of these plugins has a definition: verification and shapes need its body.

    Raises:
        ConfigError: one has none; near names are suggested.
    """
    for i, stage in enumerate(state.config.stages):
        for j, name in enumerate(getattr(stage, OPTION, ())):
            try:
                state.registry.get(name)
            except ConfigError as error:
                where = state.config.source.where(("stages", i, stage.name, OPTION, j))
                where = where or f"{stage.name}.{OPTION}"
                near = error.fix if error.fix and "did you mean" in error.fix else None
                define = (
                    f"define it: surgery new plugin {name} --output my_plugins, then --plugin-path my_plugins"
                )
                raise ConfigError(
                    error.message,
                    code=error.code,
                    where=where,
                    cause="a node that stays is verified with its body",
                    fix=f"{near} Otherwise {define}" if near else define,
                ) from error


def needed_libraries(state: State) -> dict[str, int]:
    """Plugins of the target's model that TensorRT itself does not bring, with the number of their nodes."""
    kept = kept_plugins(state.config)
    if not kept or state.target_model is None:
        return {}
    flavour, version = state.target.flavour, state.target.version
    found: dict[str, int] = {}
    for node in all_nodes(state.target_model.graph.node):
        if node.domain or node.op_type not in kept:
            continue
        given = next((a.s.decode() for a in node.attribute if a.name == "plugin_version"), None)
        definition = state.registry.get(node.op_type, given)
        if not (is_shipped(definition.folder) and definition.available(flavour, version)):
            found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


def library_missing(state: State) -> str | None:
    """Why TensorRT is not asked here: the libraries of plugins that stay are not loaded; None if it can be asked.

    The report gets a warning that says what to load, and one for each plugin to keep of which there is no node.

    Raises:
        MissingEnvironmentError: an engine was required.
    """
    assert state.target_model is not None
    there = {n.op_type for n in all_nodes(state.target_model.graph.node)}
    for name in sorted(kept_plugins(state.config) - there):
        state.warn(f"{OPTION}: the model has no node of {name}")
    needed = needed_libraries(state)
    if not needed:
        return None
    named = ", ".join(f"{name} ({count} node{'s' if count > 1 else ''})" for name, count in needed.items())
    it = "it" if len(needed) == 1 else "them"
    fix = (
        f"load the library that registers {it} before you parse {state.source.name}.{state.target.name}.onnx: "
        "trt.get_plugin_registry().load_library(FILE) in Python, --staticPlugins=FILE for trtexec"
    )
    if state.target.flavour == "tensorrt-rtx":
        fix += ". TensorRT-RTX ships no such plugins and takes those of the interface IPluginV3 alone"
    if state.options.require == "engine":
        raise MissingEnvironmentError(
            f"no engine can be built here: a library of yours has {named}, and it is not loaded",
            code="plugin-library",
            fix=f"drop --require engine, and {fix}",
        )
    state.warn(
        f"{named} stay{'s' if sum(needed.values()) == 1 else ''} in the model for {state.target.name}: {fix}"
    )
    return f"not run: a library of yours has {', '.join(needed)}, and it is not loaded here"


def without_kept(state: State, refused: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a table refuses, but for nodes whose plugin a library of the user's has."""
    kept = kept_plugins(state.config)
    return [entry for entry in refused if entry["op"] not in kept]
