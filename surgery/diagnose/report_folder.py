"""The folder that `surgery reduce` leaves: model, inputs, versions, a script, and a page that says what it is."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from surgery.report.write import write_whole
from surgery.stages.save import packed

if TYPE_CHECKING:
    import onnx

    from surgery.diagnose.reduction import Options, Reduction
    from surgery.graph.load import LoadedModel
    from surgery.targets import Target

SCRIPT = '''"""{title}

Needs {module} {version}, and nothing else: python reproduce.py
"""

import sys
from pathlib import Path

import {module} as trt

FOLDER = Path(__file__).resolve().parent
PROFILE = {profile}
"""Input to its minimum, optimum and maximum shape."""

logger = trt.Logger(trt.Logger.WARNING)
trt.init_libnvinfer_plugins(logger, "") if hasattr(trt, "init_libnvinfer_plugins") else None
builder = trt.Builder(logger)
flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
network = builder.create_network(flags)
parser = trt.OnnxParser(network, logger)
if not parser.parse((FOLDER / "reduced.onnx").read_bytes()):
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        print(f"parser: {{error.node_name()}} ({{error.node_operator()}}): {{error.desc()}}")
    sys.exit(1)
print("parser: takes it")
if {build}:
    config = builder.create_builder_config()
    if PROFILE:
        profile = builder.create_optimization_profile()
        for name, shapes in PROFILE.items():
            profile.set_shape(name, *shapes)
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    print("builder: refuses it" if engine is None else f"builder: takes it, {{engine.nbytes}} bytes")
    sys.exit(engine is None)
'''


def write_folder(
    result: Reduction, model: onnx.ModelProto, feeds: Mapping[str, Any], options: Options, target: Target | None,
    source: LoadedModel,
) -> None:  # fmt: skip
    """Write everything but the journal; each file appears whole or not at all."""
    folder = result.folder
    write_whole(folder / "reduced.onnx", model.SerializeToString(deterministic=True))
    write_whole(folder / "inputs.npz", packed(feeds))
    versions = _versions(target)
    again = _command(options)
    if options.command is not None:
        command = options.command if "{}" in options.command else f"{options.command} {{}}"
        here = command.replace("{}", '"$(dirname "$0")/reduced.onnx"')
        write_whole(folder / "reproduce.sh", f"#!/bin/sh\n# {_title(result)}\n{here}\n".encode())
        script = "sh reproduce.sh"
    else:
        assert target is not None
        write_whole(folder / "reproduce.py", _script(result, model, options, target).encode())
        script = "python reproduce.py"
    about = {
        **result.to_dict(),
        "of": source.name,
        "sha256": source.sha256,
        "versions": versions,
        "command": again,
    }
    about["folder"] = "."
    write_whole(folder / "report.json", (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode())
    write_whole(folder / "README.md", _page(result, model, versions, script, again).encode())


def _title(result: Reduction) -> str:
    count = f"{result.nodes_after} nodes" if result.nodes_after != 1 else "1 node"
    text = " ".join(result.failure.text.split())[:100].replace('"', "'").replace("\\", "/")
    return f"{count} of {result.nodes_before}: {result.failure.kind}" + (f": {text}" if text else "")


def _versions(target: Target | None) -> dict[str, str]:
    from surgery.begin import versions
    from surgery.targets import resolve_target

    found = versions(target or resolve_target(None))
    return {"python": platform.python_version(), "platform": platform.platform(), **found}


def _command(options: Options) -> str:
    parts = ["surgery reduce MODEL.onnx"]
    parts.append(
        f"--while {shlex.quote(options.while_)}"
        if options.while_
        else f"--check {shlex.quote(options.command or '')}"
    )
    if options.match:
        parts.append(f"--match {shlex.quote(options.match)}")
    if options.fail_code is not None:
        parts.append(f"--fail-code {options.fail_code}")
    if options.target:
        parts.append(f"--target {options.target}")
    if options.random_weights:
        parts.append("--random-weights")
    return " ".join(parts)


def _script(result: Reduction, model: onnx.ModelProto, options: Options, target: Target) -> str:
    from surgery.diagnose.facts import Facts
    from surgery.diagnose.remedy import derived_ranges
    from surgery.trt.types import MODULES

    ranges: dict[str, Any] = dict(derived_ranges(Facts(model)))
    given = {v.name for v in model.graph.input}
    ranges.update({n: tuple(map(tuple, s)) for n, s in (options.shapes or {}).items() if n in given})
    return SCRIPT.format(
        title=_title(result),
        module=MODULES[target.flavour],
        version=target.installed_version,
        profile=repr(ranges),
        build=options.while_ != "parse fails",
    )


def _page(
    result: Reduction, model: onnx.ModelProto, versions: Mapping[str, str], script: str, again: str
) -> str:
    import onnx

    lines = [
        f"# {_title(result)}", "",
        f"Reproduce it: `{script}`. `reduced.onnx` is what is left of a larger model; `inputs.npz` has values.",
        "", "```", result.failure.text.strip() or result.failure.mark, "```", "",
        "| package | version |", "|---|---|",
        *[f"| {name} | {version} |" for name, version in versions.items()], "",
    ]  # fmt: skip
    if len(model.graph.node) <= 40:
        bare = onnx.ModelProto()
        bare.CopyFrom(model)
        for tensor in bare.graph.initializer:
            if sum(1 for _ in tensor.raw_data) > 256:
                tensor.ClearField("raw_data")
                tensor.dims[:] = [0]
        try:
            text = onnx.printer.to_text(bare)
        except Exception:  # the printer stumbles over some damaged graphs, and it is a convenience
            text = ""
        if text:
            lines += ["```", text.strip(), "```", ""]
    lines += [f"- {note}" for note in result.notes]
    checks = ", ".join(f"{n} {kind}" for kind, n in sorted(result.checks.items()))
    lines += ["", f"Made by `{again}` with {sum(result.checks.values())} checks ({checks}).", ""]
    return "\n".join(lines)
