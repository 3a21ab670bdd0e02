"""Latency of engines on a GPU, side by side: `python benchmarks/engine_race.py ENGINE INPUTS.npz [ENGINE INPUTS]`.

Engines are run in turns on one stream, inputs already on the device, each run between two CUDA events; a median of
what fits into a second. Turns are balanced: what goes first in a round, or just after another engine, is slower by up
to some percent whatever it computes. Nothing but Polygraphy's device memory and the CUDA driver is needed. Import
this only in a process that may die: TensorRT is loaded into it.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

Gate = AbstractContextManager[Any]

WARM_UP = 10
PAIRS = 300
"""Rounds, at most."""

LEAST = 20
"""Rounds, at least."""


class NotTimedError(Exception):
    """An engine cannot be timed here; the text says why."""


def tensorrt() -> Any:
    """The TensorRT flavour that is installed, TensorRT-RTX first.

    Raises:
        NotTimedError: there is none.
    """
    for module in ("tensorrt_rtx", "tensorrt"):
        try:
            return importlib.import_module(module)
        except ImportError:
            continue
    raise NotTimedError("no TensorRT flavour is installed")


class Timer:
    """Time between two points of a stream, in milliseconds, by two events of the CUDA driver.

    Source: CUDA Driver API, event management; the context is the one that the runtime has made current.
    """

    def __init__(self, stream: int) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        self._stream = ctypes.c_void_p(stream)
        self._events = ctypes.c_void_p(), ctypes.c_void_p()
        for event in self._events:
            self._check(self._cuda.cuEventCreate(ctypes.byref(event), 0))

    def _check(self, status: int) -> None:
        if status:
            raise NotTimedError(f"CUDA error {status}")

    def mark(self, end: bool) -> None:
        """Start or end the time."""
        self._check(self._cuda.cuEventRecord(self._events[end], self._stream))

    def milliseconds(self) -> float:
        """Wait for the end and give the time since the start."""
        found = ctypes.c_float()
        self._check(self._cuda.cuEventSynchronize(self._events[True]))
        self._check(self._cuda.cuEventElapsedTime(ctypes.byref(found), *self._events))
        return found.value


class Loaded:
    """An engine with its inputs on the device.

    Args:
        trt: The TensorRT package.
        engine: The serialized engine.
        feeds: Values of its inputs; others are passed over.
        stream: A Polygraphy stream.

    Raises:
        NotTimedError: it does not load, an input is missing or has another size, or an output's size depends on data.
    """

    def __init__(self, trt: Any, engine: bytes, feeds: Mapping[str, np.ndarray], stream: Any) -> None:
        from polygraphy import cuda

        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise NotTimedError("the engine does not load")
        self._context = _context(trt, self._engine)
        self.stream = stream
        self._kept: list[Any] = []
        self.outputs: dict[str, tuple[int, ...]] = {}
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        inputs = [n for n in names if self._engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        for name in inputs:
            if name not in feeds:
                raise NotTimedError(f"no value for {name}")
            # A copy with an address of its own: numbers that the engine reads on the host stay where they are.
            value = np.array(feeds[name], order="C", ndmin=0)
            self._context.set_input_shape(name, value.shape)
            size = self._engine.get_tensor_dtype(name).itemsize * value.size
            if size != value.nbytes:
                raise NotTimedError(f"{name} is {value.dtype}, which the engine does not take")
            if self._on_host(trt, name):
                self._kept.append(value)
                self._context.set_tensor_address(name, value.ctypes.data)
                continue
            plain = np.frombuffer(value.tobytes() or b"\0", np.uint8)
            self._set(name, cuda.DeviceArray(plain.shape, np.uint8).copy_from(plain))
        for name in names:
            if name in inputs:
                continue
            shape = tuple(self._context.get_tensor_shape(name))
            if any(d < 0 for d in shape):
                raise NotTimedError(f"the size of {name} depends on the data")
            size = self._engine.get_tensor_dtype(name).itemsize * int(np.prod(shape, dtype=np.int64))
            self.outputs[name] = shape
            if self._on_host(trt, name):
                self._kept.append(np.zeros(max(size, 1), np.uint8))
                self._context.set_tensor_address(name, self._kept[-1].ctypes.data)
                continue
            self._set(name, cuda.DeviceArray((max(size, 1),), np.uint8))

    def _on_host(self, trt: Any, name: str) -> bool:
        """Whether the engine reads or writes it on the host, as it does with shapes."""
        on_host = self._engine.get_tensor_location(name) == trt.TensorLocation.HOST
        return bool(on_host or self._engine.is_shape_inference_io(name))

    def _set(self, name: str, array: Any) -> None:
        self._kept.append(array)
        self._context.set_tensor_address(name, array.ptr)

    def run(self) -> None:
        """Start one inference on the stream."""
        if not self._context.execute_async_v3(self.stream.ptr):
            raise NotTimedError("the engine does not run")


def _context(trt: Any, engine: Any) -> Any:
    """An execution context without kernels specialised for shapes, as surgery runs engines (docs/gpu.md)."""
    strategies = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
    if strategies is None:
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = strategies.NONE
    return engine.create_execution_context(config)


def race(
    entries: Sequence[tuple[bytes, Mapping[str, np.ndarray]]],
    *,
    alone: Gate | None = None,
    seconds: float = 1.0,
) -> list[float]:
    """Median milliseconds of each engine, run in turns.

    Each engine is loaded twice, in the order given and in the reverse: what is loaded last runs up to 2 % faster than
    the same bytes loaded first, whatever they are. A round's time of an engine is the mean of its two. The orders of
    the rounds are those of :func:`balanced`.

    Args:
        entries: Engines with values of their inputs.
        alone: Held while engines are warmed up and timed; not while their kernels are compiled, which takes seconds.
        seconds: How long to measure.

    Raises:
        NotTimedError: an engine cannot be timed.
    """
    from polygraphy import cuda

    trt = tensorrt()
    stream = cuda.Stream()
    both = [*entries, *reversed(entries)] if len(entries) > 1 else entries
    loaded = [Loaded(trt, engine, feeds, stream) for engine, feeds in both]
    for one in loaded:
        one.run()
    stream.synchronize()
    timer = Timer(stream.ptr)
    with alone or nullcontext():
        for one in loaded * WARM_UP:
            one.run()
        stream.synchronize()
        rounds = [
            [(a + z) / 2 for a, z in zip(r, r[::-1], strict=True)]
            for r in _rounds(loaded, timer, stream, seconds)
        ]
    times = zip(*(r[: len(entries)] for r in rounds), strict=True)
    return [statistics.median(t) for t in times]


def balanced(count: int) -> list[list[int]]:
    """Orders of 0..count-1 in which each comes equally often at each place and just after each other one.

    Source: E. J. Williams, "Experimental designs balanced for the estimation of residual effects of treatments",
    1949: one such square where `count` is even, a second one, mirrored, where it is odd.
    """
    first = [(k + 1) // 2 if k % 2 else -(k // 2) % count for k in range(count)]
    orders = [[(place + row) % count for place in first] for row in range(count)]
    return orders if count % 2 == 0 else orders + [order[::-1] for order in orders]


def _rounds(loaded: Sequence[Loaded], timer: Timer, stream: Any, seconds: float) -> Iterator[list[float]]:
    started = time.perf_counter()
    orders = balanced(len(loaded))
    # Whole sets of orders, or the balance is lost.
    least, most = (-(-n // len(orders)) * len(orders) for n in (LEAST, PAIRS))
    for k in range(most):
        found = [0.0] * len(loaded)
        stream.synchronize()
        loaded[orders[(k - 1) % len(orders)][-1]].run()  # not timed: what comes after a pause is slower
        for place in orders[k % len(orders)]:
            stream.synchronize()
            timer.mark(False)
            loaded[place].run()
            timer.mark(True)
            found[place] = timer.milliseconds()
        yield found
        if k + 1 >= least and (k + 1) % len(orders) == 0 and time.perf_counter() - started > seconds:
            return


if __name__ == "__main__":
    given = sys.argv[1:]
    pairs = [(Path(e).read_bytes(), dict(np.load(v))) for e, v in zip(given[::2], given[1::2], strict=True)]
    for engine_path, median in zip(given[::2], race(pairs), strict=True):
        print(json.dumps({"engine": Path(engine_path).name, "median_ms": round(median, 4)}))
