"""Pipelines: what is right, and where and how each thing that is wrong is reported."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from surgery.config import PipelineConfig, apply_overrides, based_on, list_pipelines, load_pipeline
from surgery.config_schema import pipeline_schema, stage_schema
from surgery.errors import ConfigError
from surgery.stages import STAGES
from surgery.stages.build import Build
from surgery.stages.fold import Fold

GOOD = {
    "schema": 1,
    "name": "mine",
    "cuts": {"head": {"scope": "Postprocessor", "grow": "forward"}},
    "stages": [{"fold": {"record": ["head"]}}, "parse", {"build": {"tf32": True}}, "save"],
}


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(dedent(text).lstrip("\n"), encoding="utf-8")
    return path


def fails(folder: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_pipeline(write(folder, text))
    assert caught.value.exit_code == 2
    return caught.value


# -- what is right --------------------------------------------------------------------------------------


def test_a_mapping_is_checked_like_a_file() -> None:
    config = PipelineConfig.model_validate(GOOD)
    fold, parse, build, save = config.build_stages()
    assert fold == Fold(record=("head",))
    assert build == Build(tf32=True)
    assert [s.name for s in (parse, save)] == ["parse", "save"]
    assert config.cuts["head"].scope == ("Postprocessor",)
    assert config.cuts["head"].required
    assert config.model_path() is None
    assert len(config.sha256) == 64


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "model: nets/a.onnx\nplugin_path: [mine, /opt/p]\nstages: [parse]\n")
    config = load_pipeline(path)
    assert config.model_path() == tmp_path / "nets/a.onnx"
    assert config.plugin_folders() == [tmp_path / "mine", Path("/opt/p")]
    assert config.name == "mine"


def test_the_hash_is_of_the_files_bytes(tmp_path: Path) -> None:
    import hashlib

    path = write(tmp_path, "stages: [parse] # a comment\n")
    assert load_pipeline(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", [p.name for p in list_pipelines()])
def test_shipped_pipelines_are_right(name: str) -> None:
    config = load_pipeline(name)
    assert config.name == name
    assert config.title
    names = [s.name for s in config.build_stages()]
    assert names == [s for s in STAGES if s in names]
    # Stages name only cuts that are there.
    text = json.dumps(config.source.data["stages"])
    for key in ("cut", "record"):
        for cut in _values(json.loads(text), key):
            assert cut in config.cuts


def _values(data: Any, key: str) -> list[str]:
    if isinstance(data, list):
        return [v for item in data for v in _values(item, key)]
    if not isinstance(data, dict):
        return []
    found = [v for k, v in data.items() if k == key for v in (v if isinstance(v, list) else [v])]
    return found + [v for item in data.values() for v in _values(item, key)]


def test_ssd_is_shipped() -> None:
    assert "ssd" in [p.name for p in list_pipelines()]


# -- what is wrong --------------------------------------------------------------------------------------

CASES = [
    ("unknown key", "nam: x\nstages: [parse]\n", "1:1", "nam: unknown key; did you mean 'name'?"),
    (
        "unknown key in a cut",
        "cuts:\n  head:\n    scop: P\nstages: [parse]\n",
        "3:5",
        "cuts.head.scop: unknown key; did you mean 'scope'?",
    ),
    (
        "unknown option",
        "stages:\n  - fold\n  - build:\n      tf23: true\n",
        "4:7",
        "build.tf23: unknown key; did you mean 'tf32'?",
    ),
    (
        "unknown option of an option",
        "stages:\n  - substitute:\n      detections: {cut: head, plugn: auto}\n",
        "3:31",
        "substitute.detections.plugn: unknown key; did you mean 'plugin'?",
    ),
    ("unknown stage", "stages:\n  - biuld\n", "2:5", "unknown stage 'biuld'; did you mean 'build'?"),
    (
        "unknown stage with options",
        "stages:\n  - optimize: {level: 3}\n",
        "2:5",
        f"unknown stage 'optimize'; stages: {', '.join(STAGES)}",
    ),
    (
        "wrong type",
        "stages:\n  - build:\n      optimization_level: high\n",
        "3:27",
        "build.optimization_level: must be an integer, got the text 'high'",
    ),
    ("text for a flag", 'stages:\n  - build: {tf32: "true"}\n', "2:19", "build.tf32: must be true or false"),
    ("YAML 1.1 flag", "stages:\n  - build: {tf32: yes}\n", "2:19", "; write true"),
    (
        "out of range",
        "stages:\n  - build: {optimization_level: 9}\n",
        "2:33",
        "build.optimization_level: must be less than or equal to 5",
    ),
    (
        "wrong choice",
        "stages:\n  - substitute:\n      anchors: {emit: plugins}\n",
        "3:23",
        "must be 'constant' or 'plugin', got the text 'plugins'; did you mean 'plugin'?",
    ),
    ("missing option", "stages:\n  - substitute: {detections: {}}\n", "2:18", "detections.cut: missing"),
    ("no stages", "name: x\n", "1:1", "stages: missing"),
    ("wrong schema", "schema: 2\nstages: [parse]\n", "1:9", "schema: must be 1, got 2"),
    ("two stages in one item", "stages:\n  - fold: {}\n    parse: {}\n", "2:5", "'fold', 'parse'"),
    ("order", "stages:\n  - build\n  - parse\n", "3:5", "the stage 'parse' must come before 'build'"),
    ("cut without boundary", "cuts:\n  head: {grow: back}\nstages: [parse]\n", "2:3", "has neither"),
    ("cut with both", "cuts:\n  head: {scope: P, inputs: [a]}\nstages: [parse]\n", "2:3", "has both"),
    (
        "min above opt",
        "profiles:\n  x: {min: [1, 4], opt: [1, 2], max: [1, 8]}\nstages: [parse]\n",
        "2:16",
        "profiles.x.min: min 4 is greater than opt 2 in dimension 1",
    ),
    (
        "opt above max",
        "profiles:\n  x: {min: [1], opt: [9], max: [8]}\nstages: [parse]\n",
        "2:23",
        "profiles.x.opt: opt 9 is greater than max 8 in dimension 0",
    ),
    (
        "ranks differ",
        "profiles:\n  x: {min: [1], opt: [1, 2], max: [8]}\nstages: [parse]\n",
        "2:22",
        "profiles.x.opt: has rank 2, but min has rank 1",
    ),
    ("dim 0", "profiles:\n  x: {min: [0], opt: [1], max: [8]}\nstages: [parse]\n", "2:13", "greater than 0"),
    ("key twice", "name: a\nname: b\nstages: [parse]\n", "2:1", "the key 'name' is here twice; first at 1:1"),
    ("a list", "- parse\n", "1:1", "must hold keys and values, but holds a list"),
    ("empty", "# nothing\n", "1:1", "the file is empty"),
    ("syntax", "stages: [parse\nname: x\n", "2:5", "not valid YAML"),
    ("tab", "stages:\n\t- parse\n", "2:1", "not valid YAML"),
    ("a tag", "name: !!python/name:os.system x\nstages: [parse]\n", "1:7", "is not allowed here"),
]


@pytest.mark.parametrize(("text", "place", "message"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_problem_has_line_and_column(tmp_path: Path, text: str, place: str, message: str) -> None:
    error = fails(tmp_path, text)
    assert error.where == f"{tmp_path / 'mine.yaml'}:{place}"
    assert message in error.message


def test_all_problems_are_reported_at_once_in_the_files_order(tmp_path: Path) -> None:
    error = fails(
        tmp_path,
        """
        nam: x
        cuts:
          head: {scope: P, gorw: back}
        profiles:
          x: {min: [2], opt: [1], max: [3]}
        stages:
          - flod
          - build: {tf32: 1}
        """,
    )
    path = tmp_path / "mine.yaml"
    first, *rest = error.message.splitlines()
    assert error.where == f"{path}:1:1"
    assert first.startswith("nam: unknown key")
    assert [line.split(": ")[0] for line in rest] == [f"{path}:{p}" for p in ("3:20", "5:13", "7:5", "8:19")]


def test_no_such_pipeline_suggests_the_near_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no pipeline named 'sdd'") as caught:
        load_pipeline("sdd")
    assert caught.value.fix == "did you mean 'ssd'?"
    path = write(tmp_path, "stages: [parse]\n")
    with pytest.raises(ConfigError) as caught:
        load_pipeline(tmp_path / "mien.yaml")
    assert caught.value.fix == f"did you mean {str(path)!r}?"


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load_pipeline(tmp_path / "a.yaml")


def test_aliases_cannot_blow_up(tmp_path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefg", "bcdefgh", strict=True)]
    assert "aliases" in fails(tmp_path, "\n".join(lines)).message


# -- overrides ------------------------------------------------------------------------------------------


def change(**values: Any) -> PipelineConfig:
    return apply_overrides(
        PipelineConfig.model_validate(GOOD), {k.replace("__", "."): v for k, v in values.items()}
    )


def test_overrides_are_yaml_text_or_values() -> None:
    config = change(build__tf32="false", fold__max_bytes=7, build__optimization_level="3")
    fold, _, build, _ = config.build_stages()
    assert fold == Fold(record=("head",), max_bytes=7)
    assert build == Build(tf32=False, optimization_level=3)


def test_overrides_reach_into_options_of_options() -> None:
    config = apply_overrides(
        PipelineConfig.model_validate({"stages": ["substitute"]}),
        {"substitute.anchors.emit": "plugin", "substitute.detections": {"cut": "head"}},
    )
    (stage,) = config.build_stages()
    assert stage.anchors.emit == "plugin"  # type: ignore[attr-defined]
    assert stage.detections.cut == "head"  # type: ignore[attr-defined]


def test_overrides_change_the_hash_and_leave_the_original_alone() -> None:
    config = PipelineConfig.model_validate(GOOD)
    changed = apply_overrides(config, {"build.tf32": "false"})
    assert changed.sha256 != config.sha256
    assert config.build_stages()[2] == Build(tf32=True)
    assert apply_overrides(config, {}).sha256 == config.sha256


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("build.tf23", "true", "did you mean 'tf32'?"),
        ("biuld.tf32", "true", "did you mean 'build'?"),
        ("verify.cases", "3", "this pipeline has no stage 'verify'"),
        ("build", "3", "name an option of it"),
        ("build.tf32", "maybe", "must be true or false, got the text 'maybe'"),
        ("build.tf32", "[", "not valid YAML"),
        ("build..tf32", "true", "not a key"),
        ("build.tf32.deeper", "true", "has no keys below it"),
    ],
)
def test_a_wrong_override_names_its_option(key: str, value: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides(PipelineConfig.model_validate(GOOD), {key: value})
    assert caught.value.where == f"--set {key}"
    assert text in f"{caught.value.message} {caught.value.fix}"


# -- schema ---------------------------------------------------------------------------------------------


def test_the_schema_has_every_stage_with_descriptions() -> None:
    schema = pipeline_schema()
    items = schema["properties"]["stages"]["items"]["anyOf"]
    assert items[0] == {"enum": list(STAGES)}
    assert list(items[1]["properties"]) == list(STAGES)
    for name in STAGES:
        for option in stage_schema(name).get("properties", {}).values():
            assert option["description"]
    assert all(p["description"] for p in schema["properties"].values())
    json.dumps(schema)


def test_the_schema_names_nothing_it_does_not_define() -> None:
    schema = pipeline_schema()
    refs = set(_values(schema, "$ref"))
    assert refs
    assert {r.removeprefix("#/$defs/") for r in refs} <= set(schema["$defs"])


def test_extends_takes_over_and_overrides_by_key(tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text(
        "schema: 1\nprofiles:\n  a: {min: [1], opt: [2], max: [3]}\n  b: {min: [1], opt: [2], max: [3]}\n"
        "stages:\n  - parse\n  - build: {seconds: 5}\n  - verify\n"
    )
    own = tmp_path / "own.yaml"
    own.write_text(
        "schema: 1\nextends: base.yaml\nprofiles:\n  b: {min: [4], opt: [4], max: [4]}\nset:\n"
        "  build.optimization_level: 2\n"
    )
    config = load_pipeline(own)
    assert config.name == "own"
    assert config.profiles["a"].opt == (2,)
    assert config.profiles["b"].opt == (4,)
    build = config.stages[1]
    assert (build.seconds, build.optimization_level) == (5, 2)  # type: ignore[attr-defined]
    assert config.sha256 != load_pipeline(base).sha256


def test_extends_points_at_the_file_that_is_wrong(tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text("schema: 1\nstages:\n  - parse\n  - build: {seconds: -1}\n")
    own = tmp_path / "own.yaml"
    own.write_text("schema: 1\nextends: base.yaml\n")
    with pytest.raises(ConfigError) as caught:
        load_pipeline(own)
    assert str(caught.value.where).startswith(f"{base}:4:")
    own.write_text("schema: 1\nextends: own.yaml\n")
    with pytest.raises(ConfigError, match="in turn"):
        load_pipeline(own)
    own.write_text("schema: 1\nextends: genric\n")
    with pytest.raises(ConfigError) as caught:
        load_pipeline(own)
    assert caught.value.where == f"{own}:2:10"
    own.write_text("schema: 1\nextends: generic\nset:\n  bild.seconds: 3\n")
    with pytest.raises(ConfigError) as caught:
        load_pipeline(own)
    assert caught.value.where == f"{own}:4:3"


def test_the_choice_of_a_base_can_be_left_open() -> None:
    config = PipelineConfig.model_validate(
        {
            "schema": 1,
            "choose": True,
            "profiles": {"x": {"min": [1], "opt": [1], "max": [1]}},
            "stages": ["parse"],
        }
    )
    made = based_on(config, "detr")
    assert made.name == "detr"
    assert made.profiles["x"].opt == (1,)
    assert [s.name for s in made.stages] == [s.name for s in load_pipeline("detr").stages]


# -- all at once ----------------------------------------------------------------------------------------


def test_mistakes_of_set_hide_no_others_and_none_hides_them(tmp_path: Path) -> None:
    error = fails(
        tmp_path,
        """
        extends: generic
        titel: x
        profiles:
          x: {min: [1, 0], opt: [2], max: [4, 4]}
        set:
          verify.case: 3
          biuld.tf32: true
          build: 3
          build.tf32: maybe
          fold..max_bytes: 1
          fold.max_bytes: -1
          substitute.detections.foo: 3
        """,
    )
    assert error.code == "bad-pipeline"
    path = tmp_path / "mine.yaml"
    lines = f"{error.where}: {error.message}".splitlines()
    for line, place, said in (
        (2, 1, "titel: unknown key; did you mean 'title'?"),
        (4, 3, "profiles.x: min has rank 2, opt has rank 1"),
        (4, 16, "profiles.x.min[1]: must be greater than 0, got 0"),
        (6, 3, "verify.case: unknown key; did you mean 'cases'?"),
        (7, 3, "neither a stage nor a key: 'biuld'; did you mean 'build'?"),
        (8, 3, "'build' is a stage; name an option of it"),
        (9, 3, "build.tf32: must be true or false"),
        (10, 3, "not a key: 'fold..max_bytes'; write STAGE.OPTION"),
        (11, 3, "fold.max_bytes: must be greater than 0"),
        (12, 3, "substitute.detections.foo: unknown key"),
    ):
        assert [text for text in lines if text.startswith(f"{path}:{line}:{place}: {said}")], (line, lines)
    assert all(text.startswith(f"{path}:") for text in lines), lines


def test_a_base_that_is_not_there_hides_no_mistakes_of_the_file(tmp_path: Path) -> None:
    error = fails(tmp_path, "extends: genericc\ntitel: x\nset: {verify.case: 3, verify.cases: 3}\n")
    lines = error.message.splitlines()
    assert lines[0] == "extends: no pipeline named 'genericc'; did you mean 'generic'?"
    assert [line.rsplit(":", 2)[1:] for line in lines[1:]] == [
        [" titel", " unknown key; did you mean 'title'?"],
        [" verify.case", " unknown key; did you mean 'cases'?"],
    ]


def test_mistakes_of_a_file_and_of_its_base_are_said_together(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("extends: generic\nset: {biuld.tf32: true}\n")
    error = fails(tmp_path, "extends: base.yaml\nset: {verify.case: 3}\n")
    assert "mine.yaml:2:7" in (error.where or "")
    assert f"{tmp_path / 'base.yaml'}:2:7: neither a stage nor a key: 'biuld'" in error.message


def test_a_circle_of_bases_is_shown(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("extends: mine.yaml\n")
    error = fails(tmp_path, "extends: other.yaml\n")
    assert (error.code, error.where) == ("pipeline-cycle", f"{tmp_path / 'other.yaml'}:1:10")
    assert "mine.yaml -> other.yaml -> mine.yaml" in error.message
    assert error.fix is not None


def test_a_key_that_is_there_twice_hides_no_mistakes(tmp_path: Path) -> None:
    error = fails(tmp_path, "stages: [fold]\nstages: [save]\ntitel: x\n")
    assert "the key 'stages' is here twice; first at 1:1" in error.message
    assert "titel: unknown key" in error.message


def test_an_order_is_complained_about_where_the_stage_is(tmp_path: Path) -> None:
    error = fails(tmp_path, "stages:\n  - save\n  - fold\nset: {fold.max_bytes: 3}\n")
    assert (error.where or "").endswith("mine.yaml:3:5")
    assert error.message == "the stage 'fold' must come before 'save'"


def test_all_mistakes_of_options_are_said(tmp_path: Path) -> None:
    config = load_pipeline(write(tmp_path, "stages: [fold, save]\n"))
    with pytest.raises(ConfigError) as caught:
        apply_overrides(config, {"fold.max_byte": "3", "build.tf32": "true", "fold.record": "{"})
    text = f"{caught.value.where}: {caught.value.message}"
    assert "--set fold.max_byte: unknown key; did you mean 'max_bytes'?" in text
    assert "--set build.tf32: this pipeline has no stage 'build'; its stages: fold, save" in text
    assert "--set fold.record: not valid YAML" in text
