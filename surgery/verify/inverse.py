"""Applying the inverse of a change of contract, and nothing else, before outputs are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Arrays = dict[str, "NDArray[Any]"]


def apply_inverses(outputs: Mapping[str, NDArray[Any]], inverses: Sequence[Mapping[str, Any]]) -> Arrays:
    """Outputs of the result, brought back to the original's contract.

    Operations: ``rename`` (from, to), ``cast`` (name, to), ``transpose`` (name, perm), ``reshape`` (name,
    shape), ``slice_by_count`` (name, count, axis): the first entries along an axis, as many as the output
    ``count`` says.

    Raises:
        ValueError: an unknown operation, or an output that is not there.
    """
    result = dict(outputs)
    for step in inverses:
        op = step.get("op")
        name = str(step.get("from") if op == "rename" else step.get("name"))
        if name not in result:
            raise ValueError(f"io_changes names output {name!r}, which the result does not have")
        value = result[name]
        if op == "rename":
            result = {(str(step["to"]) if k == name else k): v for k, v in result.items()}
        elif op == "cast":
            result[name] = value.astype(np.dtype(step["to"]))
        elif op == "transpose":
            result[name] = value.transpose(step["perm"])
        elif op == "reshape":
            result[name] = value.reshape(step["shape"])
        elif op == "slice_by_count":
            count = int(np.asarray(result[str(step["count"])]).reshape(-1)[0])
            result[name] = np.take(value, range(count), axis=int(step.get("axis", 0)))
        else:
            raise ValueError(f"unknown inverse {op!r} in io_changes")
    return result
