"""The parent's side: a warm child process that parses, builds and runs, and may die without harm."""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from surgery.errors import MissingEnvironmentError
from surgery.trt.types import (
    MODULES,
    STRATEGY,
    BuildOptions,
    BuildOutcome,
    Flavour,
    Limits,
    LogLine,
    Outcome,
    ParseOutcome,
    RunOutcome,
    ShapeProfile,
    TensorSpec,
    WorkerEnvironment,
)
from surgery.trt.worker import receive, send

START_SECONDS = 120.0
MEMORY_SECONDS = 0.1
"""How often the memory of the child is looked at."""

MAX_JOBS = 500
"""Jobs after which a child is replaced: TensorRT never gives all memory back."""

_O = TypeVar("_O", bound=Outcome)


def installed_flavours() -> dict[Flavour, str]:
    """Installed flavours and their versions, without importing them."""
    found: dict[Flavour, str] = {}
    for flavour, module in MODULES.items():
        if find_spec(module) is None:
            continue
        names = (module, module.replace("_", "-"), f"{module}_cu13", f"{module}_cu12", f"{module}_bindings")
        for name in (*names, f"{module}_cu13_bindings", f"{module}_cu12_bindings"):
            with contextlib.suppress(metadata.PackageNotFoundError):
                found[flavour] = metadata.version(name)
                break
    return found


def engine_environment(flavour: Flavour, tf32: bool) -> dict[str, str]:
    """Environment variables that an engine is built with and has to be run with.

    TensorRT-RTX chooses kernels when an engine is loaded and does not heed the builder's TF32 flag then: with the
    flag cleared an SSD's scores were off by 8e-5 on an H200 (1.6.1), with this variable by 1e-6. It refuses to
    load an engine where the variable is not what it was at build time.
    """
    return {"NVIDIA_TF32_OVERRIDE": "0"} if flavour == "tensorrt-rtx" and not tf32 else {}


def engine_runtime(flavour: Flavour, inputs: Sequence[TensorSpec]) -> dict[str, str]:
    """Attributes of the ``IRuntimeConfig`` that an engine's execution contexts have to be created with.

    TensorRT-RTX specialises kernels for the shapes a context meets. With an SSD of free batch run at batch 1 and
    then at batch 4 in one context, the kernels made for batch 1 were used for batch 4 and 72 of 30672 numbers were
    off by 3e-2: 15 of 15 contexts with strategy EAGER, 9 of 15 with LAZY (the default), 0 of 15 with NONE
    (H200, 1.6.1; ``docs/gpu.md``).
    """
    dynamic = any(d < 0 for spec in inputs for d in spec.shape)
    return {STRATEGY: "NONE"} if flavour == "tensorrt-rtx" and dynamic else {}


class _Child:
    """One child process and the thread that reads from it."""

    def __init__(self, flavour: Flavour, command: Sequence[str], tf32: bool) -> None:
        to_child, from_parent = os.pipe()
        from_child, to_parent = os.pipe()
        self.stderr: list[bytes] = []
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        package_root = str(Path(__file__).resolve().parents[2])
        path = environment.get("PYTHONPATH")
        environment.update(engine_environment(flavour, tf32))
        environment["PYTHONPATH"] = f"{package_root}{os.pathsep}{path}" if path else package_root
        self.process = subprocess.Popen(
            [*command, "-m", "surgery.trt.worker", flavour, str(to_child), str(to_parent)],
            pass_fds=(to_child, to_parent),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
        )
        os.close(to_child)
        os.close(to_parent)
        self._sink = os.fdopen(from_parent, "wb")
        self._source = os.fdopen(from_child, "rb")
        self.messages: queue.Queue[tuple[str, Any] | None] = queue.Queue()
        self.jobs = 0
        threading.Thread(target=self._read, daemon=True).start()
        self._drain = threading.Thread(target=self._read_stderr, daemon=True)
        self._drain.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError, EOFError):
            while (message := receive(self._source)) is not None:
                self.messages.put(message)
        self.messages.put(None)

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        with contextlib.suppress(OSError, ValueError):
            for line in self.process.stderr:
                self.stderr = [*self.stderr[-99:], line]

    def send(self, kind: str, payload: Any) -> None:
        self.jobs += 1
        send(self._sink, kind, payload)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._sink.close()
        self.process.kill()
        self.process.wait()
        self._drain.join(timeout=1)
        for stream in (self._source, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError, ValueError):
                    stream.close()

    @property
    def resident_bytes(self) -> int:
        with contextlib.suppress(OSError, ValueError, IndexError):
            pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
            return int(pages) * os.sysconf("SC_PAGE_SIZE")
        return 0


class Worker:
    """A TensorRT process kept warm between jobs and replaced when it dies.

    Args:
        flavour: ``tensorrt`` or ``tensorrt-rtx``.
        limits: Default limits of a job.
        plugin_libraries: Libraries to load before the first job.
        on_log: Called, from the thread that runs the job, with each line of TensorRT's log as it comes.
        python: Command that starts a Python with that TensorRT; the running interpreter by default.
        tf32: Let the process use TF32 when it runs engines.
    """

    def __init__(
        self,
        flavour: Flavour,
        *,
        limits: Limits | None = None,
        plugin_libraries: Sequence[str] = (),
        on_log: Callable[[LogLine], None] | None = None,
        python: Sequence[str] = (sys.executable,),
        tf32: bool = False,
    ) -> None:
        self.flavour = flavour
        self.tf32 = tf32
        self.limits = limits or Limits()
        self.version: str | None = None
        self._libraries = list(plugin_libraries)
        self._on_log = on_log
        self._python = tuple(python)
        self._child: _Child | None = None
        self._starting: _Child | None = None
        self._runner: Worker | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child processes."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None
        if self._starting is not None:
            self._starting.close()
            self._starting = None
        self._end_child()

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    def parse(self, model: bytes | Path, *, limits: Limits | None = None) -> ParseOutcome:
        """Let the parser read a model (bytes, or a path if its weights lie beside it)."""
        return self._twice("parse", _portable(model), ParseOutcome(False), limits)

    def build(
        self,
        model: bytes | Path,
        profiles: Sequence[Sequence[ShapeProfile]] = (),
        options: BuildOptions | None = None,
        *,
        limits: Limits | None = None,
    ) -> BuildOutcome:
        """Parse and build a model, with one optimization profile per entry of `profiles`."""
        job = (_portable(model), [list(p) for p in profiles], options or BuildOptions())
        return self._twice("build", job, BuildOutcome(False), limits)

    def run(
        self, engine: bytes, feeds: Sequence[Mapping[str, Any]], *, limits: Limits | None = None
    ) -> RunOutcome:
        """Run an engine on each of the feeds; needs a GPU.

        Engines run in a process of their own that has built nothing, as an application runs them.
        """
        if self._runner is None:
            self._runner = Worker(
                self.flavour,
                limits=self.limits,
                plugin_libraries=self._libraries,
                on_log=lambda line: self._on_log(line) if self._on_log is not None else None,
                python=self._python,
                tf32=self.tf32,
            )
        job = (engine, [dict(f) for f in feeds])
        outcome = self._runner._once("run", job, RunOutcome(False), limits)
        if not outcome.ok:
            # An illegal access makes every later call of its process fail; the next engine is not to blame.
            self._runner.close()
            self._runner = None
        return outcome

    def environment(self) -> WorkerEnvironment:
        """Version of TensorRT and the GPU, as the child sees them."""
        child = self._started()
        child.send("environment", None)
        result = self._wait(child, Limits(seconds=START_SECONDS), [])[0]
        if isinstance(result, WorkerEnvironment):
            return result
        return WorkerEnvironment(self.version or "unknown", None, "the TensorRT process ended unexpectedly")

    def begin(self) -> None:
        """Start the process without waiting for it: loading TensorRT takes as long as a graph takes to fold."""
        if self._child is None and self._starting is None:
            self._starting = _Child(self.flavour, self._python, self.tf32)

    def _started(self) -> _Child:
        child = self._child
        if child is not None and child.process.poll() is None and child.jobs < MAX_JOBS:
            return child
        self._end_child()
        child = self._starting or _Child(self.flavour, self._python, self.tf32)
        self._starting = None
        try:
            message = child.messages.get(timeout=START_SECONDS)
            while message is not None and message[0] == "log":
                message = child.messages.get(timeout=START_SECONDS)
        except queue.Empty:
            message = None
        if message is None or message[0] != "ready":
            child.close()
            detail = (
                message[1] if message is not None else b"".join(child.stderr[-3:]).decode(errors="replace")
            )
            raise MissingEnvironmentError(
                f"{self.flavour} cannot be loaded",
                code="tensorrt-not-loadable",
                cause=str(detail).strip() or None,
                fix=f"check the installation: python -c 'import {MODULES[self.flavour]}'",
            )
        self.version = str(message[1])
        self._child = child
        if self._libraries:
            self._load_libraries(child)
        return child

    def _load_libraries(self, child: _Child) -> None:
        lines: list[LogLine] = []
        child.send("plugins", self._libraries)
        result, why, _ = self._wait(child, Limits(seconds=START_SECONDS), lines)
        if result is None and why is None:
            return
        self.close()
        told = (
            [result.splitlines()[0]] if isinstance(result, str) else [f"the process {why} while loading it"]
        )
        told += [line.text for line in lines if line.severity == "error"]
        raise MissingEnvironmentError(
            f"a plugin library does not load into {self.flavour}",
            code="plugin-library",
            where=", ".join(self._libraries),
            cause="; ".join(told),
            fix="give the path of a library built for this TensorRT version and machine",
        )

    def _twice(self, kind: str, job: Any, empty: _O, limits: Limits | None) -> _O:
        """Run a job; an abort is tried once more in a fresh process."""
        first = self._once(kind, job, empty, limits)
        if not first.aborted:
            return first
        second = self._once(kind, job, empty, limits)
        if second.aborted:
            return second
        return replace(second, flaky=True)

    def _once(self, kind: str, job: Any, empty: _O, limits: Limits | None) -> _O:
        child = self._started()
        log: list[LogLine] = []
        started = time.perf_counter()
        try:
            child.send(kind, job)
            result, why, node = self._wait(child, limits or self.limits, log)
        except KeyboardInterrupt:
            self._end_child()
            raise
        except BrokenPipeError:
            result, why, node = None, "aborted", None
            self._end_child()
        seconds = time.perf_counter() - started
        if why is not None:
            return replace(empty, **{why: True}, seconds=seconds, log=tuple(log), last_node=node)
        if isinstance(result, str):
            line = LogLine("error", result.splitlines()[0])
            return replace(empty, seconds=seconds, log=(*log, line), last_node=node)
        done: _O = replace(result, log=tuple(log), last_node=node)
        return done

    def _wait(self, child: _Child, limits: Limits, log: list[LogLine]) -> tuple[Any, str | None, str | None]:
        """The job's result, or how the child ended, and the node announced last."""
        deadline = time.monotonic() + limits.seconds
        looked = 0.0
        node: str | None = None
        while True:
            # Looked at on every turn: a process that keeps talking must not outlive its limits.
            now = time.monotonic()
            if now >= deadline:
                self._end_child()
                return None, "timed_out", node
            if limits.memory_bytes is not None and now - looked > MEMORY_SECONDS:
                looked = now
                if child.resident_bytes > limits.memory_bytes:
                    self._end_child()
                    return None, "out_of_memory", node
            try:
                message = child.messages.get(timeout=min(MEMORY_SECONDS, deadline - now))
            except queue.Empty:
                continue
            if message is None:
                self._end_child()
                return None, "aborted", node
            kind, payload = message
            if kind == "log":
                log.append(payload)
                if self._on_log is not None:
                    self._on_log(payload)
            elif kind == "node":
                node = payload
            else:
                return payload, None, node


_idle: list[Worker] = []
"""Workers that no run uses; their processes stay warm for the next one."""


def lend(flavour: Flavour, *, on_log: Callable[[LogLine], None] | None = None, tf32: bool = False) -> Worker:
    """A worker for one run: an idle one with a warm process if there is one. Give it back with :func:`give_back`."""
    for i, worker in enumerate(_idle):
        if worker.flavour == flavour and worker.tf32 == tf32:
            del _idle[i]
            worker._on_log = on_log
            return worker
    return Worker(flavour, on_log=on_log, tf32=tf32)


def give_back(worker: Worker) -> None:
    """Keep a worker for the next run; at most one process of a kind stays. All end with this process."""
    worker._on_log = None
    if worker._libraries or any(w.flavour == worker.flavour and w.tf32 == worker.tf32 for w in _idle):
        worker.close()
        return
    _idle.append(worker)


@atexit.register
def _close_idle() -> None:
    while _idle:
        _idle.pop().close()


def _portable(model: bytes | Path) -> bytes | str:
    return str(model.resolve()) if isinstance(model, Path) else model
