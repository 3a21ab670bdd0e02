"""`surgery doctor`: what is installed, whether it fits together, and what can be done with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from surgery.cli.output import columns, print_json, print_text, wrapped

if TYPE_CHECKING:
    from surgery.diagnose.doctor import Diagnosis


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False,
) -> None:
    """Say what is installed, what does not fit together, and what each command can do here."""
    from surgery.cli.execute import _quiet_stdout
    from surgery.diagnose.doctor import diagnose

    with _quiet_stdout():
        result = diagnose()
    if json:
        print_json(result.to_dict())
    else:
        print_text("\n".join(_lines(result)))


def _lines(result: Diagnosis) -> Iterator[str]:
    yield f"python        {result.python}"
    yield from wrapped(
        "packages      ", ", ".join(f"{n} {v}" for n, v in result.packages.items() if v is not None)
    )
    if result.providers:
        yield f"onnxruntime   {', '.join(result.providers)}"
    for name, entry in result.flavours.items():
        runs = "runs on the GPU" if entry["runs"] else f"does not run engines: {entry['why_not']}"
        told = f"loads, {runs}" if entry["loads"] else f"does not load: {entry['why']}"
        yield from wrapped(f"{name:<13} ", f"{entry['version']}, {told}")
    gpu = result.gpu
    if gpu["name"]:
        driver = f", driver {gpu['driver']}" if gpu["driver"] else ""
        cuda = f", CUDA {gpu['cuda']}" if gpu["cuda"] else ""
        yield f"gpu           {gpu['name']}, compute capability {gpu['capability']}{driver}{cuda}"
    else:
        yield f"gpu           none: {gpu['why']}"
    yield ""
    for what, fix in result.problems:
        yield from wrapped("problem: ", what)
        yield from wrapped("    fix: ", fix)
    if not result.problems:
        yield "nothing that does not fit together"
    yield ""
    yield columns([[a.command, a.can, a.text] for a in result.abilities], ("command", "can", "what"))
