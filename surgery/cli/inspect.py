"""`surgery inspect`: what is in a model, and what a target will not take of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from surgery.cli.options import PluginPathOption, TargetOption
from surgery.cli.output import print_json, print_text, wrapped
from surgery.diagnose.grouping import STATES, WRONG

if TYPE_CHECKING:
    from surgery.diagnose.inspect import Group, Inspection

NAMES = 6
"""Names of nodes that are listed of one group."""


def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The ONNX model.")],
    target: TargetOption = None,
    parser: Annotated[
        bool | None,
        typer.Option(
            "--parser/--no-parser",
            help="Ask the real parser where it is installed, and try `surgery run` without writing anything. "
            "[default: if the model is small]",
        ),
    ] = None,
    plugin_path: PluginPathOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False,
) -> None:
    """Say what is in a model, and what a target will not take."""
    from surgery.cli.execute import _quiet_stdout
    from surgery.diagnose import inspect as module

    with _quiet_stdout():
        result = module.inspect(
            model,
            target=target,
            ask="auto" if parser is None else "always" if parser else "never",
            plugin_paths=plugin_path or (),
        )
    if json:
        print_json(result.to_dict())
    else:
        print_text("\n".join(_lines(result)))


def _lines(result: Inspection) -> Iterator[str]:
    told = result.facts
    opsets = ", ".join(f"{d or 'opset'} {v}" for d, v in told["opsets"].items())
    made = f", made by {told['producer']}" if told["producer"] else ""
    yield from wrapped(
        "", f"{result.model}: {_bytes(told['bytes'])}, IR {told['ir_version']}, {opsets}{made}"
    )
    family = result.family
    because = f" ({family.because})" if family.because else ""
    yield from wrapped(
        "family    ",
        f"{family.name}{because}; begin with: surgery run {_pipeline(result)} {quote(str(result.model))}",
    )
    for what in ("inputs", "outputs"):
        for number, value in enumerate(told[what]):
            yield f"{'' if number else what:<10}{value['name']}  {_kind(value)}"
    inner = told["nodes_with_bodies"] - told["nodes"]
    with_bodies = f", {inner} more in bodies" if inner else ""
    yield from wrapped("nodes     ", f"{told['nodes']}{with_bodies}: {_counts(told['operators'])}")
    weights = told["weights"]
    by_type = ", ".join(f"{d} {_bytes(n)}" for d, n in weights["by_dtype"].items())
    yield from wrapped(
        "weights   ",
        f"{weights['tensors']} {'tensor' if weights['tensors'] == 1 else 'tensors'}, {_bytes(weights['bytes'])}"
        + (f": {by_type}" if by_type else ""),
    )
    for name, size in weights["external"].items():
        yield f"          in {name}, {_bytes(size)}"
    flow = {k: v for k, v in told["control_flow"].items() if k != "depth"}
    if flow:
        yield f"control   {_counts(flow)}, {told['control_flow']['depth']} deep"
    for number, function in enumerate(told["functions"][:8]):
        name = f"{function['domain']}.{function['name']}" if function["domain"] else function["name"]
        head = "" if number else "functions"
        yield f"{head:<10}{name}: {function['nodes']} nodes, {function['calls']} calls"
    if told["functions"][8:]:
        yield f"          and {len(told['functions']) - 8} more"
    if told["quantization"]:
        yield from wrapped("quantized ", _counts(told["quantization"]))
    if told["plugins"]:
        yield from wrapped("plugins   ", _counts(told["plugins"]))
    for domain, operators in told["foreign_domains"].items():
        yield from wrapped("domain    ", f"{domain}: {_counts(operators)}")
    if told["scopes"]:
        yield from wrapped("scopes    ", _counts(told["scopes"]))
    yield ""
    yield from _verdict(result)


def _verdict(result: Inspection) -> Iterator[str]:
    wrong = [g for g in result.groups if g.kind == WRONG]
    count, causes = result.count, len(result.groups) - len(wrong)
    fails = bool(wrong) or (result.trial is not None and result.trial.fails)
    if not count:
        but = ", and yet `surgery run` fails" if fails else ""
        yield f"{result.target}: by its table, everything goes through{but}"
    else:
        things = "1 node or input" if count == 1 else f"{count} nodes or inputs"
        why = "1 cause" if causes == 1 else f"{causes} causes"
        how = "as it is" if count == 1 else "as they are"
        yield f"{result.target}: by its table, {things} will not go through {how}, of {why}"
    if result.trial is not None:
        yield f"$ {result.trial.command}"
        yield from wrapped("   ", result.trial.verdict)
        if result.trial.told:
            yield from wrapped("   edits: ", result.trial.told)
    for number, group in enumerate(result.groups, 1):
        yield ""
        yield from _group(number, group)
    yield ""
    yield from wrapped("parser: ", result.parser)
    for text in result.only_table[:NAMES]:
        yield from wrapped("   the table alone refuses ", text)
    for text in result.only_parser[:NAMES]:
        yield from wrapped("   the parser alone refuses ", text)
    more = len(result.only_table[NAMES:]) + len(result.only_parser[NAMES:])
    if more:
        yield f"   and {more} more differences"
    for note in result.notes:
        yield from wrapped("note: ", note)
    if count or result.only_parser or fails:
        command = f"surgery explain {quote(str(result.model))} --target {result.target}"
        yield from wrapped("next: ", f"{command} says more about each of them")


def _group(number: int, group: Group) -> Iterator[str]:
    what = group.op or group.kind
    times = f" x {len(group.names)}" if len(group.names) > 1 else ""
    yield f"{number}. {what}{times}" + (f"  [{group.failure}]" if group.failure else "")
    names = ", ".join(group.names[:NAMES])
    more = f" and {len(group.names) - NAMES} more" if group.names[NAMES:] else ""
    yield from wrapped("   nodes: " if group.op else "   named: ", names + more)
    yield from wrapped("   why: ", f"{group.reason} ({group.step})")
    for fate, count in group.fates:
        many = f"{count} of them " if len(group.fates) > 1 else ""
        yield from wrapped("   run: ", f"{many}{STATES[fate.what]}: {fate.text}")
    if group.fates and all(fate.what in ("done", "taken") for fate, _ in group.fates):
        return
    word = "fix"
    for remedy in group.remedies[:3]:
        yield from wrapped(f"   {word}: ", remedy.text)
        if remedy.command:
            yield f"        $ {remedy.command}"
        word = "or"
    if not group.remedies:
        yield "   fix: none is known"


def _pipeline(result: Inspection) -> str:
    """The one that was taken, which is another than the family's where that did not fit."""
    return result.trial.pipeline if result.trial is not None else result.family.pipeline


def _kind(value: Mapping[str, Any]) -> str:
    from surgery.diagnose.facts import shown_dim

    shape = value["shape"]
    dims = "" if shape is None else "[" + ", ".join(map(shown_dim, shape)) + "]"
    return f"{value['dtype'] or 'unknown dtype'}{dims}" + (", shape unknown" if shape is None else "")


def _counts(counts: Mapping[str, int], most: int = 20) -> str:
    listed = ", ".join(f"{name} {n}" for name, n in list(counts.items())[:most])
    return listed + (f" and {len(counts) - most} more" if len(counts) > most else "")


def _bytes(count: int) -> str:
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError
