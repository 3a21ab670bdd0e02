"""`surgery run`: a pipeline on a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from surgery.cli.options import (
    JsonOption,
    OutputOption,
    PluginPathOption,
    Require,
    SetOption,
    ShapeOption,
    TargetOption,
)

if TYPE_CHECKING:
    from surgery.pipeline import Listener
    from surgery.report import Report


def run(
    pipeline: Annotated[
        str, typer.Argument(help="A YAML file, or a shipped name; `surgery list pipelines` has them.")
    ],
    model: Annotated[
        Path | None, typer.Argument(help="The ONNX model. [default: `model:` of the pipeline]")
    ] = None,
    target: TargetOption = None,
    output: OutputOption = None,
    inputs: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="Values of the model's inputs, to verify with as well."),
    ] = None,
    constant: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Make an input a constant: iou_threshold=0.6, size=[1, 2]."),
    ] = None,
    shape: ShapeOption = None,
    stages: Annotated[
        str | None, typer.Option(metavar="FIRST..LAST", help="Run a part of the pipeline: fold..parse.")
    ] = None,
    require: Annotated[
        Require, typer.Option(help="What has to be verified; `engine` needs a GPU.")
    ] = Require.graph,
    plugin_path: PluginPathOption = None,
    set_: SetOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random inputs.")] = 0,
    json: JsonOption = False,
) -> None:
    """Run a pipeline on a model."""
    from surgery.cli.execute import default_folder, execute
    from surgery.cli.values import load_inputs, parse_constants, parse_sets, parse_shapes

    folder: Path | None = output

    def work(listener: Listener | None) -> Report:
        nonlocal folder
        from surgery import api
        from surgery.config import load_pipeline

        overrides = parse_sets(set_ or ())
        constants = parse_constants(constant or ())
        shapes = parse_shapes(shape or ())
        arrays = load_inputs(inputs) if inputs is not None else None
        config = load_pipeline(pipeline)
        if folder is None:
            folder = default_folder(model or config.model_path())
        return api.run(
            config,
            model,
            target=target,
            output=folder,
            inputs=arrays,
            constants=constants,
            shapes=shapes,
            overrides=overrides,
            require=require.value,
            stages=stages,
            plugin_paths=plugin_path or (),
            seed=seed,
            listener=listener,
        )

    execute(work, as_json=json, folder=lambda: folder)
