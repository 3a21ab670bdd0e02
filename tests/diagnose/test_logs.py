"""Logs of the tools that people have."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgery.diagnose.facts import Facts
from surgery.diagnose.logs import read_log
from tests.diagnose.models import parsed

TRTEXEC = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # trtexec --onnx=model.onnx
[08/12/2023-10:00:00] [I] === Model Options ===
[08/12/2023-10:00:01] [W] [TRT] onnx2trt_utils.cpp:374: Your ONNX model has been generated with INT64 weights, while TensorRT does not natively support INT64. Attempting to cast down to INT32.
[08/12/2023-10:00:02] [E] [TRT] ModelImporter.cpp:771: While parsing node number 312 [NonZero -> "out_3"]:
[08/12/2023-10:00:02] [E] [TRT] ModelImporter.cpp:772: --- Begin node ---
[08/12/2023-10:00:02] [E] [TRT] ModelImporter.cpp:773: input: "x"
output: "out_3"
name: "/head/NonZero"
op_type: "NonZero"

[08/12/2023-10:00:02] [E] [TRT] ModelImporter.cpp:774: --- End node ---
[08/12/2023-10:00:02] [E] [TRT] ModelImporter.cpp:777: ERROR: builtin_op_importers.cpp:5404 In function importFallbackPluginImporter:
[8] Assertion failed: creator && "Plugin not found, are the plugin name, version, and namespace correct?"
[08/12/2023-10:00:02] [E] Failed to parse onnx file
[08/12/2023-10:00:02] [E] Parsing model failed
[08/12/2023-10:00:02] [E] Failed to create engine from model or file.
[08/12/2023-10:00:02] [E] Engine set up failed
&&&& FAILED TensorRT.trtexec [TensorRT v8601] # trtexec --onnx=model.onnx
"""  # noqa: E501 - a log is as long as it is

POLYGRAPHY = """\
[I] Loading model: model.onnx
\x1b[38;5;9m[E] ModelImporter.cpp:151: ERROR: onnxOpCheckers.cpp:1130 In function checkDet:
    [8] false\x1b[0m
[E] In node 0 with name: /model/det and operator: Det (checkDet): UNSUPPORTED_NODE: false
[!] Could not parse ONNX correctly
"""

RUNTIME = """\
2023-05-01 10:00:00.1 [E:onnxruntime:Default, tensorrt_execution_provider.h:73 log] [2023-05-01 10:00:00   ERROR] 4: [network.cpp::validate::2965] Error Code 4: Internal Error (Network must have at least one output)
onnxruntime.capi.onnxruntime_pybind11_state.Fail: [ONNXRuntimeError] : 1 : FAIL : TensorRT input: 1234 has no shape specified. Please run shape inference on the onnx model first.
"""  # noqa: E501 - a log is as long as it is

MMDEPLOY = """\
2022-05-01 10:00:00,123 - mmdeploy - INFO - Start pipeline mmdeploy.backend.tensorrt.onnx2tensorrt in subprocess
[TensorRT] ERROR: INVALID_ARGUMENT: getPluginCreator could not find plugin TRTBatchedNMS version 1
2022-05-01 10:00:02,123 - mmdeploy - ERROR - `mmdeploy.backend.tensorrt.onnx2tensorrt` with Call id: 1 failed. exit.
"""

BUILDER = """\
[05/01/2024-10:00:00] [E] Error[10]: Error Code: 10: Internal Error (Could not find any implementation for node {ForeignNode[/a/Transpose.../b/Add]}.)
[05/01/2024-10:00:00] [E] Error[9]: Skipping tactic 0x0000000000000000 due to insufficient memory on requested size of 4697620480
"""  # noqa: E501 - a log is as long as it is


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            TRTEXEC,
            [("nonzero-data-dependent", "NonZero", "/head/NonZero", 12), ("int64-dtype", None, None, 3)],
        ),
        (POLYGRAPHY, [("unsupported-op", "Det", "/model/det", 4)]),
        (RUNTIME, [("unknown-rank-input", None, None, 2)]),
        (MMDEPLOY, [("plugin-not-found", None, None, 2)]),
        (
            BUILDER,
            [("foreign-node-no-implementation", None, None, 1), ("workspace-too-small", None, None, 2)],
        ),
        ("[I] all is well\n&&&& PASSED\n", []),
        ("", []),
    ],
    ids=["trtexec", "polygraphy", "onnxruntime", "mmdeploy", "builder", "passed", "empty"],
)
def test_what_a_log_tells(text: str, wanted: list[tuple[str, str | None, str | None, int]]) -> None:
    found = [(p.findings[0].id if p.findings else None, p.op, p.node, p.line) for p in read_log(text)]
    assert found == wanted


def test_a_message_of_several_lines_is_one_and_the_machine_is_left_out() -> None:
    """As TensorRT-RTX 1.7 logs it where there is no driver: what the message goes on with has no level in front."""
    refused = (
        "ITensor::getDimensions: Error Code 4: API Usage Error (p: slope tensor must be unidirectional broadcastable "
        "to input tensor In validate at /_src/optimizer/api/layers/parametricReLULayer.cpp:57)"
    )
    driver = (
        "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at "
        "/_src/common/dispatch/checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient for CUDA "
        "runtime version))"
    )
    text = (
        f"[error] {refused}\n[error] {driver}\n"
        '[error] ModelImporter.cpp:140: While parsing node number 1 [PRelu -> "y"]:\n'
        f"[error] ModelImporter.cpp:151: ERROR: ModelImporter.cpp:489 In function parseNode:\n[6] Invalid Node - p\n"
        f"{refused}\n{driver}\n"
    )
    (problem,) = read_log(text)
    assert (problem.node, problem.op, problem.findings[0].id) == ("p", "PRelu", "prelu-slope-broadcast")
    assert "cudaError" not in problem.text
    assert read_log(f"[error] {driver}\n")


def test_warnings_come_last_and_are_called_so() -> None:
    assert [p.warning for p in read_log(TRTEXEC)] == [False, True]


def test_an_error_that_is_not_known_is_told_all_the_same() -> None:
    found = read_log("[E] [TRT] something new went wrong\n")
    assert [(p.text, p.findings) for p in found] == [("something new went wrong", ())]


def test_the_model_beside_the_log_gives_evidence() -> None:
    model = parsed("g (float[2, 2] x) => (float[2, 2] y) { [d] z = Det (x) [n] y = Relu (x) }")
    text = "[E] In node 0 with name: d and operator: Det (checkDet): UNSUPPORTED_NODE: false\n"
    found = read_log(text, Facts(model))
    assert found[0].findings[0].id == "unsupported-op-dead"


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    read_log(bytes(range(256)).decode("utf-8", errors="replace") * 50)
