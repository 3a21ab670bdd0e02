"""Building an engine with TensorRT-RTX in a process of its own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import onnx
import pytest

_BUILD = """
import sys
import tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.WARNING)
builder = trt.Builder(logger)
network = builder.create_network(0)
parser = trt.OnnxParser(network, logger)
if not parser.parse(sys.stdin.buffer.read()):
    sys.exit("\\n".join(parser.get_error(i).desc() for i in range(parser.num_errors)))
config = builder.create_builder_config()
profile = builder.create_optimization_profile()
for i in range(network.num_inputs):
    tensor = network.get_input(i)
    shape = list(tensor.shape)
    if -1 in shape:
        profile.set_shape(tensor.name, *([b if d == -1 else d for d in shape] for b in (1, 2, 4)))
config.add_optimization_profile(profile)
engine = builder.build_serialized_network(network, config)
sys.exit(0 if engine is not None and engine.nbytes > 0 else "no engine")
"""


def assert_builds(model: onnx.ModelProto) -> None:
    """Fails unless TensorRT-RTX parses the model and builds an engine (batches 1 to 4 where it is open)."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed")
    done = subprocess.run(
        [sys.executable, "-c", _BUILD],
        input=model.SerializeToString(),
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")[-2000:]
