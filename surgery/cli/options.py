"""Options that several commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Require(str, Enum):
    """Level of verification without which a run does not succeed."""

    graph = "graph"
    engine = "engine"


TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",  # said: Typer 0.27 takes a metavar that is the parameter's name for the option itself
        metavar="TARGET",
        help="TensorRT to prepare for: tensorrt-rtx-1.7, tensorrt-10.16. [default: what is installed]",
    ),
]
OutputOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder for the results. [default: ./<model>.surgery]")
]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=MIN:OPT:MAX",
        help="Shapes of an input: image=1x3x300x300:4x3x300x300:8x3x300x300, or one for all three.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change an option of the pipeline: build.optimization_level=3, build.tf32=true.",
    ),
]
PluginPathOption = Annotated[
    list[Path] | None, typer.Option(metavar="DIR", help="Folder with plugins of your own; may be repeated.")
]
RuleFileOption = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="YAML or Python file with rules of your own; may be repeated."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the report as JSON, and nothing else, on standard output.")
]
