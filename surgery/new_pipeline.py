"""A pipeline file for one model: its family, its shape ranges, and what will be done to it, to be edited and kept."""

from __future__ import annotations

import json
import os
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.errors import ConfigError

if TYPE_CHECKING:
    from surgery.diagnose.family import Family
    from surgery.report import Report

WIDTH = 116
MOST_RULES = 12
"""Rules that are named in the file; the report has all."""


def write_pipeline(model: Path, output: Path, *, target: str | None = None) -> tuple[Path, Report]:
    """Write ``<model>.yaml``, a pipeline that runs as it is.

    The model is rewritten and compared in ONNX Runtime once, so that the ranges in the file are ranges that the model
    takes, and what will be rewritten can be said. No engine is built.

    Args:
        model: The model.
        output: Folder for the file; made if it is not there. Or the file, if the name ends in .yaml or .yml.
        target: Target to write the pipeline for; None takes what is installed, here and wherever the file is run.

    Returns:
        The file, and the report of the trial. A trial that fails for what the file could change leaves the file; one
        that fails for the target or the model leaves none, and is raised.

    Raises:
        ConfigError: there is such a file already, or no such target.
        ModelError: the model cannot be read or is not valid ONNX.
    """
    from surgery import api
    from surgery.families import family_for
    from surgery.report.write import check_writable, write_whole
    from surgery.targets import resolve_target

    path = output / f"{model.stem}.yaml"
    if output.suffix in (".yaml", ".yml") and not output.is_dir():
        path, output = output, output.parent
    if path.exists():
        raise ConfigError(
            "there is such a file already",
            code="file-exists",
            where=str(path),
            fix="move it away, or give --output",
        )
    family = family_for(model)
    if target is not None:
        resolve_target(target)
    check_writable(output)
    report = api.run("auto", model, target=target, stages="load..substitute,verify")
    text = pipeline_text(os.path.relpath(model, output), path, family, report, target)
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except OSError as error:
        raise ConfigError(
            f"cannot write the pipeline: {error.strerror}",
            code="output-not-writable",
            where=str(output),
            fix="give another --output",
        ) from error
    return path, report


def pipeline_text(model: str, path: Path, family: Family, report: Report, target: str | None = None) -> str:
    """The text of the file.

    Args:
        model: Path of the model, relative to the file.
        path: The file.
        family: The model's family.
        report: Of a run of the family's pipeline, or of rules alone where that one failed.
        target: The target that was asked for.
    """
    base = report.pipeline.get("name", family.pipeline)
    because = f": {family.because}" if family.because else ""
    lines = [
        *_comment(f"{Path(model).name}: {family.name}{because}."),
        "#",
        f"#   surgery run {path.name}",
        "#",
        *_comment(
            f"Runs as it is, and is yours to edit. What it does not say comes from `{base}`: "
            f"`surgery show pipelines {base}`. `surgery show stages NAME` has what `set` can change."
        ),
        "",
        "schema: 1",
        f"name: {_text(path.stem)}",
        f"title: {_text(f'{Path(model).name} ({family.name})')}",
        f"extends: {base}",
        f"model: {_text(model)} # relative to this file",
        f"target: {_text(target)}"
        if target is not None
        else f"# target: {report.target.get('name', 'tensorrt-rtx')} # without it: what is installed",
        "",
        *_profiles(report),
        *_batch(report),
        "",
        *_work(report),
        "",
        "set:",
        "  verify.cases: 2 # inputs for each of minimum, optimum and maximum",
        "  verify.atol: 0.0001",
        "  verify.rtol: 0.0001",
        "  # build.optimization_level: 3",
        "  # build.tf32: true # faster, and less exact",
        "",
    ]
    return "\n".join(lines)


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH - 2)]


def _text(value: str) -> str:
    """Text as YAML has it, in quotes where it could be read as something else."""
    from surgery.yaml_source import parse_scalar

    plain = value.replace("_", "").replace("-", "").replace(".", "").replace("/", "")
    safe = plain.isascii() and plain.isalnum() and value[:1].isalpha()
    return value if safe and parse_scalar(value) == value else json.dumps(value)


def _profiles(report: Report) -> Iterator[str]:
    if not report.profiles:
        failed = report.failure is not None
        yield from _comment(
            "Shape ranges were not found. Give those of your inputs here: numbers in place of the names."
            if failed
            else "All shapes are fixed, so there are no ranges to give."
        )
        if failed:
            yield "# profiles:"
            for value in report.model_info.get("inputs", ()):
                text = ", ".join("?" if d is None else str(d) for d in value["shape"] or ())
                yield f"#   {_text(value['name'])}: {{min: [{text}], opt: [{text}], max: [{text}]}}"
        return
    yield from _comment(
        "Shape ranges by input: minimum, what to optimize for, maximum. Found by trying what the model takes; put "
        "yours in their place. Dims of one name have one range."
    )
    yield "profiles:"
    declared = {v["name"]: v["shape"] for v in report.model_info.get("inputs", ())}
    for entry in report.profiles:
        name = entry["input"]
        dims = declared.get(name)
        said = (
            ", ".join("?" if d is None else str(d) for d in dims)
            if dims
            else "as the network has it behind the cut"
        )
        follows = entry["source"].partition(": ")[2] if entry["source"].startswith("derived: ") else ""
        yield f"  {_text(name)}: # {said}" + (f"; {follows}" if follows else "")
        for key in ("min", "opt", "max"):
            yield f"    {key}: {json.dumps(entry[key])}"


def _batch(report: Report) -> Iterator[str]:
    shapes: list[list[Any]] = [v["shape"] for v in report.model_info.get("inputs", ()) if v["shape"]]
    if shapes and all(isinstance(s[0], int) for s in shapes):
        yield "# batch: dynamic # makes the fixed batch free, and checks it at 1, 2 and 4"


def _work(report: Report) -> Iterator[str]:
    if report.failure is not None:
        yield from _comment(f"The trial ended with: {report.failure.message}")
        if report.failure.fix:
            yield from _comment(f"What helps: {report.failure.fix}")
    for cut in report.cuts:
        yield from _comment(
            f"Cut {cut.name!r}: {len(cut.nodes)} nodes, from {', '.join(cut.inputs) or 'constants'} to "
            f"{', '.join(cut.outputs)}."
        )
    rules = Counter(e.rule for e in report.edits)
    if not rules:
        yield from _comment("Nothing has to be rewritten for this target.")
        return
    yield from _comment("Rewritten for this target (`surgery show rules NAME`):")
    for name, count in rules.most_common(MOST_RULES):
        yield f"#   {name} x {count}"
    if len(rules) > MOST_RULES:
        yield f"#   and {len(rules) - MOST_RULES} more"
    for change in report.io_changes:
        yield from _comment(f"Output or input {change.name!r}: {change.what}.")
