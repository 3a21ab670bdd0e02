"""Manifests of Polygraphy's `plugin match`: what Polygraphy's own `plugin replace` gets wrong is a test here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import pytest
from ruamel.yaml import YAML
from runtime import run

import surgery
from surgery.errors import ConfigError, ConversionError
from surgery.graph.convert import export_graph, import_graph
from surgery.graph.infer import infer_types
from surgery.plugins.attach import attach_bodies
from surgery.plugins.definition import PLUGIN_DOMAIN
from surgery.plugins.manifest import Placed, apply_manifest, read_manifest
from surgery.plugins.registry import Registry
from tests.hash_seeds import printed_under_two_seeds

CHAIN = """g (float[n, 4] x) => (float[n, 4] y, float[n, 4] z) {
    ["m1"] a = Mul (x, two) ["p1"] b = Add (a, half)
    ["m2"] c = Mul (two, b) ["p2"] y = Add (half, c)
    ["r"] z = Relu (b)
}"""


def write(path: Path, documents: Iterable[Any]) -> None:
    with path.open("w") as file:
        YAML(typ="safe").dump_all(list(documents), file)


def model(text: str = CHAIN) -> onnx.ModelProto:
    parsed = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    for name, value in (("two", 2.0), ("half", 0.5)):
        parsed.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.float32), name))
    return parsed


def entry(inputs: list[str], outputs: list[str], op: str = "Twice", **attributes: Any) -> dict[str, Any]:
    return {
        "name": op.lower(),
        "op": op,
        "instances": [{"inputs": inputs, "outputs": outputs, "attributes": attributes}],
    }


FIRST = entry(["x"], ["b"], offset=0.5)
SECOND = entry(["b"], ["y"], offset=0.5)


class Applied:
    """A manifest applied to a graph, and what came out."""

    def __init__(self, registry: Registry, folder: Path, proto: onnx.ModelProto) -> None:
        self.registry, self.folder = registry, folder
        self.graph, self.header = import_graph(proto)
        self.original = frozenset(n for node in proto.graph.node for n in (*node.input, *node.output))

    def __call__(self, *documents: Any) -> list[Placed]:
        path = self.folder / "config.yaml"
        write(path, documents)
        infer_types(self.graph)
        entries = read_manifest(path, self.registry)
        return apply_manifest(self.graph, entries, self.registry, {}, opset=17, original=self.original)

    @property
    def ops(self) -> list[str]:
        return [n.op for n in self.graph.nodes]

    def exported(self) -> onnx.ModelProto:
        return attach_bodies(export_graph(self.graph, self.header), self.registry)


@pytest.fixture
def registry(user_plugins: Path) -> Registry:
    return Registry.load([user_plugins])


@pytest.fixture
def applied(registry: Registry, tmp_path: Path) -> Applied:
    return Applied(registry, tmp_path, model())


def test_both_places_become_nodes_that_compute_the_same(applied: Applied) -> None:
    placed = applied(FIRST, SECOND)
    assert sorted(applied.ops) == ["Relu", "Twice", "Twice"]
    assert [p.before for p in placed] == [("m1", "p1"), ("m2", "p2")]
    assert [p.proof for p in placed] == ["passed", "passed"]
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    for got, want in zip(run(applied.exported(), [x]), run(model(), [x]), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_the_node_says_all_that_the_next_tool_needs(applied: Applied) -> None:
    applied(FIRST)
    node = next(n for n in applied.graph.nodes if n.op == "Twice")
    assert node.domain == PLUGIN_DOMAIN
    assert node.attrs["plugin_version"] == "1"
    assert node.attrs["plugin_namespace"] == "mine"
    (made,) = node.outputs
    assert np.dtype(made.dtype) == np.float32
    assert list(made.shape) == ["n", 4]
    onnx.checker.check_model(applied.exported(), full_check=True)


def test_operands_in_either_order_are_the_same_part(applied: Applied) -> None:
    """The second pair has its operands the other way round: boundaries do not care."""
    (placed,) = applied(SECOND)
    assert placed.before == ("m2", "p2")


def test_a_second_application_changes_nothing(applied: Applied) -> None:
    applied(FIRST, SECOND)
    before = applied.exported().SerializeToString(deterministic=True)
    placed = applied(FIRST, SECOND)
    assert [p.before for p in placed] == [(), ()]
    assert "already" in placed[0].proof
    assert applied.exported().SerializeToString(deterministic=True) == before


RELUS = "g (float[n, 4] x) => (float[n, 4] d) { a = Relu (x) b = Relu (a) c = Relu (b) d = Relu (c) }"


def test_overlapping_places_are_refused_and_nothing_changes(registry: Registry, tmp_path: Path) -> None:
    """Polygraphy writes a graph with a dangling input here and exits 0."""
    chain = Applied(registry, tmp_path, model(RELUS))
    places = [entry([a], [b]) for a, b in (("x", "b"), ("a", "c"), ("b", "d"))]
    with pytest.raises(ConversionError, match="belongs to twice #1 too"):
        chain(*places)
    assert chain.ops == ["Relu"] * 4


def test_the_node_that_two_places_share_is_named(applied: Applied) -> None:
    wide = entry(["x"], ["b", "y"], offset=0.5)
    with pytest.raises(ConversionError, match="node 'm2' belongs to twice #1 too") as caught:
        applied(SECOND, wide)
    assert caught.value.code == "illegal-manifest"
    assert caught.value.where is not None
    assert caught.value.where.endswith("config.yaml: document 2, instance 1")


def test_a_value_that_is_used_outside(applied: Applied) -> None:
    with pytest.raises(ConversionError, match="'b' is made inside and used outside by 'r'"):
        applied(entry(["x"], ["y"], offset=0.5))


def test_a_missing_input(applied: Applied) -> None:
    graph = "g (float[n, 4] x, float[n, 4] w) => (float[n, 4] y) { a = Mul (x, two) y = Add (a, w) }"
    applied.graph, applied.header = import_graph(model(graph))
    with pytest.raises(ConversionError, match="also depends on 'w', which is not among its inputs"):
        applied(entry(["x"], ["y"]))


def test_a_path_that_leaves_and_comes_back(applied: Applied) -> None:
    graph = """g (float[n, 4] x) => (float[n, 4] y) {
        a = Mul (x, two) ["out"] b = Exp (a) c = Add (a, half) y = Add (c, b) }"""
    applied.graph, applied.header = import_graph(model(graph))
    with pytest.raises(ConversionError, match="is not one piece: a path leaves it"):
        applied(entry(["x", "b"], ["y"]))


def test_an_input_that_comes_from_behind(applied: Applied) -> None:
    with pytest.raises(ConversionError, match="the input 'z' depends on the part itself"):
        applied(entry(["x", "z"], ["b"]))


def test_a_stale_name(applied: Applied) -> None:
    with pytest.raises(ConversionError, match="tensor 'bb' is not in the graph") as caught:
        applied(entry(["x"], ["bb"]))
    assert caught.value.code == "stale-manifest"
    assert caught.value.fix == "the manifest is of another model; near names: b"


def test_a_name_that_an_earlier_stage_took_away(applied: Applied) -> None:
    applied(FIRST)
    with pytest.raises(ConversionError, match="tensor 'a' is not in the graph") as caught:
        applied(entry(["a"], ["b"]))
    assert "earlier stage" in str(caught.value.fix)


def test_ports_in_the_wrong_order_are_found_by_computing(registry: Registry, tmp_path: Path) -> None:
    """Polygraphy's own example lists tensors in the order of a set."""
    graph = "g (float[2, 3] a, float[2, 3] b) => (float[2, 3] y) { y = Sub (a, b) }"
    folder = tmp_path / "own" / "Minus"
    folder.mkdir(parents=True)
    (folder / "plugin.yaml").write_text(
        "name: Minus\nsummary: The difference.\ninputs:\n- {name: a, shapes: [[...]]}\n- {name: b, shapes: [[...]]}\n"
        "outputs:\n- {name: y, shape: [...]}\ncompare: {kind: values}\n"
    )
    (folder / "body.py").write_text(
        "from surgery.graph.body import Body\n\n\ndef body(node):\n    b = Body(node.opset)\n"
        "    return node.function(b, [b.sub(*node.input_names)])\n"
    )
    (folder / "samples.yaml").write_text(
        "samples:\n- {name: s, inputs: [{shape: [2, 3]}, {shape: [2, 3], low: 5, high: 9}]}\n"
    )
    (folder / "README.md").write_text("# Minus\n")
    own = Registry.load([folder])
    right, wrong = (Applied(own, tmp_path, model(graph)) for _ in range(2))
    assert [p.proof for p in right(entry(["a", "b"], ["y"], "Minus"))] == ["passed"]
    with pytest.raises(ConversionError, match="computes something else") as caught:
        wrong(entry(["b", "a"], ["y"], "Minus"))
    assert caught.value.code == "manifest-differs"
    assert wrong.ops == ["Sub"]


def test_wrong_attributes_are_found_by_computing(applied: Applied) -> None:
    with pytest.raises(ConversionError, match="computes something else") as caught:
        applied(entry(["x"], ["b"], offset=0.25))
    assert "differs by up to 0.25" in str(caught.value.cause)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (entry(["x"], ["b"], ofset=0.5), "unknown attribute 'ofset'; did you mean 'offset'"),
        (entry(["x"], ["b"], offset="half"), "attribute 'offset' is 'half'; expected float"),
        (entry(["x", "a"], ["b"]), "2 inputs given; it takes 1"),
        (entry(["x"], ["b", "a"]), "2 outputs given; it has 1"),
    ],
)
def test_what_the_plugin_does_not_take(applied: Applied, document: Any, message: str) -> None:
    with pytest.raises(ConversionError, match=message) as caught:
        applied(document)
    assert caught.value.code in ("plugin-configuration", "illegal-manifest")
    assert applied.ops == ["Mul", "Add", "Mul", "Add", "Relu"]


def test_dtype_and_rank_are_checked(registry: Registry, tmp_path: Path) -> None:
    whole = Applied(registry, tmp_path, model("g (int32[n, 4] x) => (int32[n, 4] y) { y = Add (x, x) }"))
    with pytest.raises(ConversionError, match="input 'x' is int32; expected float32"):
        whole(entry(["x"], ["y"]))
    deep = Applied(registry, tmp_path, model("g (float[n, 4, 5] x) => (float[n, 4, 5] y) { y = Add (x, x) }"))
    with pytest.raises(ConversionError, match=r"shapes x \[n, 4, 5\] do not fit x \[B, N\]"):
        deep(entry(["x"], ["y"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "is no plugin"),
        ("op: Twice", "instances is not a list"),
        ("{op: Twice, instances: [3]}", "is not a mapping"),
        ("{op: Twice, instances: [{inputs: x, outputs: [y]}]}", "inputs is not a list of tensor names"),
        ("{op: Twice, instances: [{inputs: [x], outputs: []}]}", "outputs is empty"),
        ("{op: Twice, instances: [{inputs: [x], outputs: [y, y]}]}", "names a tensor twice"),
        ("{op: Twice, instances: [{inputs: [x], outputs: [y], attributes: [1]}]}", "attributes is not a mapping"),
        ("{op: Twce, instances: [{inputs: [x], outputs: [y]}]}", "no definition of plugin 'Twce'"),
        (
            "{op: Twice, instances: [{inputs: [x], outputs: [y], attributes: {plugin_version: '7'}}]}",
            "has no version '7'",
        ),
        (
            "{op: Twice, instances: [{inputs: [x], outputs: [y], attributes: {plugin_namespace: yours}}]}",
            "plugin_namespace is 'yours'; the plugin is registered in 'mine'",
        ),
        ("a: [", "is not YAML"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_in_itself(registry: Registry, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_manifest(path, registry)
    assert str(path) in str(caught.value.where)


def test_near_names_are_offered(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("{op: Twce, instances: [{inputs: [x], outputs: [y]}]}")
    with pytest.raises(ConfigError) as caught:
        read_manifest(path, registry)
    assert str(caught.value.fix).startswith("did you mean Twice")


def test_a_run_applies_it(user_plugins: Path, tmp_path: Path) -> None:
    write(tmp_path / "config.yaml", [FIRST, SECOND])
    onnx.save(model(), tmp_path / "m.onnx")
    report = surgery.run(
        "generic",
        tmp_path / "m.onnx",
        target="tensorrt-10.16",
        overrides={"substitute.manifest": str(tmp_path / "config.yaml")},
        plugin_paths=[user_plugins],
    )
    assert report.failure is None
    edits = [e for e in report.edits if e.rule == "manifest"]
    assert [e.verified for e in edits] == ["passed", "passed"]
    assert report.model is not None
    assert sum(n.domain == PLUGIN_DOMAIN for n in report.model.graph.node) == 2


_PRINT_HASH = """
import hashlib, sys, pathlib
import test_manifest as t
registry = t.Registry.load([pathlib.Path(sys.argv[1])])
applied = t.Applied(registry, pathlib.Path(sys.argv[2]), t.model())
applied(t.SECOND, t.FIRST)
print(hashlib.sha256(applied.exported().SerializeToString(deterministic=True)).hexdigest())
"""


def test_bytes_do_not_depend_on_hash_seeds(user_plugins: Path, tmp_path: Path) -> None:
    found = printed_under_two_seeds(_PRINT_HASH, str(user_plugins), str(tmp_path)).strip()
    assert len(found) == len(hashlib.sha256().hexdigest())


def test_what_polygraphy_writes_is_read(user_plugins: Path, registry: Registry, tmp_path: Path) -> None:
    """`polygraphy plugin match` itself writes the file; its pattern is NVIDIA's form of one."""
    pytest.importorskip("yaml")  # Polygraphy writes the file with it
    from polygraphy.tools.plugin.subtool.match import Match

    pattern = tmp_path / "patterns" / "twice"
    pattern.mkdir(parents=True)
    (pattern / "pattern.py").write_text(
        "def get_plugin_metadata():\n    return {'name': 'twice', 'op': 'Twice'}\n\n\n"
        "def get_matching_subgraphs(graph):\n"
        "    return [{'inputs': ['x'], 'outputs': ['b'], 'attributes': {'offset': 0.5}}]\n"
    )
    onnx.save(model(), tmp_path / "m.onnx")
    Match().match_plugin(str(tmp_path / "m.onnx"), str(tmp_path / "patterns"), str(tmp_path / "config.yaml"))
    entries = read_manifest(tmp_path / "config.yaml", registry)
    assert [(e.inputs, e.outputs, dict(e.attributes)) for e in entries] == [(("x",), ("b",), {"offset": 0.5})]
    graph, _ = import_graph(model())
    infer_types(graph)
    assert isinstance(graph, gs.Graph)
    (placed,) = apply_manifest(graph, entries, registry, {}, opset=17)
    assert placed.before == ("m1", "p1")
