"""`surgery new`: a plugin folder to start from."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from surgery.cli.output import print_text


class NewNoun(str, Enum):
    """What can be made."""

    plugin = "plugin"


def new(
    noun: Annotated[NewNoun, typer.Argument(metavar="NOUN", help="plugin.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name: the operator type of its nodes.")],
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder to make it in. [default: here]", show_default=False)
    ] = Path("."),
) -> None:
    """Make the folder of a new plugin: a definition that works, with a test that passes."""
    from surgery.plugins.skeleton import is_shipped, write_skeleton

    files = write_skeleton(name, output)
    print_text("\n".join(map(str, files)))
    folder = files[0].parent
    if is_shipped(name):
        print_text(
            f"surgery has a plugin of that name; yours replaces it where --plugin-path {folder} is given"
        )
    print_text(f"test it: pytest {folder}\nuse it: surgery run migrate MODEL --plugin-path {folder}")
