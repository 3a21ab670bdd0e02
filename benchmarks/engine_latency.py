"""Latency of built engines on a GPU, in milliseconds: `python benchmarks/engine_latency.py DIR [BATCH]`.

Needs PyTorch for device memory and events, and the TensorRT flavour that built the engines. Times are of
`execute_async_v3` between two CUDA events on one stream, inputs already on the device; median of 200 runs after
50 warm-up runs.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
from pathlib import Path

import torch


def load() -> object:
    for module in ("tensorrt_rtx", "tensorrt"):
        try:
            return importlib.import_module(module)
        except ImportError:
            continue
    raise SystemExit("no TensorRT flavour is installed")


def measure(trt: object, path: Path, batch: int) -> dict[str, object]:
    logger = trt.Logger(trt.Logger.ERROR)
    engine = trt.Runtime(logger).deserialize_cuda_engine(path.read_bytes())
    context = engine.create_execution_context()
    stream = torch.cuda.Stream()
    kinds = {"FLOAT": torch.float32, "INT32": torch.int32, "INT64": torch.int64, "UINT8": torch.uint8}
    buffers = []
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    for name in names:
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            low, opt, high = engine.get_tensor_profile_shape(name, 0)
            shape = [
                batch if a != c and i == 0 else b
                for i, (a, b, c) in enumerate(zip(low, opt, high, strict=True))
            ]
            context.set_input_shape(name, shape)
            kind = kinds[engine.get_tensor_dtype(name).name]
            value = (
                torch.rand(shape, device="cuda").to(kind)
                if kind.is_floating_point
                else torch.randint(0, 255, shape, device="cuda").to(kind)
            )
            buffers.append(value)
            context.set_tensor_address(name, value.data_ptr())
    for name in names:
        if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
            shape = list(context.get_tensor_shape(name))
            value = torch.empty(shape, device="cuda", dtype=kinds[engine.get_tensor_dtype(name).name])
            buffers.append(value)
            context.set_tensor_address(name, value.data_ptr())
    times = []
    with torch.cuda.stream(stream):
        for k in range(250):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record(stream)
            context.execute_async_v3(stream.cuda_stream)
            end.record(stream)
            stream.synchronize()
            if k >= 50:
                times.append(start.elapsed_time(end))
    return {
        "engine": path.name,
        "batch": batch,
        "median_ms": round(statistics.median(times), 3),
        "min_ms": round(min(times), 3),
    }


if __name__ == "__main__":
    tensorrt = load()
    for file in sorted(Path(sys.argv[1]).glob("*.engine")):
        print(json.dumps(measure(tensorrt, file, int(sys.argv[2]) if len(sys.argv) > 2 else 1)), flush=True)
