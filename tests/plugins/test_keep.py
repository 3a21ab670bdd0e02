"""Nodes of plugins that a library of the user's has stay in the file for the target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper
from test_migrate import two_suppressions

import surgery
from surgery.cli import main
from surgery.graph.walk import all_nodes
from surgery.trt.session import installed_flavours

TARGETS = ["tensorrt-10.16", "tensorrt-11.4", "tensorrt-rtx-1.7"]


def model(op: str = "Twice") -> onnx.ModelProto:
    """A node of the user's in the main graph, and one in the branch of an If that depends on values."""
    inner = helper.make_graph(
        [helper.make_node(op, ["r"], ["b"], name="inner", domain="mine", offset=2.0)], "then", [],
        [helper.make_tensor_value_info("b", 1, ["N", 3])],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Neg", ["r"], ["c"], name="other")], "else", [],
        [helper.make_tensor_value_info("c", 1, ["N", 3])],
    )  # fmt: skip
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node(op, ["r"], ["t"], name="twice", domain="mine", offset=1.0),
        helper.make_node("If", ["which"], ["i"], name="if", then_branch=inner, else_branch=other),
        helper.make_node("Add", ["t", "i"], ["y"], name="add"),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", 1, ["N", 3]), helper.make_tensor_value_info("which", 9, [])],
        [helper.make_tensor_value_info("y", 1, ["N", 3])],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def of_the_user(proto: onnx.ModelProto) -> list[tuple[str, dict[str, Any]]]:
    """Plugin nodes of a file for a target: their names and attributes."""
    return [
        (n.name, {a.name: helper.get_attribute_value(a) for a in n.attribute})
        for n in all_nodes(proto.graph.node)
        if (n.domain, n.op_type) == ("", "Twice")
    ]


FIELDS = {"plugin_version": b"1", "plugin_namespace": b"mine"}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("pipeline", ["migrate", "generic"])
def test_nodes_stay_in_the_file_for_the_target(
    user_plugins: Path, tmp_path: Path, pipeline: str, target: str
) -> None:
    source, out = tmp_path / "m.onnx", tmp_path / "out"
    onnx.save(model(), source)
    report = surgery.run(
        pipeline, source, target=target, output=out, plugin_paths=[user_plugins],
        overrides={"rewrite.keep_plugins": ["Twice"]},
    )  # fmt: skip
    assert report.exit_code == 0, report.failure
    written = onnx.load(out / f"m.{target}.onnx")
    assert of_the_user(written) == [
        ("twice", {"offset": 1.0, **FIELDS}),
        ("inner", {"offset": 2.0, **FIELDS}),
    ]
    assert not written.functions
    assert report.engine is None
    assert not [e for e in report.unsupported["after"] if e["op"] == "Twice"]
    (told,) = [w for w in report.warnings if "load the library" in w]
    assert "Twice (2 nodes) stay" in told
    assert f"m.{target}.onnx" in told
    assert ("IPluginV3" in told) == target.startswith("tensorrt-rtx")
    # The portable model computes with the body, and verification with it.
    assert {f.name.partition("__")[0] for f in onnx.load(out / "m.onnx").functions} == {"Twice"}
    assert report.verification["graph"]["status"] == "passed"


def test_without_it_they_are_written_out(user_plugins: Path, tmp_path: Path) -> None:
    """Twice is removed in 11.0."""
    report = surgery.run(
        "migrate", model(), target="tensorrt-11.4", output=tmp_path, plugin_paths=[user_plugins]
    )
    assert report.exit_code == 0, report.failure
    (written,) = tmp_path.glob("*.tensorrt-11.4.onnx")
    assert of_the_user(onnx.load(written)) == []
    assert not [w for w in report.warnings if "load the library" in w]


@pytest.mark.parametrize(("target", "needed"), [("tensorrt-10.16", False), ("tensorrt-11.4", True)])
def test_shipped_definitions_can_be_kept_too(tmp_path: Path, target: str, needed: bool) -> None:
    """TensorRT has it until 11.0: nothing has to be loaded up to there."""
    report = surgery.run(
        "migrate", two_suppressions(), target=target, output=tmp_path,
        overrides={"rewrite.keep_plugins": ["BatchedNMSDynamic_TRT"]}, stages="load..parse,save",
    )  # fmt: skip
    assert report.exit_code == 0, report.failure
    (written,) = tmp_path.glob(f"*.{target}.onnx")
    ops = [n.op_type for n in all_nodes(onnx.load(written).graph.node)]
    assert ops.count("BatchedNMSDynamic_TRT") == 2
    assert bool([w for w in report.warnings if "load the library" in w]) == needed


@pytest.mark.parametrize(
    ("name", "near"),
    [("Twicee", "did you mean 'Twice'?"), ("Quite_Another", "surgery new plugin Quite_Another")],
)
def test_an_unknown_name_is_refused(user_plugins: Path, tmp_path: Path, name: str, near: str) -> None:
    report = surgery.run(
        "migrate", model(), target="tensorrt-10.16", output=tmp_path / "out", plugin_paths=[user_plugins],
        overrides={"rewrite.keep_plugins": [name]},
    )  # fmt: skip
    assert report.failure is not None
    assert (report.exit_code, report.failure.code) == (2, "no-plugin")
    assert f"no plugin named {name!r}" in report.failure.message
    assert near in (report.failure.fix or "")
    assert not (tmp_path / "out").exists()


def test_an_unknown_name_in_a_file_is_told_with_its_place(
    user_plugins: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    (tmp_path / "p.yaml").write_text(
        "schema: 1\nextends: migrate\nplugin_path: [mine]\nset: {rewrite.keep_plugins: [Twice, NMS_TR]}\n"
    )
    assert (
        main(["run", str(tmp_path / "p.yaml"), str(tmp_path / "m.onnx"), "--output", str(tmp_path / "o")])
        == 2
    )
    told = " ".join(capsys.readouterr().err.split())
    assert "p.yaml:4:" in told
    assert "did you mean 'NMS_TRT'" in told


def test_a_plugin_of_which_there_is_no_node_is_told(user_plugins: Path, tmp_path: Path) -> None:
    report = surgery.run(
        "migrate", model(), target="tensorrt-10.4", plugin_paths=[user_plugins],
        overrides={"rewrite.keep_plugins": ["NMS_TRT"]},
    )  # fmt: skip
    assert report.exit_code == 0, report.failure
    assert "keep_plugins: the model has no node of NMS_TRT" in report.warnings


@pytest.mark.skipif("tensorrt-rtx" not in installed_flavours(), reason="asks the real parser")
def test_an_installed_target_says_why_it_is_not_asked(user_plugins: Path) -> None:
    report = surgery.run(
        "migrate", model(), target="tensorrt-rtx", plugin_paths=[user_plugins],
        overrides={"rewrite.keep_plugins": ["Twice"]},
    )  # fmt: skip
    assert report.exit_code == 0, report.failure
    told = {s.name: s.summary for s in report.stages}
    assert (
        told["parse"] == told["build"] == "not run: a library of yours has Twice, and it is not loaded here"
    )
    assert report.status == "prepared"
