"""The schema of `plugin.yaml` and `samples.yaml`: what a plugin's definition says, as Pydantic models."""

from __future__ import annotations

import math
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

AttributeType = Literal["int", "bool", "float", "string", "ints", "floats", "tensor"]
"""`bool` is 0 or 1, written as an ONNX INT, as TensorRT's plugin fields have it. `tensor` is a TENSOR of
floats (weights); TensorRT takes FLOATS for it too."""

ANY_DIMS = "..."
"""What a dim of a shape starts with that stands for any number of dims."""

Interface = Literal["IPluginV2", "IPluginV2Ext", "IPluginV2IOExt", "IPluginV2DynamicExt", "IPluginV3"]
PER_SAMPLE_INTERFACES: frozenset[str] = frozenset({"IPluginV2", "IPluginV2Ext", "IPluginV2IOExt"})
"""Interfaces whose plugins declare shapes without the batch dimension."""

_VERSION = re.compile(r"\d+(\.\d+)*")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Attribute(_Model):
    """One attribute of the node.

    Attributes:
        type: `int`, `bool` (0 or 1), `float`, `string`, `ints`, `floats` or `tensor`.
        required: The node has to carry it.
        default: What its absence means; None with `required: false` means "not set".
        min: Smallest value (of each element).
        max: Largest value (of each element).
        above: Value that it (each element) has to exceed.
        length: Number of elements of a list; of a tensor, the rank.
        choices: The values allowed.
        meaning: What it does, for people.
    """

    type: AttributeType
    required: bool = False
    default: Any = None
    min: float | None = None
    max: float | None = None
    above: float | None = None
    length: int | None = None
    choices: tuple[Any, ...] = ()
    meaning: str

    @model_validator(mode="after")
    def _default_fits(self) -> Attribute:
        if self.required and self.default is not None:
            raise ValueError("a required attribute has no default")
        if self.default is not None and (problem := self.problem(self.default)):
            raise ValueError(f"the default {problem}")
        return self

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value ("is 3; ..."), or None."""
        if self.type == "tensor":
            return _tensor_problem(value, self.length)
        is_list = self.type in ("ints", "floats")
        if is_list != isinstance(value, (list, tuple)):
            return f"is {value!r}; expected {self.type}"
        items = list(value) if is_list else [value]
        if self.length is not None and is_list and len(items) != self.length:
            return f"has {len(items)} elements; expected {self.length}"
        for item in items:
            if text := self._item_problem(item):
                return text
        return None

    def _item_problem(self, item: Any) -> str | None:
        kind = self.type.removesuffix("s") if self.type in ("ints", "floats") else self.type
        if kind == "string":
            right = isinstance(item, str)
        elif kind == "float":
            right = isinstance(item, (int, float)) and not isinstance(item, bool) and math.isfinite(item)
        else:
            right = isinstance(item, int)
        if not right:
            return f"is {item!r}; expected {self.type}"
        if kind == "bool" and item not in (0, 1):
            return f"is {item!r}; expected 0 or 1"
        if self.choices and item not in self.choices:
            return f"is {item!r}; expected one of {', '.join(map(repr, self.choices))}"
        if kind != "string":
            if self.min is not None and item < self.min:
                return f"is {item!r}; the minimum is {self.min:g}"
            if self.max is not None and item > self.max:
                return f"is {item!r}; the maximum is {self.max:g}"
            if self.above is not None and item <= self.above:
                return f"is {item!r}; it has to be above {self.above:g}"
        return None


def _tensor_problem(value: Any, rank: int | None) -> str | None:
    """What is wrong with weights: an array of floats of that rank (any if None), or a list of floats."""
    import numpy as np

    if isinstance(value, str):
        return f"is {value!r}; expected tensor"
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return "is no array; expected tensor"
    if array.dtype.kind not in "fi" or not array.size:
        return f"is an array of {array.dtype}, shape {list(array.shape)}; expected tensor of floats"
    if rank is not None and isinstance(value, np.ndarray) and array.ndim != rank:
        return f"has rank {array.ndim}; expected {rank}"
    return None


Dim = int | str


class Input(_Model):
    """One input: symbols in shapes stand for the same number wherever they occur.

    `repeated` (the last one only) stands for one or more inputs `name_0`, `name_1`, ...; a symbol that ends
    in ``*`` is then a different one for each of them. One dim of a shape may be ``...`` or ``...name``: any
    number of dims, the same ones wherever it occurs.

    `stand_in` is the shape of zeros that may be given where a graph computes the plugin without reading this input:
    its values are not read, or its size alone counts. Symbols there are sizes of other inputs, or are found from
    the graph's numbers.
    """

    name: str
    dtypes: tuple[str, ...] = ("float32",)
    shapes: tuple[tuple[Dim, ...], ...]
    optional: bool = False
    repeated: bool = False
    stand_in: tuple[Dim, ...] | None = None
    meaning: str = ""

    @field_validator("stand_in")
    @classmethod
    def _sizes_only(cls, value: tuple[Dim, ...] | None) -> tuple[Dim, ...] | None:
        if any(str(d).startswith(ANY_DIMS) for d in value or ()):
            raise ValueError(f"{ANY_DIMS} is no size: zeros that stand in have a fixed number of dims")
        return value

    def numbered(self, number: int) -> Input:
        """One of the inputs that a repeated one stands for."""
        shapes = tuple(
            tuple(f"{d[:-1]}{number}" if isinstance(d, str) and d.endswith("*") else d for d in shape)
            for shape in self.shapes
        )
        return self.model_copy(update={"name": f"{self.name}_{number}", "shapes": shapes, "repeated": False})


class Output(_Model):
    """One output; a dim is a number, a symbol of the inputs, ``...``, or ``@attribute``.

    A dtype ``@input`` is that of an input.
    `repeated` stands for any number of outputs; then body.py has to define `output_types`.
    """

    name: str
    dtype: str = "float32"
    shape: tuple[Dim, ...] = ()
    repeated: bool = False
    meaning: str = ""


class Available(_Model):
    """One registered version of the plugin in a range of TensorRT versions, `removed` excluded."""

    plugin_version: str = "1"
    interface: Interface
    since: str
    deprecated: str | None = None
    removed: str | None = None

    @field_validator("since", "deprecated", "removed")
    @classmethod
    def _is_version(cls, value: str | None) -> str | None:
        if value is not None and not _VERSION.fullmatch(value):
            raise ValueError(f"{value!r} is not a version number in quotes")
        return value

    def covers(self, version: str) -> bool:
        """Whether this TensorRT version has it."""
        at = version_key(version)
        if at < version_key(self.since):
            return False
        return self.removed is None or at < version_key(self.removed)


class Availability(_Model):
    """Which TensorRT versions ship the plugin; an empty list means none ever did."""

    tensorrt: tuple[Available, ...] = ()
    tensorrt_rtx: tuple[Available, ...] = Field(default=(), alias="tensorrt-rtx")


class CompareDetections(_Model):
    """The outputs are a set of detections per image: order among equal scores and padding do not count.

    Each field names an output; `packed` is one tensor of (image, label, score, x0, y0, x1, y1) rows.
    """

    kind: Literal["detections"]
    boxes: str | None = None
    scores: str | None = None
    classes: str | None = None
    count: str | None = None
    packed: str | None = None


class CompareValues(_Model):
    """The outputs are compared element by element."""

    kind: Literal["values"]
    atol: float = 1e-5
    rtol: float = 1e-5


class CompareRows(_Model):
    """The rows of an output are a set per image: their order does not count, nor do rows beyond the count."""

    kind: Literal["rows"]
    rows: str
    count: str


class PluginFile(_Model):
    """The whole of `plugin.yaml`.

    `also_versions` names other registered versions with the same attributes, types and computation.
    `never_emitted` is the reason why no ONNX node of that name reaches the plugin in TensorRT; the body
    is then used for every target.
    """

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    version: str = "1"
    also_versions: tuple[str, ...] = ()
    namespace: str = ""
    summary: str
    attributes: dict[str, Attribute] = {}
    inputs: tuple[Input, ...] = ()
    outputs: tuple[Output, ...]
    availability: Availability = Availability()
    never_emitted: str | None = None
    replaced_by: tuple[str, ...] = ()
    compare: CompareDetections | CompareValues | CompareRows = Field(discriminator="kind")
    sources: tuple[str, ...] = ()
    unconfirmed: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _last_is_repeated(self) -> PluginFile:
        if any(i.repeated for i in self.inputs[:-1]):
            raise ValueError("only the last input can be repeated")
        if self.version in self.also_versions:
            raise ValueError(f"also_versions repeats version {self.version!r}")
        return self

    @field_validator("name")
    @classmethod
    def _no_suffix(cls, value: str) -> str:
        if re.search(r"__\d+$", value):
            raise ValueError("a name may not end in __<number>: that tells configurations apart")
        return value


Fill = Literal[
    "uniform",
    "normal",
    "corners",
    "center",
    "prior",
    "cells",
    "boxes_of_images",
    "rotated",
    "image_info",
    "distinct",
]


class SampleInput(_Model):
    """How one input of a sample is filled.

    Attributes:
        shape: Its shape.
        dtype: Its numpy dtype; `uniform` whole numbers are within low..high, both included.
        fill: `uniform` in low..high, `normal` with mean low and deviation high, `corners` (boxes (a0, a1,
            b0, b1) inside low..high), `center` (centre and size), `prior` ([2, 4N] boxes over variances),
            `cells` (rows (image, 0, y, x), distinct cells of a grid of low rows and high columns),
            `boxes_of_images` (rows (image, x0, y0, x1, y1): boxes inside 0..high, images below low),
            `rotated` (centre and size as with `center`, and an angle within a turn), `distinct` (no two equal
            rows, whole numbers of at least low and below high).
        low: See fill.
        high: See fill.
        levels: Round to so many steps between low and high, so that equal values occur.
        duplicates: Repeat rows (the second axis), so that equal boxes occur.
        values: The values themselves, in the place of a filling.
        batch: Dimension 0 is the batch; None for "if the rank is above 2 and it is that of the first input".
    """

    shape: tuple[int, ...]
    dtype: Literal["float32", "float16", "int32", "int64", "bool"] = "float32"
    fill: Fill = "uniform"
    values: Any = None
    batch: bool | None = None
    low: float = 0.0
    high: float = 1.0
    levels: int | None = None
    duplicates: bool = False


class Sample(_Model):
    """One configuration with inputs for which the body is compared with a reference."""

    name: str
    attributes: dict[str, Any] = {}
    inputs: tuple[SampleInput, ...] = ()
    outputs: int | None = None


class SampleFile(_Model):
    """The whole of `samples.yaml`."""

    samples: tuple[Sample, ...] = Field(min_length=1)


def version_key(version: str) -> tuple[int, ...]:
    """A version number as a tuple that compares; text after the numbers is ignored."""
    match = _VERSION.match(version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()
