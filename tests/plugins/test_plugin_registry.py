"""Loading plugin folders: shipped ones, a user's own, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from runtime import run

from surgery._data_dirs import shipped_dir
from surgery.errors import ConfigError
from surgery.plugins.registry import Registry
from surgery.plugins.samples import sample_inputs, sample_model

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
    assert str(caught.value.where).endswith("body.py")


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
