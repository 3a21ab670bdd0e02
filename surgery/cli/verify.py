"""`surgery verify`: finish the verification of an output folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from surgery.cli.options import JsonOption, PluginPathOption

if TYPE_CHECKING:
    from surgery.pipeline import Listener
    from surgery.report import Report


def verify(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Output folder of an earlier run, or its report.json.")
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="The original model. [default: the file with its sha256 where the run had it, beside DIR, "
            "in DIR or in the working directory]",
        ),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz",
            help="Values of the model's inputs, to verify with as well; those of the run are in DIR.",
        ),
    ] = None,
    plugin_path: PluginPathOption = None,
    json: JsonOption = False,
) -> None:
    """Run the engine of an earlier run on a GPU and compare it with the original."""
    from surgery.cli.execute import execute
    from surgery.cli.values import load_inputs
    from surgery.finish import output_folder

    def work(listener: Listener | None) -> Report:
        from surgery import api

        arrays = load_inputs(inputs) if inputs is not None else None
        return api.verify(folder, model, inputs=arrays, plugin_paths=plugin_path or (), listener=listener)

    execute(work, as_json=json, folder=lambda: output_folder(folder))
