"""What the parent process and the TensorRT process tell each other; plain data, no TensorRT types."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Flavour = Literal["tensorrt", "tensorrt-rtx"]
MODULES: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
STRATEGY = "dynamic_shapes_kernel_specialization_strategy"
"""The attribute of TensorRT-RTX's ``IRuntimeConfig`` that says when kernels are specialised for a shape."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output: name, dtype (numpy's name, or bfloat16, float8...), shape (-1: free)."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of TensorRT's log; severity is its name in lower case."""

    severity: str
    text: str


@dataclass(frozen=True, slots=True)
class ParserMessage:
    """One error object of the ONNX parser (IParserError).

    Attributes:
        code: Name of the error code, e.g. UNSUPPORTED_NODE.
        description: The parser's text.
        node_name: Node it is about.
        node_op: The node's operator.
        node_index: Its position in the graph, -1 if unknown.
        function: C++ function that failed.
        file: C++ source file.
        line: Line in it.
        local_functions: Stack of model-local functions and subgraphs, outermost first.
    """

    code: str
    description: str
    node_name: str
    node_op: str
    node_index: int
    function: str
    file: str
    line: int
    local_functions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ShapeProfile:
    """Minimum, optimum and maximum shape of one input."""

    input: str
    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Options that every flavour has; None leaves TensorRT's default."""

    optimization_level: int | None = None
    workspace_bytes: int | None = None
    tf32: bool = True


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one job: wall time in seconds, resident memory of the process in bytes."""

    seconds: float = 1800.0
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended.

    Attributes:
        ok: It did what was asked.
        aborted: The process ended by itself (``std::terminate``, a signal).
        timed_out: It was stopped after the time limit.
        out_of_memory: It was stopped at the memory limit.
        seconds: Wall time.
        flaky: A second try in a fresh process gave another verdict.
        log: TensorRT's log lines of this job.
        last_node: Node that the parser announced last; says where an abort of the parser happened.
    """

    ok: bool
    aborted: bool = False
    timed_out: bool = False
    out_of_memory: bool = False
    seconds: float = 0.0
    flaky: bool = False
    log: tuple[LogLine, ...] = ()
    last_node: str | None = None


@dataclass(frozen=True, slots=True)
class ParseOutcome(Outcome):
    """Verdict of the parser."""

    errors: tuple[ParserMessage, ...] = ()
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class BuildOutcome(Outcome):
    """Verdict of parser and builder.

    Attributes:
        parse_errors: The parser's errors; the builder did not run then.
        errors: The builder's error lines.
        engine: The serialized engine.
        inputs: The network's inputs.
        outputs: The network's outputs.
        compute_capability: What the engine is built for (``portable`` for TensorRT-RTX without a choice).
    """

    parse_errors: tuple[ParserMessage, ...] = ()
    errors: tuple[str, ...] = ()
    engine: bytes | None = field(default=None, repr=False)
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    compute_capability: str | None = None


@dataclass(frozen=True, slots=True)
class RunOutcome(Outcome):
    """Outputs of an engine, one mapping per feed, in order."""

    outputs: tuple[dict[str, Any], ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class GpuInfo:
    """A GPU: name and compute capability (``9.0``)."""

    name: str
    compute_capability: str


@dataclass(frozen=True, slots=True)
class WorkerEnvironment:
    """What the TensorRT process found: version, GPU, and why there is none."""

    version: str
    gpu: GpuInfo | None
    reason_no_gpu: str | None
