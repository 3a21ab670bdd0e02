"""Inputs that the user gives as constants."""

from __future__ import annotations

import numpy as np

from surgery.errors import ConfigError
from surgery.graph.convert import constant
from surgery.graph.tidy import replace_uses
from surgery.graph.view import View
from surgery.pipeline import State
from surgery.text import did_you_mean


def bind_constants(state: State) -> None:
    """Put the given values in the place of graph inputs, in the current graph.

    The original model keeps its inputs; verification feeds it the same values.

    Raises:
        ConfigError: no such input, or a value whose shape or kind does not fit it.
    """
    inputs = {t.name: t for t in state.graph.inputs}
    for name, value in state.options.constants.items():
        where = f"--constant {name}"
        if name not in inputs:
            raise ConfigError(
                f"the model has no input {name!r}",
                code="unknown-input",
                where=where,
                fix=did_you_mean(name, inputs) or f"inputs: {', '.join(inputs)}",
            )
        tensor = inputs[name]
        try:
            array = np.asarray(value).astype(np.dtype(tensor.dtype), casting="unsafe")
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{value!r} is not a value for an input of type {np.dtype(tensor.dtype)}",
                code="constant-type",
                where=where,
            ) from error
        dims = tensor.shape
        if dims is not None and (
            len(dims) != array.ndim
            or any(isinstance(d, int) and d != n for d, n in zip(dims, array.shape, strict=True))
        ):
            raise ConfigError(
                f"the value has shape {list(array.shape)}, the input {list(dims)}",
                code="constant-shape",
                where=where,
            )
        replace_uses(View(state.graph), name, constant(f"{name}/constant", array))
    given = set(state.options.constants)
    state.graph.inputs = [t for t in state.graph.inputs if t.name not in given]
