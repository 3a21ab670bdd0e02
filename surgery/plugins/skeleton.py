"""A plugin folder to start from: a definition that works, with a test that passes."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from surgery._data_dirs import shipped_dir
from surgery.errors import ConfigError

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_PLUGIN = """\
# What a node of this plugin looks like, and which TensorRT has it. `surgery show plugins NAME` prints it.
name: {name}
version: "1"
namespace: ""
summary: Multiplies by a number and adds another one, nothing below 0.
attributes:
  scale:
    type: float # or int, bool, string, ints, floats, tensor
    required: true
    meaning: What the input is multiplied by.
  offset:
    type: float
    default: 0.0
    meaning: What is added.
inputs:
  # Letters stand for the same number wherever they occur; `...` for any number of dims.
  - {{name: x, dtypes: [float32], shapes: [[B, ...]]}}
outputs:
  - {{name: y, dtype: float32, shape: [B, ...]}}
# Without entries no TensorRT has it, and nodes are written out as the body. With `keep_plugins: [{name}]` in the
# rewrite stage they stay, for a library of yours that you load into TensorRT. An entry looks like this:
# availability:
#   tensorrt:
#     - {{since: "10.0", interface: IPluginV3}}
compare:
  kind: values # or detections, rows
  atol: 1.0e-5
  rtol: 1.0e-5
sources: []
unconfirmed: []
"""

_BODY = '''\
"""Body of {name}: what it computes, in standard operators."""

from __future__ import annotations

from surgery.graph.body import Body
from surgery.plugins.definition import ConfiguredNode

# More functions may be defined here, all of them optional:
#   check(attributes, types) -> list[str]      problems beyond the types and ranges in plugin.yaml
#   output_types(node) -> list[TensorType]     where the shapes in plugin.yaml do not say it
#   successor(node, target) -> list            other nodes of the target that compute the same
#   fit(body, names, attributes, types)        inputs that models give otherwise, see docs/plugins.md


def body(node: ConfiguredNode):  # -> onnx.FunctionProto
    """The function of a configured node: attributes are checked and filled in, shapes are node.inputs."""
    b = Body(node.opset)
    (x,) = node.input_names
    y = b.add(b.mul(x, b.scalar(node.attributes["scale"])), b.scalar(node.attributes["offset"]))
    return node.function(b, [b.maximum(y, b.scalar(0.0))])
'''

_SAMPLES = """\
# Configurations and inputs that the test runs, and that successors are proven on.
samples:
  - name: plain
    attributes: {scale: 2.0}
    inputs: [{shape: [2, 3, 4], fill: normal}]
  - name: with-offset
    attributes: {scale: -0.5, offset: 1.5}
    inputs: [{shape: [1, 7], low: -3.0, high: 3.0}]
"""

_README = """\
# {name}

What the plugin is, where its kernel is, and what is particular about it.

    python -m pip install pytest
    python -m pytest {folder}
    surgery run migrate MODEL.onnx --plugin-path {parent}
"""

_TEST = '''\
"""The body of {name} against a second implementation, for every sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery.graph.evaluate import Evaluator
from surgery.plugins.registry import load_plugin
from surgery.plugins.samples import sample_inputs, sample_model

PLUGIN = load_plugin(Path(__file__).parent)


def reference(attributes, x):
    """What {name} computes, in numpy: write it from the kernel, not from the body."""
    return [np.maximum(x * np.float32(attributes["scale"]) + np.float32(attributes.get("offset", 0.0)), 0)]


@pytest.mark.parametrize("sample", PLUGIN.samples, ids=lambda s: s.name)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_body_computes_what_the_reference_does(sample, seed):
    model, inputs = sample_model(PLUGIN, sample), sample_inputs(sample, seed)
    feeds = dict(zip((i.name for i in model.graph.input), inputs, strict=True))
    found = Evaluator(model).run(feeds)
    wanted = reference(sample.attributes, *inputs)
    how = PLUGIN.file.compare
    for output, want in zip(model.graph.output, wanted, strict=True):
        np.testing.assert_allclose(found[output.name], want, atol=how.atol, rtol=how.rtol)


def test_a_wrong_attribute_is_told():
    attributes = dict(PLUGIN.samples[0].attributes)
    attributes["scales"] = attributes.pop("scale")
    problems = PLUGIN.check(attributes)
    assert "unknown attribute 'scales'; did you mean 'scale'?" in problems
'''


def write_skeleton(name: str, parent: Path) -> list[Path]:
    """Make the folder of a new plugin.

    Args:
        name: The plugin's name, the operator type of its nodes.
        parent: The folder to put it in; made if need be.

    Returns:
        The files, in the order in which to read them.

    Raises:
        ConfigError: the name cannot be one, or the folder exists.
    """
    if not NAME.fullmatch(name) or re.search(r"__\d+$", name):
        raise ConfigError(
            f"{name!r} cannot be the name of a plugin",
            code="bad-name",
            fix="letters, digits and _, no digit first, no __NUMBER at the end",
        )
    folder = parent / name
    if folder.exists():
        raise ConfigError(
            "exists already", code="folder-exists", where=str(folder), fix="choose another name or --output"
        )
    texts = {
        "plugin.yaml": _PLUGIN.format(name=name),
        "body.py": _BODY.replace("{name}", name),
        "samples.yaml": _SAMPLES,
        "README.md": _README.format(name=name, folder=folder, parent=parent),
        f"test_{name}.py": _TEST.replace("{name}", name),
    }
    folder.mkdir(parents=True)
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
    return [folder / file for file in texts]


@lru_cache(maxsize=256)
def is_defined(name: str) -> bool:
    """Whether the package has a definition of a plugin; only its folder's name is looked at."""
    return name.isidentifier() and (shipped_dir("plugins") / name).is_dir()


def defined_text(name: str) -> str:
    """What to do about a node of a plugin that the package has a definition of."""
    return f"surgery has a definition of the plugin {name}: `surgery run migrate` writes it out as standard nodes"
