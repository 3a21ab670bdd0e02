"""Body of Proposal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode, TensorType
from surgery.plugins.fitting import Fitted
from surgery.plugins.nms_successors import given_attributes
from surgery.plugins.rpn_proposals import emit_proposals, fit_channels, proposal_problems
from surgery.plugins.successor import Successor, renamed

if TYPE_CHECKING:
    import onnx

    from surgery.plugins.attach import TargetVersion


def check(attributes: Mapping[str, Any], types: Sequence[TensorType | None]) -> list[str]:
    """Problems beyond types and ranges."""
    return proposal_problems(attributes, types)


def body(node: ConfiguredNode) -> onnx.FunctionProto:
    """The function of a configured node."""
    b = Body(node.opset)
    return node.function(b, [emit_proposals(b, node)])


def successor(node: ConfiguredNode, target: TargetVersion) -> list[Successor]:
    """ProposalDynamic."""
    return [renamed(node, "ProposalDynamic", "1", given_attributes(node))]


def fit(
    b: Body, names: Sequence[str], attributes: Mapping[str, Any], types: Sequence[TensorType | None]
) -> Fitted | None:
    """More channels of an image than there are anchors."""
    return fit_channels(b, "Proposal", names, attributes, types)
