"""Loading plugin folders: shipped ones, a user's own, and what a wrong one is told."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from runtime import run

from surgery._data_dirs import shipped_dir
from surgery.cli import main
from surgery.errors import ConfigError, ConversionError
from surgery.graph.body import Body
from surgery.plugins.definition import PLUGIN_DOMAIN, TensorType
from surgery.plugins.registry import Registry
from surgery.plugins.samples import sample_inputs, sample_model
from surgery.targets import resolve_target

EXPECTED = {
    "BatchedNMSDynamic_TRT",
    "EfficientNMS_Explicit_TF_TRT",
    "EfficientNMS_TRT",
    "GridAnchorRect_TRT",
    "GridAnchor_TRT",
    "MultiClassNMS",
    "NMS_TRT",
}


def edit(folder: Path, file: str, old: str, new: str) -> None:
    path = folder / "Twice" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_shipped_plugins_are_there() -> None:
    registry = Registry.load()
    assert set(registry.names()) >= EXPECTED
    assert registry.names() == sorted(registry.names())


def test_a_users_folder_loads_like_a_shipped_one(user_plugins: Path) -> None:
    for path in (user_plugins, user_plugins / "Twice"):
        registry = Registry.load([path])
        twice = registry.get("Twice")
        (y,) = run(sample_model(twice, twice.samples[0]), sample_inputs(twice.samples[0]))
        np.testing.assert_array_equal(y, sample_inputs(twice.samples[0])[0] * 2 + np.float32(1.5))
        assert set(registry.names()) >= EXPECTED | {"Twice"}
    assert Registry.load([user_plugins], shipped=False).names() == ["Twice"]


def test_a_users_plugin_replaces_a_shipped_one(user_plugins: Path) -> None:
    edit(user_plugins, "plugin.yaml", "name: Twice", "name: NMS_TRT")
    assert Registry.load([user_plugins]).get("NMS_TRT").file.summary.startswith("Multiplies")


def test_versions(user_plugins: Path) -> None:
    second = user_plugins / "Twice10"
    second.mkdir()
    for file in ("plugin.yaml", "body.py", "samples.yaml", "README.md"):
        text = (user_plugins / "Twice" / file).read_text()
        (second / file).write_text(text.replace('version: "1"', 'version: "10"'))
    registry = Registry.load([user_plugins], shipped=False)
    assert [d.version for d in registry.definitions()] == ["1", "10"]
    assert registry.get("Twice").version == "10"
    assert registry.get("Twice", "1").version == "1"
    with pytest.raises(ConfigError, match="no version '2', only 1, 10"):
        registry.get("Twice", "2")


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        Registry.load().get("EfficientNMS")
    assert "'EfficientNMS_TRT'" in str(caught.value)
    assert Registry.load().find("EfficientNMS") is None


@pytest.mark.parametrize(
    ("old", "new", "line", "column", "words"),
    [
        ("summary: Mult", "sumary: Mult", 4, 1, "sumary: unknown key; did you mean 'summary'?"),
        (
            "    default: 0.0",
            "    defalt: 0.0",
            8,
            5,
            "attributes.offset.defalt: unknown key; did you mean 'default'?",
        ),
        ("type: float", "type: double", 7, 11, "attributes.offset.type: must be 'int', 'bool', 'float'"),
        ("default: 0.0", "default: text", 7, 5, "the default is 'text'; expected float"),
        ('since: "10.0"', "since: ten", 17, 15, "'ten' is not a version number in quotes"),
        ("interface: IPluginV3", "interface: IPluginV9", 17, 71, "interface"),
        ("kind: values", "kind: picture", 19, 3, "picture"),
        ("name: Twice", "name: Twice__2", 1, 7, "may not end in __<number>"),
        ("summary: Multiplies", "summary: [a", 5, 11, "not valid YAML"),
    ],
)
def test_a_wrong_definition_is_told_where(
    user_plugins: Path, old: str, new: str, line: int, column: int, words: str
) -> None:
    edit(user_plugins, "plugin.yaml", old, new)
    with pytest.raises(ConfigError) as caught:
        Registry.load([user_plugins])
    (complaint,) = (t for t in str(caught.value).splitlines() if f"plugin.yaml:{line}:{column}: " in t)
    assert words in complaint


def test_all_complaints_are_given(user_plugins: Path) -> None:
    edit(user_plugins, "plugin.yaml", "type: float", "type: double")
    edit(user_plugins, "plugin.yaml", "summary:", "sumary:")
    with pytest.raises(ConfigError) as caught:
        Registry.load([user_plugins])
    text = str(caught.value)
    assert "sumary" in text
    assert "summary: missing" in text
    assert "attributes.offset.type" in text


@pytest.mark.parametrize("file", ["body.py", "samples.yaml", "README.md"])
def test_every_file_is_needed(user_plugins: Path, file: str) -> None:
    (user_plugins / "Twice" / file).unlink()
    with pytest.raises(ConfigError, match=f"no {file}"):
        Registry.load([user_plugins])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("x = 1 / 0", "ZeroDivisionError"),
        ("def bodi(node): ...", "does not define a function body"),
        ("import no_such_module_at_all", "ModuleNotFoundError"),
        ("def body(", "SyntaxError"),
    ],
)
def test_a_body_that_does_not_load(user_plugins: Path, body: str, words: str) -> None:
    (user_plugins / "Twice" / "body.py").write_text(body)
    with pytest.raises(ConfigError, match=words) as caught:
        Registry.load([user_plugins])
    assert re.search(r"body\.py(:1)?$", str(caught.value.where))


def test_a_sample_the_definition_does_not_allow(user_plugins: Path) -> None:
    edit(user_plugins, "samples.yaml", "offset: 1.5", "ofset: 1.5")
    with pytest.raises(ConfigError, match="sample 'plain': unknown attribute 'ofset'; did you mean 'offset'"):
        Registry.load([user_plugins])


def test_repeated_outputs_need_types(user_plugins: Path) -> None:
    edit(user_plugins, "plugin.yaml", "shape: [B, N]}", "repeated: true}")
    with pytest.raises(ConfigError, match="output_types"):
        Registry.load([user_plugins])


def test_folders_without_plugins(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no plugin"):
        Registry.load([tmp_path])
    with pytest.raises(ConfigError, match="no such folder"):
        Registry.load([tmp_path / "none"])


def test_shipped_folders() -> None:
    assert (shipped_dir("plugins") / "NMS_TRT" / "plugin.yaml").is_file()
    with pytest.raises(FileNotFoundError, match="nothing_like_it"):
        shipped_dir("nothing_like_it")


NODE = helper.make_node("Twice", ["x"], ["y"], name="twice", domain=PLUGIN_DOMAIN, offset=1.0)

HEAD = "from surgery.graph.body import Body\n\n"


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        (
            "b = Body(node.opset)\n    return node.function(b, [b.maximumm('x', 'x')])",
            5,
            "AttributeError: 'Body'",
        ),
        ("b = Body()", 4, "TypeError: "),
        ("raise ValueError('what\\nnext')", 4, "ValueError: what next"),
        ("return helper(node)", 4, "NameError: name 'helper' is not defined"),
        ("Body(node.opset)", 3, "body of plugin Twice gives None; it has to give an onnx.FunctionProto"),
        ("return 3", 3, "body of plugin Twice gives int 3; it has to give"),
        ("b = Body(node.opset)\n    return node.function(b, [])", 3, "nothing computes 'y'"),
        ("b = Body(node.opset)\n    return node.function(b, ['what'])", 3, "input 'what' of node"),
        (
            "b = Body(node.opset)\n    return node.function(b, [b.op('Maxx', 'x')])",
            3,
            "No Op registered for Maxx",
        ),
        (
            "b = Body(node.opset)\n    return node.function(b, [b.op('Relu', 'x', u=1)])",
            3,
            "attribute: u for",
        ),
    ],
)
def test_a_mistake_in_a_body_is_told_with_its_line(
    user_plugins: Path, body: str, line: int, words: str
) -> None:
    path = user_plugins / "Twice" / "body.py"
    path.write_text(f"{HEAD}def body(node):\n    {body}\n")
    definition = Registry.load([user_plugins]).get("Twice")
    with pytest.raises(ConfigError) as caught:
        definition.body(NODE, [(2, 3)], ["float32"], 17)
    error = caught.value
    assert (error.code, error.exit_code, error.where) == ("bad-definition", 2, f"{path}:{line}")
    assert words in error.message


@pytest.mark.parametrize(
    ("function", "line", "words"),
    [
        ("def output_types(node):\n    return node.input[0]", 8, "AttributeError: "),
        ("def output_types(node):\n    return None", 7, "output_types of plugin Twice gives None"),
        ("def repair(attributes):\n    return attributes['it']", 8, "KeyError: 'it'"),
        ("def repair(attributes):\n    return {}", 7, "it has to give a dict of the attributes that change"),
        ("def fit(body, names, attributes, types):\n    return names.nothing", 8, "AttributeError: 'list'"),
        ("def fit(body, names, attributes):\n    return None", 7, "TypeError: "),
        ("def fit(body, names, attributes, types):\n    return 'x'", 7, "it has to give a Fitted, or None"),
        (
            "def fit(body, names, attributes, types):\n    from surgery.plugins.fitting import Fitted\n"
            "    return Fitted((('far', types[0]),), '')",
            7,
            "there is no 'far'",
        ),
        ("def successor(node, target):\n    return 1 / 0", 8, "ZeroDivisionError: division by zero"),
        ("def successor(node, target):\n    return [3]", 7, "a list of Successor or str"),
    ],
)
def test_a_mistake_in_another_function_is_told_with_its_line(
    user_plugins: Path, function: str, line: int, words: str
) -> None:
    path = user_plugins / "Twice" / "body.py"
    path.write_text(
        f"{HEAD}def body(node):\n    b = Body(node.opset)\n"
        f"    return node.function(b, [b.add('x', 'x')])\n\n{function}\n".replace("\n\n\n", "\n")
    )
    definition = Registry.load([user_plugins]).get("Twice")
    types = [TensorType("float32", (2, 3))]
    calls = {
        "output_types": lambda: definition.output_types(NODE, types),
        "repair": lambda: definition.repaired({}),
        "fit": lambda: definition.fitted(Body(17), ["given"], {}, types),
        "successor": lambda: definition.successors(
            definition.configure(NODE, types), resolve_target("tensorrt-11.4")
        ),
    }
    with pytest.raises(ConfigError) as caught:
        calls[function.split("(")[0].removeprefix("def ")]()
    error = caught.value
    assert (error.code, error.exit_code, error.where) == ("bad-definition", 2, f"{path}:{line}")
    assert words in error.message


@pytest.mark.parametrize(
    ("check", "words"),
    [
        ("return attributes.scale", "AttributeError: 'dict'"),
        ("return 'bad'", "a list of problems, each a str"),
    ],
)
def test_a_mistake_in_a_check_is_told_when_the_folder_is_read(
    user_plugins: Path, check: str, words: str
) -> None:
    with (user_plugins / "Twice" / "body.py").open("a") as file:
        file.write(f"\n\ndef check(attributes, types):\n    {check}\n")
    with pytest.raises(ConfigError) as caught:
        Registry.load([user_plugins])
    assert caught.value.code == "bad-definition"
    assert "body.py:1" in str(caught.value.where)
    assert words in caught.value.message


def test_a_refusal_of_a_body_is_what_it_was(user_plugins: Path) -> None:
    path = user_plugins / "Twice" / "body.py"
    path.write_text("def body(node):\n    raise node.refuse('not for this', fix='another')\n")
    with pytest.raises(ConversionError) as caught:
        Registry.load([user_plugins]).get("Twice").body(NODE, [(2, 3)], ["float32"], 17)
    assert (caught.value.code, caught.value.fix) == ("plugin-body", "another")


def test_a_run_with_a_mistake_in_a_body(user_plugins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command names the file and the line, and calls it no bug of surgery's."""
    path = user_plugins / "Twice" / "body.py"
    path.write_text(path.read_text().replace("b.add", "b.addd"))
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Twice", ["x"], ["y"], name="twice", domain="mine")], "g",
            [helper.make_tensor_value_info("x", 1, [2, 3])], [helper.make_tensor_value_info("y", 1, [2, 3])],
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)], ir_version=8,
    )  # fmt: skip
    file = user_plugins.parent / "m.onnx"
    file.write_bytes(model.SerializeToString())
    out = user_plugins.parent / "out"
    command = ["run", "migrate", str(file), "--plugin-path", str(user_plugins), "--target", "tensorrt-10.16"]
    assert main([*command, "--output", str(out)]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "error[bad-definition]" in told
    assert "body.py:9: AttributeError: 'Body' object has no attribute 'addd'" in told
    assert "for node 'twice'" in told
