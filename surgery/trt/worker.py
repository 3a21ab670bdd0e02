"""The child process: ``python -m surgery.trt.worker FLAVOUR READ_FD WRITE_FD``.

It answers jobs one by one over two pipes of its own, so that nothing TensorRT prints can get between the
messages. It dies with its parent.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import struct
import sys
import time
import traceback
from dataclasses import replace
from typing import Any, BinaryIO

from surgery.trt.types import (
    STRATEGY,
    BuildOutcome,
    Flavour,
    LogLine,
    ParseOutcome,
    RunOutcome,
    WorkerEnvironment,
)

HEADER = struct.Struct("<Q")
PR_SET_PDEATHSIG = 1


def send(stream: BinaryIO, kind: str, payload: Any) -> None:
    """Write one message: an 8-byte length, then a pickled (kind, payload)."""
    data = pickle.dumps((kind, payload), protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(HEADER.pack(len(data)))
    stream.write(data)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[str, Any] | None:
    """Read one message, or None at the end of the stream."""
    head = stream.read(HEADER.size)
    if len(head) < HEADER.size:
        return None
    (size,) = HEADER.unpack(head)
    data = stream.read(size)
    if len(data) < size:
        return None
    kind, payload = pickle.loads(data)
    return kind, payload


def main(flavour: Flavour, source: BinaryIO, sink: BinaryIO) -> None:
    """Serve jobs until the parent closes the pipe."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    if flavour == "tensorrt-rtx":
        # Polygraphy reads this once, when its configuration is imported.
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"
    from surgery.trt.adapter import Adapter

    errors: list[str] = []

    def log(severity: str, text: str) -> None:
        if severity in ("error", "internal_error"):
            errors.append(text)
        send(sink, "log", LogLine(severity, text))

    try:
        adapter = Adapter(flavour, log, lambda name: send(sink, "node", name))
    except Exception as error:
        send(sink, "broken", f"{type(error).__name__}: {error}")
        return
    send(sink, "ready", adapter.version)
    while (message := receive(source)) is not None:
        kind, job = message
        errors.clear()
        started = time.perf_counter()
        try:
            result = _answer(adapter, kind, job, errors)
        except Exception as error:
            send(sink, "failed", f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
            continue
        if not isinstance(result, WorkerEnvironment) and result is not None:
            result = replace(result, seconds=time.perf_counter() - started)
        send(sink, "done", result)


def _answer(adapter: Any, kind: str, job: Any, errors: list[str]) -> Any:
    if kind == "parse":
        outcome: ParseOutcome = adapter.parse(job)
        return outcome
    if kind == "build":
        built: BuildOutcome = adapter.build(*job)
        return replace(built, errors=tuple(errors)) if not built.ok else built
    if kind == "plugins":
        adapter.load_plugins(job)
        return None
    if kind == "environment":
        from surgery.trt.gpu import find_gpu

        gpu, reason = find_gpu()
        return WorkerEnvironment(adapter.version, gpu, reason)
    if kind == "run":
        return _run(adapter, errors, *job)
    raise ValueError(f"unknown job {kind!r}")


def _run(adapter: Any, errors: list[str], engine: bytes, feeds: list[dict[str, Any]]) -> RunOutcome:
    """Run an engine through Polygraphy's TrtRunner."""
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = {"": G_LOGGER.CRITICAL}
    try:
        outputs = []
        runtime = adapter.trt.Runtime(adapter.logger)
        loaded = EngineFromBytes(engine, runtime=runtime)()
        with TrtRunner(_context(adapter, loaded)) as runner:
            for feed in feeds:
                result = runner.infer(feed)
                outputs.append({name: value.copy() for name, value in result.items()})
    except Exception as error:  # polygraphy raises its own kinds; the text is what matters
        text = str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
        return RunOutcome(False, error="; ".join([text, *errors[:2]]))
    return RunOutcome(True, outputs=tuple(outputs))


def _context(adapter: Any, engine: Any) -> Any:
    """An execution context that uses no kernel specialised for another shape.

    :func:`surgery.trt.session.engine_runtime` says why.
    """
    strategies = getattr(adapter.trt, "DynamicShapesKernelSpecializationStrategy", None)
    if strategies is None:
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    setattr(config, STRATEGY, strategies.NONE)
    return engine.create_execution_context(config)


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[2]), "rb") as read_end, os.fdopen(int(sys.argv[3]), "wb") as write_end:
        main(sys.argv[1], read_end, write_end)  # type: ignore[arg-type]
