"""The code path for full TensorRT, over NVIDIA's own ``tensorrt`` Python packages.

SURGERY_TRT_API names commands that start a Python in which ``import tensorrt`` works, separated by ``:``, e.g.
``/opt/trt10/run:/opt/trt11/run`` where ``run python`` is that Python. Without it, the installed one is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx.parser
import pytest

from surgery.errors import MissingEnvironmentError
from surgery.trt.session import Worker
from surgery.trt.types import BuildOptions, LogLine, ShapeProfile
from tests.installed import FULL, full, full_name

pytestmark = [
    pytest.mark.slow,
    full,
]


@pytest.fixture(scope="module", params=FULL, ids=full_name)
def command(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return (request.param, "python") if request.param else ("python",)


@pytest.fixture(scope="module")
def worker(command: tuple[str, ...]) -> Iterator[Worker]:
    with Worker("tensorrt", python=command) as shared:
        yield shared


def parsed(body: str, signature: str = "(float[n, 3] x) => (float[n, 3] y)") -> bytes:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g {signature} {{ {body} }}'
    return onnx.parser.parse_model(text).SerializeToString()


def test_the_version_is_that_of_the_package(worker: Worker) -> None:
    found = worker.environment()
    assert found.version.split(".")[0] in ("10", "11")


def test_parsing_tells_inputs_and_outputs(worker: Worker) -> None:
    outcome = worker.parse(parsed("y = Relu (x)"))
    assert outcome.ok
    assert [(t.name, t.dtype, t.shape) for t in outcome.inputs] == [("x", "float32", (-1, 3))]


def test_a_refused_node_is_named(worker: Worker) -> None:
    outcome = worker.parse(parsed('h = Relu (x) ["bad one"] y = Nonsense (h)'))
    assert not outcome.ok
    assert not outcome.aborted
    (error,) = outcome.errors
    assert (error.node_name, error.node_op, error.node_index) == ("bad one", "Nonsense", 1)


def test_a_plugin_that_is_not_there_is_an_error_not_an_abort(worker: Worker) -> None:
    outcome = worker.parse(parsed('["nms"] y = NoSuchPlugin_TRT <plugin_version = "1"> (x)'))
    assert not outcome.ok
    assert not outcome.aborted
    assert outcome.errors[0].node_name == "nms"


def test_profiles_and_options_are_taken(command: tuple[str, ...]) -> None:
    lines: list[LogLine] = []
    options = BuildOptions(optimization_level=1, workspace_bytes=1 << 26, tf32=False)
    with Worker("tensorrt", python=command, on_log=lines.append) as own:
        model = parsed("h = Relu (x) y = Mul (h, h)")
        without = own.build(model)
        assert not without.ok
        assert any("profile" in e for e in without.errors)
        outcome = own.build(model, [[ShapeProfile("x", (1, 3), (2, 3), (4, 3))]], options)
    assert lines
    if any("Cuda Runtime" in e for e in outcome.errors):
        pytest.skip("this TensorRT builds on a GPU only")
    assert outcome.ok, outcome.errors
    assert outcome.engine


def test_a_library_that_does_not_load_is_said_so(command: tuple[str, ...], tmp_path: Path) -> None:
    library = tmp_path / "libplugin.so"
    library.write_text("not a library")
    with (
        Worker("tensorrt", python=command, plugin_libraries=[str(library)]) as own,
        pytest.raises(MissingEnvironmentError) as info,
    ):
        own.parse(parsed("y = Relu (x)"))
    assert "libplugin.so" in str(info.value)
