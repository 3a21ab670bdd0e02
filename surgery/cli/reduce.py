"""`surgery reduce`: the fewest nodes that still fail."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from surgery.cli.options import ShapeOption, TargetOption
from surgery.cli.output import print_json, print_text, wrapped
from surgery.diagnose.grouping import LONGEST, said
from surgery.errors import ConfigError

if TYPE_CHECKING:
    from surgery.diagnose.reduction import Reduction


def reduce(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The ONNX model that fails.")],
    while_: Annotated[
        str | None,
        typer.Option(
            "--while", metavar="WHAT", help="What goes on: 'parse fails', 'build fails' or 'engine differs'."
        ),
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Or a command; {} is the model. 0: good, 125: cannot tell, other than 2, 126 and 127: fails.",
        ),
    ] = None,
    match: Annotated[
        str | None, typer.Option(metavar="REGEX", help="What the output of a failing command has to have.")
    ] = None,
    fail_code: Annotated[
        int | None, typer.Option(metavar="N", help="Exit code of a failing command if it is 2, 126 or 127.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Report folder. [default: ./<model>.reduced]")
    ] = None,
    target: TargetOption = None,
    shape: ShapeOption = None,
    inputs: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Values of the model's inputs.")
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Put random numbers in the place of weights.")
    ] = False,
    seconds: Annotated[float, typer.Option(metavar="S", min=0.1, help="Time of one check.")] = 120.0,
    memory_mib: Annotated[
        int | None, typer.Option(metavar="MIB", min=1, help="Memory of one check by TensorRT.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(metavar="X", min=0.0, help="From which difference on an engine differs.")
    ] = 1e-2,
    most_checks: Annotated[
        int, typer.Option(metavar="N", min=1, help="Checks after which the smallest so far is taken.")
    ] = 500,
    jobs: Annotated[
        int, typer.Option(metavar="N", min=0, help="Checks side by side; 0 is one a core, at most 4.")
    ] = 0,
    canary: Annotated[
        bool,
        typer.Option("--canary/--no-canary", help="Try the command on a model with nothing in it, too."),
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random numbers.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False,
) -> None:
    """Find the fewest nodes that still fail, as a folder for a bug report."""
    from surgery.cli.execute import _quiet_stdout
    from surgery.cli.values import load_inputs, parse_shapes
    from surgery.diagnose import reduce as module
    from surgery.diagnose.reduction import WHILE, Options

    known = {w: w for w in WHILE}
    if while_ is not None and while_ not in known:
        raise ConfigError(
            f"unknown: {while_!r}",
            code="bad-option",
            where="--while",
            fix=" or ".join(f"--while {w!r}" for w in known),
        )
    options = Options(
        while_=known[while_] if while_ is not None else None,
        command=check,
        match=match,
        fail_code=fail_code,
        target=target,
        shapes=parse_shapes(shape) if shape else None,
        inputs=load_inputs(inputs) if inputs is not None else None,
        random_weights=random_weights,
        seconds=seconds,
        memory_mib=memory_mib,
        tolerance=tolerance,
        most_checks=most_checks,
        jobs=jobs,
        canary=canary,
        seed=seed,
    )
    folder = output or Path(f"{model.stem}.reduced")

    def say(text: str) -> None:
        if not json:
            typer.echo(text, err=True)

    with _quiet_stdout():
        result = module.reduce(model, folder, options, say)
    if json:
        print_json(result.to_dict())
    else:
        print_text("\n".join(_lines(result)))


def _lines(result: Reduction) -> list[str]:
    asked: dict[str, Any] = result.checks
    checks = ", ".join(f"{n} {kind}" for kind, n in asked.items())
    before = f"{result.nodes_before} node" + ("" if result.nodes_before == 1 else "s")
    lines = [
        f"{before} -> {result.nodes_after}, {sum(asked.values())} checks ({checks}), {result.seconds:.1f} s"
    ]
    lines += [f"   {op} {name!r}" for name, op in result.nodes[:12]]
    if result.nodes[12:]:
        lines.append(f"   and {len(result.nodes) - 12} more")
    told = said(result.failure.text)[:LONGEST]
    lines += wrapped(f"{result.failure.kind}: ", told or result.failure.mark)
    for note in result.notes:
        lines += wrapped("note: ", note)
    lines.append(f"folder {result.folder}: reduced.onnx, inputs.npz, a script, versions, README.md")
    return lines
