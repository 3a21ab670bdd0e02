"""Plugins over NVIDIA's own ``tensorrt`` Python packages: what is registered is what nodes say.

See tests/trt/test_full_api.py for SURGERY_TRT_API. Those packages may come without libnvinfer_plugin; then only the
plugins that the core registers itself are there, and nothing of TensorRT's plugin library can be asked for.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from surgery.plugins.attach import attach_bodies, target_model
from surgery.plugins.registry import Registry
from surgery.plugins.samples import sample_model
from surgery.targets import resolve_target
from tests.installed import FULL, full, full_name

pytestmark = [
    pytest.mark.slow,
    full,
]


@pytest.fixture(scope="module", params=FULL, ids=full_name)
def command(request: pytest.FixtureRequest) -> list[str]:
    return [request.param, "python"] if request.param else [sys.executable]


LIST = """
import json
import tensorrt as trt
trt.init_libnvinfer_plugins(trt.Logger(trt.Logger.ERROR), "")
found = []
for creator in trt.get_plugin_registry().all_creators:
    fields = {f.name: f.type.name for f in creator.field_names or ()}
    found.append([creator.name, creator.plugin_version, creator.plugin_namespace, fields])
print("found: " + json.dumps([trt.__version__, found]))
"""

QUICK = """
import json
from typing import Tuple
import tensorrt as trt
import tensorrt.plugin as plugin

@plugin.register("mine::Twice")
def twice(x: plugin.TensorDesc, offset: float) -> plugin.TensorDesc:
    return x.like()

@plugin.impl("mine::Twice")
def compute(x: plugin.Tensor, offset: float, outputs: Tuple[plugin.Tensor], stream: int) -> None:
    pass

creator = trt.get_plugin_registry().get_creator("Twice", "1", "mine")
fields = {f.name: f.type.name for f in creator.field_names}
print("found: " + json.dumps([creator.name, creator.plugin_version, creator.plugin_namespace, fields]))
"""


def told(command: list[str], script: str, folder: Path) -> Any:
    path = folder / "script.py"  # a file: TensorRT reads the source of what it registers
    path.write_text(script)
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, timeout=120, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("found: ")]
    assert lines, done.stderr[-2000:]
    return json.loads(lines[0].removeprefix("found: "))


KINDS = {"INT32": {"INT", "INTS"}, "FLOAT32": {"FLOAT", "FLOATS"}, "FLOAT64": {"FLOAT"}, "CHAR": {"STRING"}}


def kinds(node: onnx.NodeProto) -> dict[str, str]:
    reserved = ("plugin_version", "plugin_namespace")
    return {
        a.name: onnx.AttributeProto.AttributeType.Name(a.type)
        for a in node.attribute
        if a.name not in reserved
    }


def test_registered_creators_take_the_nodes_that_are_emitted(command: list[str], tmp_path: Path) -> None:
    version, creators = told(command, LIST, tmp_path)
    registry, target = Registry.load(), resolve_target("tensorrt-" + ".".join(version.split(".")[:2]))
    by_key = {(name, own): (namespace, fields) for name, own, namespace, fields in creators}
    checked = 0
    for definition in registry.definitions():
        if (definition.name, definition.version) not in by_key:
            continue
        namespace, fields = by_key[definition.name, definition.version]
        for sample in definition.samples:
            model = target_model(sample_model(definition, sample), registry, target)
            for node in (n for n in model.graph.node if n.op_type == definition.name and not n.domain):
                assert namespace == definition.namespace
                wrong = {n: k for n, k in kinds(node).items() if k not in KINDS[fields.get(n, "")]}
                assert not wrong
                checked += 1
    expected = "ROIAlign_TRT" in {name for name, *_ in creators}
    assert bool(checked) >= expected


def test_a_quickly_deployable_plugin_is_what_its_node_asks_for(
    command: list[str], tmp_path: Path, user_plugins: Path
) -> None:
    """Python functions registered through ``tensorrt.plugin``, and a definition of the user's for the same plugin."""
    registry = Registry.load([user_plugins], shipped=False)
    node = registry.get("Twice").make_node("t", ["x"], ["y"], {"offset": 1.5})
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", 3]) for n in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    target = resolve_target("tensorrt-10.4")
    (bare,) = target_model(attach_bodies(model, registry), registry, target).graph.node
    given = {a.name: a.s.decode() for a in bare.attribute if a.type == onnx.AttributeProto.STRING}
    name, version, namespace, fields = told(command, QUICK, tmp_path)
    assert (bare.op_type, given["plugin_version"], given["plugin_namespace"]) == (name, version, namespace)
    assert set(kinds(bare)) == set(fields)
    assert all(kind in KINDS[fields[n]] for n, kind in kinds(bare).items())
