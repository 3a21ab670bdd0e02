"""Applying the inverse of a change of contract, and nothing else, before outputs are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CAST_INPUT = "cast_input"

Arrays = dict[str, "NDArray[Any]"]
Step = Mapping[str, Any]


def apply_inverses(outputs: Mapping[str, NDArray[Any]], inverses: Sequence[Step]) -> Arrays:
    """Outputs of the result, brought back to the original's contract, step by step.

    Every step names an output: ``rename`` from and to, all others name. ``cast_input`` is about an input and
    passed over here (:func:`apply_to_inputs`).

    ==================  =====================================================================
    ``rename``          from, to
    ``cast``            name, to (numpy's name of a dtype); values that do not fit are an error
    ``transpose``       name, perm
    ``reshape``         name, shape
    ``squeeze``         name, axes
    ``unsqueeze``       name, axes
    ``slice_by_count``  name, count (an output: one number, or one per image if all are equal), axis (default
                        0): the first entries along the axis, as many as the count says; with ``added``, the original
                        has no such output, and it is left out
    ``at_most``         name, limit: an error if the output is greater; with ``added`` as above
    ==================  =====================================================================

    Raises:
        ValueError: a step is unknown or incomplete, names an output that is not there, or does not fit it.
    """
    result = dict(outputs)
    added = {str(step["count"]) for step in inverses if step.get("added") and "count" in step}
    for step in inverses:
        op = str(step.get("op"))
        if op == CAST_INPUT:
            continue
        try:
            if op == "rename":
                result = _rename(result, step)
                continue
            name = str(step["name"])
            change = OPERATIONS[op]
            result[name] = change(_named(result, name), step, result)
        except KeyError as error:
            what = "unknown" if op not in (*OPERATIONS, "rename") else f"lacks {error}:"
            raise ValueError(f"inverse in io_changes is {what} {dict(step)}") from error
        except (TypeError, ValueError, IndexError) as error:
            raise ValueError(f"inverse {dict(step)} in io_changes: {error}") from error
    return {name: value for name, value in result.items() if name not in added}


def _named(outputs: Arrays, name: str) -> NDArray[Any]:
    if name not in outputs:
        raise ValueError(f"the result has no output {name!r}")
    return outputs[name]


def _rename(outputs: Arrays, step: Step) -> Arrays:
    old, new = str(step["from"]), str(step["to"])
    _named(outputs, old)
    if new in outputs and new != old:
        raise ValueError(f"the result has an output {new!r} already")
    return {(new if k == old else k): v for k, v in outputs.items()}


def _cast(value: NDArray[Any], step: Step, _: Arrays) -> NDArray[Any]:
    """Without loss of whole numbers: a cast that changes them would hide a difference, or make one.

    uint64 from int64 is the exception: carried in int64, arithmetic modulo 2**64 gives negative numbers for 2**63 and
    above, and the cast is what brings them back.
    """
    dtype = np.dtype(step["to"])
    with np.errstate(invalid="ignore"):
        result = value.astype(dtype)
        if dtype.kind in "iub":
            # From uint64 to int64 the way back gives the same value again, but the sign tells.
            same = value.dtype == np.int64 and dtype == np.uint64
            kept = np.array_equal(result.astype(value.dtype), value) and np.array_equal(result < 0, value < 0)
            same = same or kept
            if not same:
                raise ValueError(f"values do not fit into {dtype}")
    return result


def _slice(value: NDArray[Any], step: Step, outputs: Arrays) -> NDArray[Any]:
    counts = np.unique(_named(outputs, str(step["count"])))
    axis = int(step.get("axis", 0))
    if len(counts) != 1:
        raise ValueError("the images have different counts, so their rows do not fit into one tensor")
    count = int(counts[0])
    if not 0 <= count <= value.shape[axis]:
        raise ValueError(f"the count is {count}, the output has {value.shape[axis]} rows")
    return np.take(value, range(count), axis=axis)


def _at_most(value: NDArray[Any], step: Step, _: Arrays) -> NDArray[Any]:
    limit = int(step["limit"])
    if (value > limit).any():
        raise ValueError(f"{int(value.max())} entries are needed, and there is room for {limit}")
    return value


OPERATIONS: dict[str, Callable[[NDArray[Any], Step, Arrays], NDArray[Any]]] = {
    "cast": _cast,
    "transpose": lambda value, step, _: value.transpose(step["perm"]),
    "reshape": lambda value, step, _: value.reshape(step["shape"]),
    "squeeze": lambda value, step, _: np.squeeze(value, tuple(step["axes"])),
    "unsqueeze": lambda value, step, _: np.expand_dims(value, tuple(step["axes"])),
    "slice_by_count": _slice,
    "at_most": _at_most,
}


def apply_to_inputs(feeds: Mapping[str, NDArray[Any]], inverses: Sequence[Step]) -> Arrays:
    """The original's inputs as the result wants them: ``cast_input`` steps (name, to) are applied.

    Raises:
        ValueError: a whole number does not fit into the new dtype.
    """
    result = dict(feeds)
    for step in inverses:
        name = str(step.get("name"))
        if step.get("op") == CAST_INPUT and name in result:
            result[name] = _cast(np.asarray(result[name]), step, {})
    return result
