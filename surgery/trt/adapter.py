"""One small interface over ``tensorrt`` 10 and 11 and ``tensorrt_rtx``; imported only by the child process.

What differs (facts from the bindings of 10.16, 11.4 and RTX 1.4 to 1.7): flag numbers, which flags exist,
``STRONGLY_TYPED`` (implied from 11 and on RTX), and members of enums. Flags are looked up by name, never by
number.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from surgery.trt.types import (
    MODULES,
    BuildOptions,
    BuildOutcome,
    Flavour,
    ParseOutcome,
    ParserMessage,
    ShapeProfile,
    TensorSpec,
)

ANNOUNCEMENT = "Parsing node: "
"""How the parser announces a node at verbose level: ``Parsing node: NAME [OP]``."""

Log = Callable[[str, str], None]


class Adapter:
    """TensorRT as this project uses it.

    Args:
        flavour: Which package to import.
        log: Called with (severity, text) for every line of the log.
        announce: Called with the name of each node before the parser looks at it.

    Raises:
        ImportError: the package is not installed or its libraries do not load.
    """

    def __init__(self, flavour: Flavour, log: Log, announce: Callable[[str], None]) -> None:
        self.flavour = flavour
        self.trt: Any = importlib.import_module(MODULES[flavour])
        trt = self.trt

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, text: str) -> None:
                name = severity.name.lower()
                if name == "verbose":
                    at = text.find(ANNOUNCEMENT)
                    if at >= 0:
                        announce(text[at + len(ANNOUNCEMENT) :])
                    return
                log(name, text)

        self.logger = Logger()
        if hasattr(trt, "init_libnvinfer_plugins"):
            trt.init_libnvinfer_plugins(self.logger, "")

    @property
    def version(self) -> str:
        """Version of the TensorRT package."""
        return str(self.trt.__version__)

    def load_plugins(self, libraries: Sequence[str]) -> None:
        """Load plugin libraries (``.so``) into the plugin registry.

        Raises:
            OSError: a library does not load; the registry itself only logs why and returns no handle.
        """
        for library in libraries:
            if self.trt.get_plugin_registry().load_library(library) is None:
                raise OSError(f"the plugin library {library} does not load")

    def _network(self) -> tuple[Any, Any]:
        trt = self.trt
        builder = trt.Builder(self.logger)
        flags = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        # The model says what is computed in which type; a weakly typed build may lower it on its own.
        return builder, builder.create_network(1 << int(flags) if flags is not None else 0)

    def _parse(self, network: Any, model: bytes | str) -> tuple[Any, bool, tuple[ParserMessage, ...]]:
        parser = self.trt.OnnxParser(network, self.logger)
        ok = parser.parse_from_file(model) if isinstance(model, str) else parser.parse(model)
        errors = tuple(_message(parser.get_error(i)) for i in range(parser.num_errors))
        return parser, bool(ok), errors

    def parse(self, model: bytes | str) -> ParseOutcome:
        """Parse a model, given as bytes or as a path (external weights beside it)."""
        _builder, network = self._network()
        _parser, ok, errors = self._parse(network, model)
        if not ok:
            return ParseOutcome(False, errors=errors)
        inputs, outputs = self._specs(network)
        return ParseOutcome(True, errors=errors, inputs=inputs, outputs=outputs)

    def build(
        self, model: bytes | str, profiles: Sequence[Sequence[ShapeProfile]], options: BuildOptions
    ) -> BuildOutcome:
        """Parse and build; the engine's bytes are in the outcome."""
        trt = self.trt
        builder, network = self._network()
        # The parser must outlive the build: it owns the weights that the network refers to.
        parser, ok, errors = self._parse(network, model)
        if not ok:
            return BuildOutcome(False, parse_errors=errors)
        config = builder.create_builder_config()
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if options.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        tf32 = getattr(trt.BuilderFlag, "TF32", None)
        if tf32 is not None:
            (config.set_flag if options.tf32 else config.clear_flag)(tf32)
        for entries in profiles:
            profile = builder.create_optimization_profile()
            for entry in entries:
                profile.set_shape(entry.input, entry.min, entry.opt, entry.max)
            config.add_optimization_profile(profile)
        inputs, outputs = self._specs(network)
        serialized = builder.build_serialized_network(network, config)
        del parser
        if serialized is None:
            return BuildOutcome(False, inputs=inputs, outputs=outputs)
        return BuildOutcome(
            True,
            engine=bytes(serialized),
            inputs=inputs,
            outputs=outputs,
            compute_capability="portable" if self.flavour == "tensorrt-rtx" else None,
        )

    def _specs(self, network: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        def spec(tensor: Any) -> TensorSpec:
            kind = tensor.dtype.name.lower()
            named = {"float": "float32", "half": "float16", "bf16": "bfloat16"}.get(kind, kind)
            return TensorSpec(tensor.name, named, tuple(int(d) for d in tensor.shape))

        inputs = tuple(spec(network.get_input(i)) for i in range(network.num_inputs))
        return inputs, tuple(spec(network.get_output(i)) for i in range(network.num_outputs))


def _message(error: Any) -> ParserMessage:
    def text(name: str) -> str:
        member = getattr(error, name, None)
        value = member() if callable(member) else member
        return str(value) if value is not None else ""

    stack: tuple[str, ...] = ()
    if hasattr(error, "local_function_stack"):
        stack = tuple(str(s) for s in (error.local_function_stack() or ()))
    return ParserMessage(
        code=text("code").rsplit(".", 1)[-1],
        description=text("desc"),
        node_name=text("node_name"),
        node_op=text("node_operator"),
        node_index=int(error.node()),
        function=text("func"),
        file=Path(text("file")).name,
        line=int(error.line()),
        local_functions=stack,
    )
