"""Plugin nodes are checked alike by `run`, `explain` and `inspect`, and a user's definitions count."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import surgery
from surgery.cli import main
from surgery.diagnose.classify import classify
from surgery.diagnose.explain import explain
from surgery.diagnose.inspect import Ask, inspect
from surgery.plugins.skeleton import write_skeleton
from surgery.trt.types import ParserMessage
from tests.diagnose.models import parsed

CONTRADICTION = (
    "g (float[1, 20, 4] boxes, float[1, 21, 3] scores) => (int32[] n, float[] b, float[] s, int32[] c) "
    "{ [nms] n, b, s, c = EfficientNMS_TRT <score_threshold = 0.25, iou_threshold = 0.5, max_output_boxes = 10, "
    "background_class = -1, score_activation = 0, box_coding = 0> (boxes, scores) }"
)


def saved(folder: Path, text: str) -> Path:
    path = folder / "m.onnx"
    onnx.save(parsed(text), path)
    return path


@pytest.fixture
def mine(tmp_path: Path) -> tuple[Path, Path]:
    """A model with an operator of the user's, and the folder of its definition."""
    model = parsed("g (float[2, 3] x) => (float[2, 3] y) { [mine] y = Relu (x) }")
    node = model.graph.node[0]
    node.op_type, node.domain = "Scaled", "my.ops"
    node.attribute.append(onnx.helper.make_attribute("scale", 2.0))
    model.opset_import.append(onnx.helper.make_opsetid("my.ops", 1))
    onnx.save(model, tmp_path / "mine.onnx")
    write_skeleton("Scaled", tmp_path / "my_plugins")
    return tmp_path / "mine.onnx", tmp_path / "my_plugins"


@pytest.mark.parametrize("target", ["tensorrt-10.16", "tensorrt-11.4"])
@pytest.mark.parametrize("ask", ["auto", "never"])
def test_all_commands_refuse_the_same_node(tmp_path: Path, target: str, ask: Ask) -> None:
    """The target has the plugin: its table has nothing against the node."""
    path = saved(tmp_path, CONTRADICTION)
    failure = surgery.run("migrate", path, target=target).failure
    assert failure is not None
    assert failure.message.startswith("EfficientNMS_TRT 'nms': ")
    (problem,) = explain(path, target=target).problems
    assert (problem.node, problem.messages[0]) == ("nms", failure.message)
    (group,) = inspect(path, target=target, ask=ask).groups
    assert (group.names, group.reason, group.kind) == (("nms",), failure.message, "plugin")
    assert group.remedies[0].text == failure.fix


@pytest.mark.parametrize("options", [[], ["--no-parser"]])
def test_inspect_is_not_green(tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(saved(tmp_path, CONTRADICTION)), "--target", "tensorrt-10.16", *options]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "by its table, everything goes through, and yet `surgery run` fails" in told
    assert "EfficientNMS_TRT 'nms': " in told
    assert "surgery run migrate writes" not in told


def test_a_right_node_is_no_group(tmp_path: Path) -> None:
    right = CONTRADICTION.replace("[1, 21, 3]", "[1, 20, 3]")
    assert not inspect(saved(tmp_path, right), target="tensorrt-10.16", ask="never").groups


def test_definitions_of_the_user_count(mine: tuple[Path, Path]) -> None:
    model, folder = mine
    (group,) = inspect(model, target="tensorrt-10.16").groups
    assert [f.what for f, _ in group.fates] == ["left"]
    result = inspect(model, target="tensorrt-10.16", plugin_paths=[folder])
    assert [f.what for f, _ in result.groups[0].fates] == ["done"]
    assert result.trial is not None
    assert f"--plugin-path {folder}" in result.trial.command
    (problem,) = explain(model, target="tensorrt-10.16", plugin_paths=[folder]).problems
    assert problem.fate is not None
    assert problem.fate.what == "done"


@pytest.mark.parametrize("command", ["inspect", "explain"])
def test_a_wrong_definition_of_the_user_is_told(
    mine: tuple[Path, Path], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, folder = mine
    (folder / "Scaled" / "body.py").write_text("def bodyy(node): ...\n")
    assert main([command, str(model), "--plugin-path", str(folder), "--target", "tensorrt-10.16"]) == 2
    assert "error[bad-definition]" in capsys.readouterr().err


def test_an_operator_that_nobody_knows_can_be_defined(
    mine: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = mine
    assert main(["explain", str(model), "--target", "tensorrt-10.16"]) == 4
    fixes = " ".join(capsys.readouterr().out.split()).split(" fix: ")[1]
    assert fixes.startswith("Define it: surgery new plugin Scaled --output my_plugins, ")
    assert "--plugin-path my_plugins" in fixes
    assert fixes.index("Define it") < fixes.index("Load the library")


@pytest.mark.parametrize(
    ("op", "domain", "first"),
    [
        ("Scaled", "my.ops", "Define it: surgery new plugin Scaled"),
        ("NMS_TRT", "", "surgery has a definition of the plugin NMS_TRT"),
        ("Conv2", "com.ms.internal.nhwc", "Load the library"),
    ],
)
def test_what_is_offered_depends_on_what_the_operator_is(op: str, domain: str, first: str) -> None:
    """Operators of ONNX Runtime are never taken for a plugin, and what is defined need not be defined again."""
    model = parsed("g (float[2] x) => (float[2] y) { [n] y = Relu (x) }")
    model.graph.node[0].op_type, model.graph.node[0].domain = op, domain
    said = "Plugin not found, are the plugin name, version, and namespace correct?"
    message = ParserMessage("INVALID_NODE", said, "n", op, 0, "checkFallbackPluginImporter", "", 0)
    found = {f.id: f for f in classify([message], model=model)}
    assert found["plugin-not-found"].fixes[0].text.startswith(first)
