"""`surgery verify`: finish the verification of an output folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from surgery.cli.options import JsonOption

if TYPE_CHECKING:
    from surgery.pipeline import Listener
    from surgery.report import Report


def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of an earlier run.")],
    json: JsonOption = False,
) -> None:
    """Verify an earlier run here, on the GPU if there is one."""
    from surgery.cli.execute import execute

    def work(listener: Listener | None) -> Report:
        from surgery import api

        return api.verify(folder, listener=listener)

    execute(work, as_json=json, folder=lambda: folder)
