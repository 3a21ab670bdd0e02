"""The command line from outside: exit codes, what goes to which stream, and texts kept in golden files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from surgery._data_dirs import shipped_dir

Golden = Callable[[str, str], None]
SHIPPED = shipped_dir("pipelines").parent


def surgery(*arguments: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "COLUMNS")}
    return subprocess.run(
        [sys.executable, "-m", "surgery", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={
            **environment,
            "COLUMNS": "100",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "TERM": "dumb",
        },
    )


def plain(text: str, folder: Path | None = None) -> str:
    """Without what differs between machines."""
    if folder is not None:
        text = text.replace(str(folder), "FOLDER")
    return text.replace(str(SHIPPED), "SHIPPED")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """relu(x) + 1 with a free batch."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x:0"], ["r"]), helper.make_node("Add", ["r", "one"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x:0", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [onnx.numpy_helper.from_array(np.ones(3, np.float32), "one")],
    )
    path = tmp_path / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def pipeline(folder: Path, text: str = "schema: 1\nstages: [inspect, fold, save]\n") -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# -- help, list, show -----------------------------------------------------------------------------------


OPTIONS = {
    "": ["--version", "run", "build", "verify", "inspect", "explain", "reduce", "diff", "doctor", "list",
        "show", "70 bug"],
    "inspect": ["MODEL", "--target", "--parser", "--json"],
    "explain": ["MODEL", "--target", "--log", "--shape", "--workspace-mib", "--seconds", "--json"],
    "reduce": [
        "MODEL", "--while", "--check", "--match", "--fail-code", "--output", "--target", "--shape", "--inputs",
        "--random-weights", "--seconds", "--memory-mib", "--tolerance", "--most-checks", "--jobs", "--canary",
        "--seed", "--json",
    ],
    "diff": ["A", "B", "--weights", "--json"],
    "doctor": ["--json"],
    "run": [
        "--target", "--output", "--inputs", "--constant", "--shape", "--stages", "--require", "--plugin-path",
        "--set", "--json",
    ],
    "build": ["--target", "--output", "--shape", "--plugin-path", "--set", "--json"],
    "verify": ["DIR", "--model", "--inputs", "--plugin-path", "--json"],
    "list": ["NOUN", "--target", "--model", "--plugin-path", "--json"],
    "new": ["NOUN", "NAME", "--output"],
    "show": ["NOUN", "--schema"],
}  # fmt: skip


@pytest.mark.parametrize("command", OPTIONS)
def test_help_names_every_option(command: str) -> None:
    # No golden file: the layout of these pages changes with the version of typer.
    done = surgery(*command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for option in OPTIONS[command]:
        assert option in done.stdout


def test_no_option_is_left_to_be_named_after_its_metavar() -> None:
    """Typer 0.27 makes `--TARGET` of a parameter `target` with that metavar, unless the name is said."""
    import inspect
    from typing import get_args

    from typer.models import OptionInfo

    from surgery.cli.app import app

    seen = 0
    for command in app.registered_commands:
        assert command.callback is not None
        # Not get_type_hints: Python 3.10 wraps Optional around a hint whose default is None.
        parameters = inspect.signature(inspect.unwrap(command.callback), eval_str=True).parameters
        for name, parameter in parameters.items():
            for info in get_args(parameter.annotation)[1:]:
                if isinstance(info, OptionInfo) and (info.metavar or "").lower() == name:
                    assert f"--{name}" in (info.default, *info.param_decls), (command.name, name)
                    seen += 1
    assert seen


@pytest.mark.parametrize(
    "arguments",
    [
        "list stages",
        "show stages build",
        "show stages substitute",
        "show stages parse",
        "show plugins ROIAlign_TRT",
        "show plugins Split",
        "show plugins EfficientNMS_Explicit_TF_TRT",
        "list plugins --target tensorrt-11.4",
        "show rules value-of-optional",
        "show rules layer-normalization",
        "show rules transpose-of-transpose",
    ],
)
def test_list_and_show(arguments: str, golden: Golden) -> None:
    done = surgery(*arguments.split())
    assert (done.returncode, done.stderr) == (0, "")
    golden(arguments.replace(" --", " ").replace(" ", "-"), plain(done.stdout))


def test_the_list_of_rules_fits_a_terminal_and_json_has_it_whole() -> None:
    shown, data = surgery("list", "rules"), surgery("list", "rules", "--json")
    rules = json.loads(data.stdout)
    assert max(map(len, shown.stdout.splitlines())) <= 120
    assert [r["name"] for r in rules] == re.findall(
        r"^([\w-]+) +(?:always|where|on)", shown.stdout, re.MULTILINE
    )
    words = shown.stdout.split()
    assert all(set(r["why"].split()) <= set(words) for r in rules)
    longest = max(rules, key=lambda r: len(r["operators"]))
    assert longest["operators"] not in shown.stdout
    named = longest["operators"].split(" and ")[0].split(", ")
    detail = surgery("show", "rules", longest["name"]).stdout
    assert all(name in detail for name in named)


def plugin_model(path: Path, op: str = "LReLU_TRT", **attributes: object) -> Path:
    given = attributes or {"negSlope": 0.1}
    node = helper.make_node(op, ["x"], ["y"], name="node", plugin_version="1", **given)
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3, 4, 4]) for n in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_the_advisor_lists_what_becomes_of_the_plugin_nodes(tmp_path: Path, model: Path) -> None:
    path = plugin_model(tmp_path / "m.onnx")
    done = surgery("list", "plugins", "--model", path, "--target", "tensorrt-11.4")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "node  plugin     version  becomes         why",
        "node  LReLU_TRT  1        is written out  tensorrt 11.4 does not have it; removed in 11.0",
    ]
    rows = json.loads(
        surgery("list", "plugins", "--model", path, "--target", "tensorrt-rtx", "--json").stdout
    )
    assert [(r["node"], r["plugin"], r["becomes"]) for r in rows] == [("node", "LReLU_TRT", "is written out")]
    assert surgery("list", "plugins", "--model", model).stdout == "no plugin nodes\n"
    odd = surgery("list", "plugins", "--model", plugin_model(tmp_path / "odd.onnx", "LReLUU_TRT"))
    assert odd.returncode == 0
    assert "unknown" in odd.stdout
    assert "LReLU_TRT" in odd.stdout.splitlines()[1].partition("near names")[2]


def test_a_new_plugin_works_as_it_is_made(tmp_path: Path) -> None:
    """The folder's own test, the listing, the check of a wrong attribute, and a run, with nothing changed in it."""
    made = surgery("new", "plugin", "Scaled", "--output", "mine", folder=tmp_path)
    assert (made.returncode, made.stderr) == (0, "")
    folder = tmp_path / "mine" / "Scaled"
    assert {p.name for p in folder.iterdir()} == {
        "plugin.yaml", "body.py", "samples.yaml", "README.md", "test_Scaled.py"
    }  # fmt: skip
    own = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert own.returncode == 0, own.stdout
    assert "5 passed" in own.stdout
    listed = surgery("list", "plugins", "--plugin-path", tmp_path / "mine").stdout
    assert re.search(r"^Scaled +1 +Multiplies by a number", listed, re.MULTILINE)
    good = plugin_model(tmp_path / "good.onnx", "Scaled", scale=2.0)
    run = surgery(
        "run", "migrate", good, "--plugin-path", folder, "--stages", "load..substitute,verify",
        "--target", "tensorrt-10.16", "--json", folder=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert [e["rule"] for e in report["edits"]] == ["write-out-plugin"]
    assert report["verification"]["graph"]["status"] == "passed"
    pipeline(tmp_path, "schema: 1\nplugin_path: mine\nstages: [rewrite: {migrate: true}, substitute]\n")
    by_file = surgery("run", "mine.yaml", good, "--target", "tensorrt-10.16", "--json", folder=tmp_path)
    assert [e["rule"] for e in json.loads(by_file.stdout)["edits"]] == ["write-out-plugin"]
    bad = plugin_model(tmp_path / "bad.onnx", "Scaled", scal=2.0)
    refused = surgery("run", "migrate", bad, "--plugin-path", folder, folder=tmp_path)
    assert refused.returncode == 4
    assert "unknown attribute 'scal'; did you mean 'scale'?" in refused.stderr
    unknown = surgery("run", "migrate", good, folder=tmp_path)
    assert unknown.returncode == 4
    assert "error[unknown-plugin]" in unknown.stderr
    assert "surgery new plugin Scaled --output my_plugins" in " ".join(unknown.stderr.split())


def test_list_pipelines_has_all_that_are_shipped() -> None:
    done = surgery("list", "pipelines")
    assert done.returncode == 0
    assert {p.stem for p in shipped_dir("pipelines").glob("*.yaml")} <= set(done.stdout.split())


def test_what_show_pipelines_prints_is_a_pipeline(tmp_path: Path) -> None:
    from surgery.config import load_pipeline

    shown = surgery("show", "pipelines", "ssd").stdout
    path = shipped_dir("pipelines") / "ssd.yaml"
    assert shown == f"# {path}\n{path.read_text(encoding='utf-8')}"
    copy = tmp_path / "copy.yaml"
    copy.write_text(shown, encoding="utf-8")
    assert load_pipeline(copy).build_stages() == load_pipeline("ssd").build_stages()


def test_targets_say_what_they_take() -> None:
    done = surgery("list", "targets")
    assert done.returncode == 0
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert {"tensorrt-10.16", "tensorrt-11.4", "tensorrt-rtx-1.7"} <= set(names)
    done = surgery("show", "targets", "tensorrt-10.16")
    assert done.returncode == 0
    assert re.search(r"^ +NonMaxSuppression +taken", done.stdout, re.MULTILINE)
    assert re.search(r"^ +EfficientNMS_TRT +version 1", done.stdout, re.MULTILINE)
    done = surgery("show", "targets", "tensorrt-rtx-1.7")
    assert re.search(r"^ +NonMaxSuppression +refused", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    "arguments", ["show targets tensorrt-rxt", "run MINE tiny.onnx --target tensorrt-rxt"]
)
def test_an_unknown_target_suggests_near_ones(arguments: str, workplace: Path) -> None:
    # No golden file: what is installed is suggested too.
    done = surgery(*arguments.replace("MINE", "mine.yaml").split(), folder=workplace)
    assert done.returncode == 2
    assert "unknown target 'tensorrt-rxt'" in done.stderr
    assert re.search(r"did you mean .*tensorrt-rtx-1\.\d", done.stderr)


def test_plugins_are_listed_and_shown() -> None:
    done = surgery("list", "plugins")
    # Long descriptions go on in lines of their own, which begin with spaces.
    rows = [line.split()[:2] for line in done.stdout.splitlines() if not line.startswith(" ")][1:]
    assert rows == sorted(rows)
    assert len({tuple(row) for row in rows}) == len(rows), "one row for each version of a plugin"
    texts = [p.read_text(encoding="utf-8") for p in shipped_dir("plugins").glob("*/plugin.yaml")]
    assert {row[0] for row in rows} == {re.search(r"^name: *(\S+)", t, re.MULTILINE)[1] for t in texts}  # type: ignore[index]
    done = surgery("show", "plugins", "EfficientNMS_TRT")
    assert done.returncode == 0
    assert re.search(r"^ +score_threshold +float", done.stdout, re.MULTILINE)


def test_rules_are_listed(tmp_path: Path) -> None:
    from surgery.rules import shipped_rules

    done = surgery("list", "rules")
    assert done.returncode == 0
    names = [line.split()[0] for line in done.stdout.splitlines() if not line.startswith(" ")][1:]
    assert names == sorted(r.name for r in shipped_rules())
    rows = {r["name"]: r for r in json.loads(surgery("list", "rules", "--json").stdout)}
    assert rows["det-by-elimination"]["form"] == "lowering"
    assert rows["value-of-optional"]["form"] == "pair"
    assert rows["transpose-of-transpose"]["applies"] == "on request"


def test_rules_of_a_file_are_listed_and_shown(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "name: mine\nwhy: Because. And so on.\nbefore: (x) => (y) { r = Relu (x) y = Exp (r) }\n"
        "after: (x) => (y) { y = Exp (x) }\n",
        encoding="utf-8",
    )
    done = surgery("list", "rules", "--rule-file", file)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == ["mine", "always", "Exp,", "Relu", "Because"]
    done = surgery("show", "rules", "mine", "--rule-file", file)
    assert "before:\n  (x) => (y) {\n    r = Relu (x)\n    y = Exp (r)\n  }\n" in done.stdout


def test_the_schema_is_json() -> None:
    done = surgery("show", "pipelines", "--schema")
    assert done.returncode == 0
    assert json.loads(done.stdout)["properties"]["stages"]


def test_version() -> None:
    import surgery as package

    assert surgery("--version").stdout == f"surgery {package.__version__}\n"


# -- what goes wrong ------------------------------------------------------------------------------------

USAGE = {
    "rnu ssd": "No such command",
    "run": "Missing argument",
    "run ssd x.onnx --tarket x": "No such option",
    "run ssd x.onnx --require gpu": "Invalid value for '--require'",
    "list models": "Invalid value for",
}


@pytest.mark.parametrize("arguments", USAGE)
def test_a_usage_error_is_2(arguments: str) -> None:
    done = surgery(*arguments.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error[usage]: {USAGE[arguments]}")
    assert ("surgery run auto MODEL.onnx" in done.stderr) == (arguments == "run")


WRONG = {
    "unknown-pipeline": ("run sdd x.onnx", 2),
    "unknown-pipeline-shown": ("show pipelines sdd", 2),
    "unknown-stage-shown": ("show stages biuld", 2),
    "unknown-plugin-shown": ("show plugins EfficientNMS", 2),
    "target-of-stages": ("list stages --target tensorrt-11.4", 2),
    "plugin-name": ("new plugin 9lives", 2),
    "plugin-folder": ("new plugin deep", 2),
    "unknown-rule-shown": ("show rules value-of-optionals", 2),
    "short-rule-shown": ("show rules nms", 2),
    "no-name": ("show stages", 2),
    "no-model": ("run MINE", 2),
    "missing-model": ("run MINE missing.onnx", 3),
    "text-file": ("run MINE text.onnx", 3),
    "truncated": ("run MINE cut.onnx", 3),
    "unknown-key": ("run unknown-key.yaml tiny.onnx", 2),
    "unknown-stage": ("run unknown-stage.yaml tiny.onnx", 2),
    "min-above-opt": ("run bad-profile.yaml tiny.onnx", 2),
    "unknown-override": ("run MINE tiny.onnx --set fold.max_byte=3", 2),
    "no-override": ("run MINE tiny.onnx --set fold.max_bytes", 2),
    "unknown-part": ("run MINE tiny.onnx --stages inspect..biuld", 2),
    "bad-shape": ("run MINE tiny.onnx --shape x:0=1xthree", 2),
    "no-shape": ("run MINE tiny.onnx --shape x:0", 2),
    "two-shapes": ("run MINE tiny.onnx --shape x:0=1x3:2x3", 2),
    "shape-min-above-opt": ("run MINE tiny.onnx --shape x:0=4x3:2x3:8x3", 2),
    "shape-ranks": ("run MINE tiny.onnx --shape x:0=3:2x3:8x3", 2),
    "shape-zero": ("run MINE tiny.onnx --shape x:0=0x3", 2),
    "no-constant": ("run MINE tiny.onnx --constant x", 2),
    "missing-inputs": ("run MINE tiny.onnx --inputs missing.npz", 2),
    "text-inputs": ("run MINE tiny.onnx --inputs text.onnx", 2),
    "model-is-a-folder": ("run MINE deep", 3),
    "model-is-a-pipeline": ("run MINE unknown-key.yaml", 2),
    "pipeline-is-a-folder": ("run deep tiny.onnx", 2),
    "near-model": ("run MINE tinny.onnx", 3),
    "circle": ("run circle.yaml tiny.onnx", 2),
    "empty-model": ("run MINE empty.onnx", 3),
    "unknown-input-shape": ("run MINE tiny.onnx --shape x=1x3", 2),
    "impossible-shape": ("run MINE tiny.onnx --shape x:0=2x4", 2),
    "output-is-a-file": ("run MINE tiny.onnx --output text.onnx", 2),
}


@pytest.fixture
def workplace(tmp_path: Path, model: Path) -> Path:
    pipeline(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "circle.yaml").write_text("extends: round.yaml\n")
    (tmp_path / "round.yaml").write_text("extends: circle.yaml\n")
    (tmp_path / "text.onnx").write_text("This is not a model.\n" * 20)
    (tmp_path / "cut.onnx").write_bytes(model.read_bytes()[:-20])
    (tmp_path / "unknown-key.yaml").write_text("stages:\n  - fold:\n      max_byte: 3\n")
    (tmp_path / "unknown-stage.yaml").write_text("stages:\n  - biuld\n")
    (tmp_path / "bad-profile.yaml").write_text(
        'profiles:\n  "x:0": {min: [4, 3], opt: [2, 3], max: [8, 3]}\nstages: [parse]\n'
    )
    return tmp_path


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_and_nothing_is_written(name: str, workplace: Path, golden: Golden) -> None:
    arguments, code = WRONG[name]
    before = sorted(workplace.rglob("*"))
    done = surgery(*arguments.replace("MINE", "mine.yaml").split(), folder=workplace)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert sorted(workplace.rglob("*")) == before
    # Causes are in the words of protobuf and numpy.
    lines = [line for line in plain(done.stderr, workplace).splitlines(True) if not line.startswith("cause:")]
    golden(f"wrong-{name}", "".join(lines))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [("run MINE missing.onnx", 3), ("run unknown-key.yaml tiny.onnx", 2), ("build tiny.onnx --shape x", 2)],
)
def test_json_has_the_failure_too(arguments: str, code: int, workplace: Path) -> None:
    done = surgery(*arguments.replace("MINE", "mine.yaml").split(), "--json", folder=workplace)
    assert done.returncode == code
    report = json.loads(done.stdout)
    assert (report["exit_code"], report["status"]) == (code, "failed")
    assert report["failure"]["message"] in done.stderr


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that even root cannot write to")
def test_an_output_folder_that_cannot_be_written(workplace: Path) -> None:
    done = surgery("run", "mine.yaml", "tiny.onnx", "--output", "/proc/self/out", folder=workplace)
    assert done.returncode == 2
    assert done.stderr.startswith("error[output-not-writable]: /proc/self/out: ")


# -- what goes right ------------------------------------------------------------------------------------


def test_a_run_writes_the_model_and_the_report(workplace: Path) -> None:
    done = surgery("run", "mine.yaml", "tiny.onnx", "--shape", "x:0=1x3:2x3:4x3", folder=workplace)
    assert done.returncode == 0, done.stderr
    folder = workplace / "tiny.surgery"
    report = json.loads((folder / "report.json").read_text())
    assert report["exit_code"] == 0
    assert (folder / "tiny.onnx").is_file()
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["inspect", "fold", "save"]
    assert "report.json" in done.stdout
    assert "\x1b" not in done.stdout


def test_json_prints_the_report_and_nothing_else(workplace: Path) -> None:
    done = surgery("run", "mine.yaml", "tiny.onnx", "--json", "--output", "out", folder=workplace)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((workplace / "out/report.json").read_text())


def test_the_model_may_come_from_the_pipeline(workplace: Path) -> None:
    (workplace / "sub").mkdir()
    pipeline(workplace / "sub", "model: ../tiny.onnx\nstages: [save]\n")
    done = surgery("run", "sub/mine.yaml", folder=workplace)
    assert done.returncode == 0, done.stderr
    assert (workplace / "tiny.surgery/tiny.onnx").is_file()


def test_a_bug_is_one_message_and_a_file_with_the_traceback(workplace: Path) -> None:
    code = """
import sys
from surgery.cli import main
import surgery.api
def broken(*_, **__):
    raise ZeroDivisionError("first line\\nsecond line")
surgery.api.run = broken
sys.argv = ["surgery", "run", "mine.yaml", "tiny.onnx"]
sys.exit(main())
"""
    done = _python(code, workplace)
    assert done.returncode == 70
    assert "ZeroDivisionError: first line" in done.stderr
    assert "Traceback" not in done.stderr
    path = re.search(r"(/\S+\.txt)", done.stderr)
    assert path is not None
    file = Path(path[1])
    assert "ZeroDivisionError" in file.read_text()
    assert "in broken" in file.read_text()
    file.unlink()


def test_an_interrupt_ends_with_130(workplace: Path) -> None:
    code = """
import sys
from surgery.cli import main
import surgery.api
def interrupted(*_, **__):
    raise KeyboardInterrupt
surgery.api.run = interrupted
sys.argv = ["surgery", "run", "mine.yaml", "tiny.onnx"]
sys.exit(main())
"""
    done = _python(code, workplace)
    assert done.returncode == 130
    assert "interrupted" in done.stderr
    assert "Traceback" not in done.stderr


def _python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


@pytest.mark.parametrize("content", [None, b"", b"some text"], ids=["missing", "empty", "text"])
def test_auto_of_a_file_that_is_no_model(tmp_path: Path, content: bytes | None) -> None:
    model = tmp_path / "model.onnx"
    if content is not None:
        model.write_bytes(content)
    result = surgery("run", "auto", model)
    assert result.returncode == 3
    assert "error[" in result.stderr
    assert "bug" not in result.stderr


def test_a_model_in_place_of_a_pipeline(tmp_path: Path) -> None:
    model = tmp_path / "my model.onnx"
    model.write_bytes(b"")
    result = surgery("run", model)
    assert result.returncode == 2
    assert f"surgery run auto '{model}'" in result.stderr
