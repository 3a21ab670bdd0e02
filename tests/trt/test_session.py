"""The TensorRT process, with the real TensorRT in it: what it answers, and that its death harms nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from surgery.errors import MissingEnvironmentError
from surgery.trt.session import Worker, engine_environment, engine_runtime, installed_flavours
from surgery.trt.types import STRATEGY, BuildOptions, Limits, LogLine, ShapeProfile, TensorSpec
from tests.installed import real

pytestmark = real


def parsed(body: str, signature: str = "(float[2, 3] x) => (float[2, 3] y)") -> bytes:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g {signature} {{ {body} }}'
    return onnx.parser.parse_model(text).SerializeToString()


RELU = parsed('["the relu"] y = Relu (x)')
DYNAMIC = parsed("y = Relu (x)", "(float[n, 3] x) => (float[n, 3] y)")
NMS = parsed(
    "m = Constant <value = int64 {4}> () y = NonMaxSuppression (b, s, m)",
    "(float[1, 8, 4] b, float[1, 1, 8] s) => (int64[k, 3] y)",
)


def deep(layers: int, width: int = 384) -> bytes:
    """A model that takes a while to build."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for k in range(layers):
        weights.append(numpy_helper.from_array(rng.normal(size=(width, width)).astype(np.float32), f"w{k}"))
        nodes += [
            helper.make_node("MatMul", [last, f"w{k}"], [f"m{k}"]),
            helper.make_node("Softmax", [f"m{k}"], [f"s{k}"], axis=k % 2),
            helper.make_node("Add", [f"s{k}", last], [f"t{k}"]),
        ]
        last = f"t{k}"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "deep",
        [value("x", TensorProto.FLOAT, [width, width])],
        [value(last, TensorProto.FLOAT, [width, width])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker("tensorrt-rtx") as shared:
        yield shared


def pid_of(worker: Worker) -> int:
    assert worker._child is not None
    return worker._child.process.pid


def test_parsing_tells_inputs_and_outputs(worker: Worker) -> None:
    outcome = worker.parse(DYNAMIC)
    assert outcome.ok
    assert [(t.name, t.dtype, t.shape) for t in outcome.inputs] == [("x", "float32", (-1, 3))]
    assert [t.name for t in outcome.outputs] == ["y"]
    assert outcome.errors == ()


def test_a_refused_node_is_named(worker: Worker) -> None:
    outcome = worker.parse(parsed('h = Relu (x) ["bad one"] y = Det (h)', "(float[2, 2] x) => (float y)"))
    assert not outcome.ok
    assert not outcome.aborted
    (error,) = outcome.errors
    assert (error.node_name, error.node_op, error.node_index) == ("bad one", "Det", 1)
    assert error.code.startswith("UNSUPPORTED_NODE")
    assert error.function
    assert error.file.endswith(".cpp")


def test_building_gives_an_engine(worker: Worker) -> None:
    outcome = worker.build(RELU, [], BuildOptions(optimization_level=1, workspace_bytes=1 << 26, tf32=False))
    assert outcome.ok
    assert outcome.engine
    assert len(outcome.engine) > 100
    assert [t.name for t in outcome.inputs] == ["x"]
    assert outcome.seconds > 0


def test_a_free_dim_needs_a_profile(worker: Worker) -> None:
    without = worker.build(DYNAMIC)
    assert not without.ok
    assert any("profile" in e for e in without.errors)
    profile = ShapeProfile("x", (1, 3), (2, 3), (4, 3))
    assert worker.build(DYNAMIC, [[profile]]).ok


def test_what_parses_but_does_not_build(worker: Worker) -> None:
    assert worker.parse(NMS).ok
    outcome = worker.build(NMS)
    assert not outcome.ok
    assert outcome.parse_errors == ()
    assert outcome.errors
    assert outcome.engine is None


def test_log_lines_come_while_it_works() -> None:
    lines: list[LogLine] = []
    with Worker("tensorrt-rtx", on_log=lines.append) as own:
        outcome = own.build(NMS)
    assert any(line.severity == "error" for line in lines)
    assert list(outcome.log) == lines


def test_one_process_serves_many_jobs(worker: Worker) -> None:
    worker.parse(RELU)
    before = pid_of(worker)
    for _ in range(30):
        assert worker.parse(RELU).ok
    assert pid_of(worker) == before


def test_external_weights_are_found_beside_the_model(worker: Worker, tmp_path: Path) -> None:
    weights = np.arange(3, dtype=np.float32)
    (tmp_path / "w.bin").write_bytes(weights.tobytes())
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    node = helper.make_node("Add", ["x", "w"], ["y"])
    value = helper.make_tensor_value_info
    x, y = value("x", TensorProto.FLOAT, [2, 3]), value("y", TensorProto.FLOAT, [2, 3])
    graph = helper.make_graph([node], "g", [x], [y], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert worker.build(tmp_path / "model.onnx").ok


def test_a_time_limit_ends_the_job_and_not_the_worker() -> None:
    with Worker("tensorrt-rtx") as own:
        assert own.parse(RELU).ok
        outcome = own.build(deep(40), limits=Limits(seconds=0.05))
        assert (outcome.ok, outcome.timed_out, outcome.aborted) == (False, True, False)
        assert own.parse(RELU).ok


def test_a_memory_limit_ends_the_job_and_not_the_worker() -> None:
    with Worker("tensorrt-rtx") as own:
        assert own.parse(RELU).ok
        outcome = own.build(deep(40), limits=Limits(memory_bytes=1 << 20))
        assert (outcome.ok, outcome.out_of_memory) == (False, True)
        assert own.parse(RELU).ok


def test_a_death_is_tried_again_and_then_reported() -> None:
    """The child is killed while it builds, as an abort in C++ would end it."""
    model = deep(60)
    deaths = []

    def kill_children(own: Worker, stop: threading.Event) -> None:
        while not stop.is_set():
            child = own._child
            if child is not None and child.jobs and child.process.pid not in deaths:
                deaths.append(child.process.pid)
                os.kill(child.process.pid, signal.SIGABRT)
            time.sleep(0.01)

    with Worker("tensorrt-rtx") as own:
        stop = threading.Event()
        killer = threading.Thread(target=kill_children, args=(own, stop))
        killer.start()
        outcome = own.build(model)
        stop.set()
        killer.join()
        assert outcome.aborted
        assert not outcome.ok
        assert len(deaths) == 2  # the first try and the second
        assert own.parse(RELU).ok


def test_a_second_try_that_succeeds_is_called_flaky() -> None:
    with Worker("tensorrt-rtx") as own:
        assert own.parse(RELU).ok
        first = pid_of(own)

        def kill_once() -> None:
            child = own._child
            assert child is not None
            while child.jobs < 2:  # until the build has been handed over
                time.sleep(0.001)
            os.kill(first, signal.SIGABRT)

        killer = threading.Thread(target=kill_once)
        killer.start()
        outcome = own.build(deep(60))
        killer.join()
        assert (outcome.ok, outcome.flaky) == (True, True)
        assert pid_of(own) != first


def test_the_child_dies_with_its_parent() -> None:
    script = (
        "import os, sys\n"
        "from surgery.trt.session import Worker\n"
        "w = Worker('tensorrt-rtx')\n"
        "w.environment()\n"
        "print(w._child.process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": root},
        check=False,
    )
    pid = int(done.stdout)
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the child outlived its parent")


def test_running_an_engine_without_a_gpu_says_why(worker: Worker) -> None:
    found = worker.environment()
    assert found.version == installed_flavours()["tensorrt-rtx"]
    if found.gpu is not None:
        pytest.skip("there is a GPU")
    assert found.reason_no_gpu
    engine = worker.build(RELU).engine
    assert engine is not None
    outcome = worker.run(engine, [{"x": np.zeros((2, 3), np.float32)}])
    assert not outcome.ok
    assert outcome.error or outcome.aborted


@pytest.mark.skipif("tensorrt" in installed_flavours(), reason="full TensorRT is installed")
def test_a_flavour_that_is_not_installed() -> None:
    with pytest.raises(MissingEnvironmentError) as caught:
        Worker("tensorrt").environment()
    assert caught.value.exit_code == 7
    assert "tensorrt" in caught.value.message


def test_the_environment_of_an_engine() -> None:
    assert engine_environment("tensorrt-rtx", tf32=False) == {"NVIDIA_TF32_OVERRIDE": "0"}
    assert engine_environment("tensorrt-rtx", tf32=True) == {}
    assert engine_environment("tensorrt", tf32=False) == {}


def test_free_shapes_on_rtx_need_contexts_without_specialised_kernels() -> None:
    free = TensorSpec("x", "float32", (-1, 3))
    fixed = TensorSpec("y", "float32", (2, 3))
    assert engine_runtime("tensorrt-rtx", [fixed, free]) == {STRATEGY: "NONE"}
    assert engine_runtime("tensorrt-rtx", [fixed]) == {}
    assert engine_runtime("tensorrt", [free]) == {}


def test_the_strategy_is_one_that_this_tensorrt_has() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    assert hasattr(trt.IRuntimeConfig, STRATEGY)
    assert hasattr(trt.DynamicShapesKernelSpecializationStrategy, "NONE")


def test_a_plugin_library_that_does_not_load_is_an_error(tmp_path: Path) -> None:
    library = tmp_path / "libplugin.so"
    library.write_text("not a library")
    with (
        Worker("tensorrt-rtx", plugin_libraries=[str(library)]) as own,
        pytest.raises(MissingEnvironmentError, match="plugin library") as info,
    ):
        own.parse(RELU)
    assert "libplugin.so" in str(info.value.cause)
