"""`surgery new`: a plugin folder, or a pipeline file, to start from."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from surgery.cli.options import TargetOption
from surgery.cli.output import print_text


class NewNoun(str, Enum):
    """What can be made."""

    plugin = "plugin"
    pipeline = "pipeline"


def new(
    noun: Annotated[NewNoun, typer.Argument(metavar="NOUN", help="plugin or pipeline.")],
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A plugin's name, the operator type of its nodes; a pipeline's model, a file.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder to make it in; for a pipeline the file, too (y.yaml). [default: here]",
            show_default=False,
        ),
    ] = Path("."),
    target: TargetOption = None,
) -> None:
    """Make a plugin's folder that works, with a test; or a pipeline file for one model, which runs as it is."""
    if noun is NewNoun.pipeline:
        from surgery.cli.new_pipeline import new_pipeline

        new_pipeline(Path(name), output, target)
        return
    from surgery.plugins.skeleton import is_defined, write_skeleton

    files = write_skeleton(name, output)
    print_text("\n".join(map(str, files)))
    folder, given = files[0].parent, quote(str(output))
    if is_defined(name):
        print_text(
            f"surgery has a plugin of that name; yours replaces it where --plugin-path {given} is given"
        )
    print_text(f"test it: python -m pytest {quote(str(folder))}  (python -m pip install pytest)")
    print_text(f"use it: surgery run migrate MODEL --plugin-path {given}")
