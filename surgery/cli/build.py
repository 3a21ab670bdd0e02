"""`surgery build`: parse and build a model as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from surgery.cli.options import (
    JsonOption,
    OutputOption,
    PluginPathOption,
    SetOption,
    ShapeOption,
    TargetOption,
)

if TYPE_CHECKING:
    from surgery.pipeline import Listener
    from surgery.report import Report


def build(
    model: Annotated[Path, typer.Argument(help="The ONNX model.")],
    target: TargetOption = None,
    output: OutputOption = None,
    shape: ShapeOption = None,
    plugin_path: PluginPathOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Build a model as it is, without surgery."""
    from surgery.cli.execute import default_folder, execute
    from surgery.cli.values import parse_sets, parse_shapes

    folder = output or default_folder(model)

    def work(listener: Listener | None) -> Report:
        from surgery import api

        return api.build(
            model,
            target=target,
            output=folder,
            shapes=parse_shapes(shape or ()),
            overrides=parse_sets(set_ or ()),
            plugin_paths=plugin_path or (),
            listener=listener,
        )

    execute(work, as_json=json, folder=lambda: folder)
