"""inspect: what is in the model, and what the target will not take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from surgery.graph.walk import all_nodes
from surgery.pipeline import StageResult, State

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Inspect:
    """List the nodes that the target's table does not take. Changes nothing."""

    name: ClassVar[str] = "inspect"

    def run(self, state: State) -> StageResult:
        """Fill ``unsupported.before``."""
        found = unsupported(state.source.proto, state.target)
        state.report.unsupported["before"] = found
        nodes = sum(1 for _ in all_nodes(state.source.proto.graph.node))
        kinds = sorted({f["op"] for f in found})
        text = f"{nodes} nodes, opset {state.source.opset}; "
        if found:
            text += f"{len(found)} not taken by {state.target.name}: {', '.join(kinds)}"
        else:
            text += f"all operators known to {state.target.name}"
        return StageResult(False, text)


def unsupported(model: onnx.ModelProto, target: Any) -> list[dict[str, Any]]:
    """Nodes that the target's table does not take: node, op, reason, fix."""
    from surgery.plugins.attach import base_name
    from surgery.plugins.definition import PLUGIN_DOMAIN

    functions = {(f.domain, f.name) for f in model.functions if f.domain != PLUGIN_DOMAIN}
    found = []
    for node in all_nodes(model.graph.node):
        if (node.domain, node.op_type) in functions:
            continue
        reason = fix = None
        entry = target.operator(node.op_type) if node.domain in ("", "ai.onnx") else None
        name = base_name(node.op_type) if node.domain == PLUGIN_DOMAIN else node.op_type
        plugin = target.plugin(name)
        if node.domain == PLUGIN_DOMAIN:
            if plugin is None or not plugin.available:
                reason = f"{target.name} has no plugin {name}"
                fix = "write it out as standard nodes: `migrate: true` in the stage rewrite"
        elif entry is not None and not entry.supported:
            reason = entry.restrictions or f"{target.name} has no {node.op_type}"
            fix = "rewrite or substitute it; see `surgery list pipelines`"
        elif entry is None and (plugin is None or not plugin.available):
            place = f"domain {node.domain!r}" if node.domain else "the default domain"
            reason = f"{target.name} knows no operator or plugin {node.op_type} ({place})"
            fix = "give its plugin, or replace it by standard operators"
        if reason:
            found.append({"node": node.name, "op": node.op_type, "reason": reason, "fix": fix})
    return found
