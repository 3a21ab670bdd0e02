"""`surgery diff`: how two models differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from surgery.cli.output import print_json, print_text

if TYPE_CHECKING:
    from surgery.diagnose.diff import Difference, GraphDifference

MOST = 40
"""Lines of one kind that are printed."""


def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="An ONNX model.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    weights: Annotated[
        bool, typer.Option("--weights/--no-weights", help="Compare the numbers in constants, too.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False,
) -> None:
    """Say how two models differ, node by node."""
    from surgery.diagnose import diff as module

    result = module.diff(first, second, weights=weights)
    if json:
        print_json(result.to_dict())
    else:
        print_text("\n".join(_lines(result)))


def _lines(result: Difference) -> Iterator[str]:
    if result.equal:
        renamed = sum(len(g.renamed) for g in result.graphs)
        yield "equal" + (f" but for the names of {renamed} nodes" if renamed else "")
        return
    yield from result.header
    for op, (old, new) in result.operators.items():
        yield f"{op}: {old} -> {new} nodes"
    yield from (f"function {text}" for text in result.functions)
    for graph in result.graphs:
        if not graph.equal:
            yield from _graph(graph)


def _graph(graph: GraphDifference) -> Iterator[str]:
    yield ""
    head = " / ".join(graph.path) or "main graph"
    yield f"{head}: {graph.same} nodes alike, {len(graph.renamed)} of them renamed"
    yield from _some([f"  input {text}" for text in graph.inputs])
    yield from _some([f"  output {text}" for text in graph.outputs])
    yield from _some([f"- {op} {name!r}" for name, op in graph.removed])
    yield from _some([f"+ {op} {name!r}" for name, op in graph.added])
    changed = []
    for name, other, op, what in graph.changed:
        also = f" (now {other!r})" if other != name else ""
        changed += [f"~ {op} {name!r}{also}", *(f"    {text}" for text in what)]
    yield from _some(changed)
    yield from _some([f"  constant {text}" for text in graph.constants])


def _some(lines: Sequence[str]) -> Iterator[str]:
    yield from lines[:MOST]
    if lines[MOST:]:
        yield f"  and {len(lines) - MOST} more lines; --json has all"
