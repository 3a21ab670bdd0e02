"""A user's plugin folder to experiment on."""

from __future__ import annotations

from pathlib import Path

import pytest

PLUGIN_YAML = """\
name: Twice
version: "1"
namespace: mine
summary: Multiplies by two and adds a number.
attributes:
  offset:
    type: float
    default: 0.0
    meaning: What is added.
inputs:
  - name: x
    shapes: [[B, N]]
outputs:
  - {name: y, dtype: float32, shape: [B, N]}
availability:
  tensorrt:
    - {since: "10.0", deprecated: "10.5", removed: "11.0", interface: IPluginV3}
compare:
  kind: values
"""

BODY_PY = '''\
"""Body of Twice."""

from surgery.graph.body import Body


def body(node):
    b = Body(node.opset)
    (x,) = node.input_names
    return node.function(b, [b.add(b.mul(x, b.scalar(2.0)), b.scalar(node.attributes["offset"]))])
'''

SAMPLES_YAML = """\
samples:
  - name: plain
    attributes: {offset: 1.5}
    inputs: [{shape: [2, 3]}]
"""


@pytest.fixture
def user_plugins(tmp_path: Path) -> Path:
    """A folder that holds one plugin folder."""
    folder = tmp_path / "mine" / "Twice"
    folder.mkdir(parents=True)
    (folder / "plugin.yaml").write_text(PLUGIN_YAML)
    (folder / "body.py").write_text(BODY_PY)
    (folder / "samples.yaml").write_text(SAMPLES_YAML)
    (folder / "README.md").write_text("# Twice\n")
    return tmp_path / "mine"
