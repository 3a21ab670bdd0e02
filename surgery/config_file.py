"""What a pipeline file may say, key by key; :mod:`surgery.config` has what a run gets of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _names(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names, json_schema_input_type=str | list[str])]
Dim = Annotated[int, Field(gt=0)]
Batch = Literal["as-exported", "dynamic"]
Range = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""A shape range: minimum, optimum, maximum."""


class CutSpec(BaseModel):
    """Where a part of the graph begins and ends: by scope, or by boundary tensors.

    Attributes:
        scope: Scopes (`Postprocessor`, or `**/Postprocessor` at any depth); nodes inside one are the cut, and
            what lies between them.
        grow: With scope: also take nodes before it that feed nothing else (`back`), or after it that read
            nothing else (`forward`).
        inputs: Names of the tensors where the cut begins.
        outputs: Names of the tensors where the cut ends.
        required: Finding nothing is an error.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scope: Names = ()
    grow: Literal["none", "back", "forward"] = "none"
    inputs: Names = ()
    outputs: Names = ()
    required: bool = True


class Profile(BaseModel):
    """Range of shapes of one input.

    Attributes:
        min: Smallest shape.
        opt: Shape to optimize for.
        max: Largest shape.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: tuple[Dim, ...]
    opt: tuple[Dim, ...]
    max: tuple[Dim, ...]

    @property
    def range(self) -> Range:
        """Minimum, optimum, maximum."""
        return self.min, self.opt, self.max


class PipelineFile(BaseModel):
    """A pipeline file.

    Attributes:
        schema: Version of this format.
        name: Name of the pipeline; the file's name without it.
        title: One line about it.
        description: What it is for, and what it does not do.
        extends: Pipeline that this one starts from: a shipped name, or a path relative to this file. What this file
            says goes before it; cuts and profiles by name, anything else as a whole.
        set: Options of the stages that it takes over, by STAGE.OPTION, as with `--set`.
        choose: Start from the pipeline of the model's family, found by looking at the graph.
        batch: `dynamic` makes a fixed batch free; `as-exported` leaves it.
        model: The ONNX model, relative to this file; the command line may give another.
        target: The TensorRT to prepare for (`tensorrt-rtx-1.7`); what is installed without it.
        plugin_path: Folders with plugins of your own, relative to this file.
        cuts: Parts of the graph that stages refer to by name.
        profiles: Shape ranges by input; derived from the model without them.
        stages: What to do, in order: a stage's name, or its name with options.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str | None = None
    title: str = ""
    description: str = ""
    extends: str | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    choose: bool = False
    batch: Batch = "as-exported"
    model: str | None = None
    target: str | None = None
    plugin_path: Names = ()
    cuts: dict[str, CutSpec] = Field(default_factory=dict)
    profiles: dict[str, Profile] = Field(default_factory=dict)
    stages: list[str | dict[str, Any]] = Field(min_length=1)


def profile_problem(profile: Range) -> tuple[str, int | None, str] | None:
    """What is wrong with a shape range: which of min, opt, max, which axis, and why; or None."""
    low, best, high = profile
    for key, shape in (("opt", best), ("max", high)):
        if len(shape) != len(low):
            return key, None, f"has rank {len(shape)}, but min has rank {len(low)}"
    for axis, (a, b, c) in enumerate(zip(low, best, high, strict=True)):
        if a < 1:
            return "min", axis, f"min {a} is below 1 in dimension {axis}"
        if a > b:
            return "min", axis, f"min {a} is greater than opt {b} in dimension {axis}"
        if b > c:
            return "opt", axis, f"opt {b} is greater than max {c} in dimension {axis}"
    return None
