"""Seeded inputs: pictures with the statistics of pictures, so that detectors answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from surgery.errors import ConfigError
from surgery.text import did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHANNELS = (1, 3, 4)

Layout = Literal["channels first", "channels last"]


def layout_of(shape: Sequence[int]) -> Layout | None:
    """Where the channels of a picture of rank 3 or 4 are; None if a tensor of that shape is no picture.

    With rank 3 a single channel does not count: [1, tokens, features] is no picture.
    """
    if len(shape) not in (3, 4) or min(shape) < 1:
        return None
    counts = CHANNELS if len(shape) == 4 else CHANNELS[1:]
    if shape[-1] in counts:
        return "channels last"
    return "channels first" if shape[-3] in counts else None


def image_like(
    shape: Sequence[int],
    dtype: Any,
    rng: np.random.Generator,
    layout: Layout | None = None,
    value_range: tuple[float, float] | None = None,
) -> NDArray[Any]:
    """Pictures: a smooth background, a few objects with edges, and noise.

    Args:
        shape: [.., H, W, C] or [.., C, H, W].
        dtype: Integer or float.
        rng: Source of randomness.
        layout: None takes the axis with 1, 3 or 4 entries, the last one if both could be.
        value_range: Darkest and brightest value; None is 0 to 255 (or as far as the dtype goes) for integers
            and 0 to 1 for floats.
    """
    kind = np.dtype(dtype)
    whole = kind.kind in "ui"
    if value_range is None:
        value_range = (0, min(255, int(np.iinfo(kind).max))) if whole else (0, 1)
    if layout is None:
        layout = "channels last" if shape[-1] in CHANNELS else "channels first"
    last = layout == "channels last"
    height, width, channels = shape[-3:] if last else (*shape[-2:], shape[-3])
    count = int(np.prod(shape[:-3], dtype=np.int64))
    pictures = np.empty((count, height, width, channels))
    for picture in pictures:
        picture[:] = _picture(height, width, channels, rng)
    if not last:
        pictures = pictures.transpose(0, 3, 1, 2)
    low, high = value_range
    values = low + pictures.reshape(shape) * (high - low)
    return (values.round() if whole else values).astype(kind)


def _picture(height: int, width: int, channels: int, rng: np.random.Generator) -> NDArray[np.float64]:
    y, x = np.mgrid[0 : max(height, 1), 0 : max(width, 1)]
    picture = np.zeros((height, width, channels))
    for channel in range(channels):
        for _ in range(3):
            fy, fx, phase = rng.uniform(0.5, 4), rng.uniform(0.5, 4), rng.uniform(0, 6.3)
            picture[..., channel] += np.sin(6.3 * (fy * y / height + fx * x / width) + phase)
    picture = 0.5 + picture / 8
    for _ in range(8):
        h, w = rng.uniform(0.08, 0.5, 2)
        top, left = rng.uniform(0, 1 - h), rng.uniform(0, 1 - w)
        rows = slice(int(top * height), int((top + h) * height) + 1)
        columns = slice(int(left * width), int((left + w) * width) + 1)
        picture[rows, columns] = 0.3 * picture[rows, columns] + 0.7 * rng.uniform(0, 1, channels)
    return np.clip(picture + rng.normal(0, 0.03, picture.shape), 0, 1)


def derive_input(
    name: str,
    dtype: Any,
    shape: Sequence[int],
    rng: np.random.Generator,
    span: tuple[float, float] | None = None,
) -> NDArray[Any]:
    """A plausible value for an input: pictures, masks of 0 and 1, small integers, or normal numbers.

    Args:
        name: Name of the input; one that speaks of a mask gets 0 and 1.
        dtype: Its dtype.
        shape: Its shape.
        rng: Source of randomness.
        span: low <= value < high, where that is known. A short list of whole numbers has no number twice
            where the range allows: it may be a list of axes.
    """
    kind = np.dtype(dtype)
    if span is not None and kind.kind in "ui":
        low, high = int(span[0]) if kind.kind == "i" else max(int(span[0]), 0), int(span[1])
        high = max(high, low + 1)
        if len(shape) == 1 and shape[0] <= high - low:
            return (low + rng.permutation(high - low)[: shape[0]]).astype(kind)
        return rng.integers(low, high, shape).astype(kind)
    if span is not None and kind.kind == "f":
        return np.asarray(rng.uniform(*span, shape)).astype(kind)
    if kind.kind in "uif" and layout_of(shape) is not None:
        return image_like(shape, kind, rng, layout_of(shape))
    if kind.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if kind.kind in "ui":
        return rng.integers(0, 2 if "mask" in name.lower() else 16, shape).astype(kind)
    if kind.kind in "OSU":
        return rng.choice(np.array(["a", "to", "word"], object), shape)
    return np.asarray(rng.normal(0, 1, shape)).astype(kind)


def check_given(
    given: Mapping[str, Any], wanted: Mapping[str, tuple[Any, Sequence[int | str | None] | None]]
) -> dict[str, NDArray[Any]]:
    """The user's inputs, checked against what the model declares: name to (dtype, shape).

    Raises:
        ConfigError: a name is unknown or missing, or dtype or shape do not fit.
    """
    where = "--inputs"
    for name in given:
        if name not in wanted:
            raise ConfigError(
                f"the model has no input {name!r}",
                code="unknown-input",
                where=where,
                fix=f"{did_you_mean(name, wanted)} inputs: {', '.join(wanted)}".lstrip(),
            )
    missing = [name for name in wanted if name not in given]
    if missing:
        raise ConfigError(
            f"no value for input {', '.join(map(repr, missing))}",
            code="missing-input",
            where=where,
            fix="add to the file: " + ", ".join(f"{n} {_said(*wanted[n])}" for n in missing),
        )
    result = {}
    for name, (dtype, shape) in wanted.items():
        value = np.asarray(given[name])
        kind = np.dtype(dtype)
        if value.dtype.type is np.void and value.dtype.names is None and value.itemsize == kind.itemsize:
            value = value.view(kind)  # files of arrays have no bfloat16 or float8, only their bytes
        if value.dtype != kind:
            raise ConfigError(
                f"input {name!r} has dtype {value.dtype}, the model wants {np.dtype(dtype)}",
                code="input-dtype",
                where=where,
                fix=f"convert it: {name}.astype('{np.dtype(dtype)}')",
            )
        if shape is not None and (
            len(shape) != value.ndim
            or any(isinstance(d, int) and d != n for d, n in zip(shape, value.shape, strict=True))
        ):
            raise ConfigError(
                f"input {name!r} has shape {list(value.shape)}, the model wants {_dims(shape)}",
                code="input-shape",
                where=where,
                fix=_shape_fix(name, value.shape, shape),
            )
        result[name] = value
    return result


def _said(dtype: Any, shape: Sequence[int | str | None] | None) -> str:
    return f"{np.dtype(dtype)}{'' if shape is None else _dims(shape)}"


def _dims(shape: Sequence[int | str | None]) -> str:
    return f"[{', '.join('?' if d is None else str(d) for d in shape)}]"


def _shape_fix(name: str, got: Sequence[int], wanted: Sequence[int | str | None]) -> str:
    """What to do about a shape: a batch that is missing or too much is the usual mistake."""
    if len(wanted) == len(got) + 1 and (wanted[0] in (1, None) or isinstance(wanted[0], str)):
        return f"add the batch: {name}[None]"
    if len(wanted) != len(got):
        return f"give {len(wanted)} dims"
    wrong = [
        f"{d} in place of {n}" for d, n in zip(wanted, got, strict=True) if isinstance(d, int) and d != n
    ]
    return f"give {', '.join(wrong)}"
