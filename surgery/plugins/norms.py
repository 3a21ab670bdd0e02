"""The bodies of the plugins that normalise channels of images.

Sources: plugin/instanceNormalizationPlugin and plugin/groupNormalizationPlugin of NVIDIA/TensorRT;
csrc/mmdeploy/backend_ops/tensorrt/instance_norm of mmdeploy.
"""

from __future__ import annotations

import numpy as np

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode
from surgery.plugins.lowered import rank_of, same_shape


def instance_norm(b: Body, x: str, scale: str, bias: str, epsilon: float) -> str:
    """Scale (x - mean) / sqrt(variance + epsilon) + bias of each channel of each image; float32."""
    return b.op("InstanceNormalization", x, scale, bias, epsilon=float(epsilon))


def emit_group_norm(b: Body, node: ConfiguredNode) -> str:
    """Groups of channels normalised as one, then scaled and shifted channel by channel."""
    x, scale, bias = node.input_names
    groups = node.attributes["num_groups"]
    rows = b.reshape(x, 0, groups, -1)
    ones, zeros = b.const(np.ones(groups)), b.const(np.zeros(groups))
    normal = same_shape(b, instance_norm(b, rows, ones, zeros, node.attributes["eps"]), x)
    column = [-1] + [1] * (rank_of(node, 0) - 2)
    return b.add(b.mul(normal, b.reshape(scale, *column)), b.reshape(bias, *column))
