"""The files of a run: what a good one leaves, and what a failed one does; all appear together or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.report.write import Staged, dump_json

if TYPE_CHECKING:
    import onnx

    from surgery.graph.load import LoadedModel
    from surgery.pipeline import State
    from surgery.report import Report


def appear(report: Report, state: State, folder: Path) -> None:
    """Let what a good run has written appear, with its report.

    Args:
        report: Of the run.
        state: Of the run.
        folder: The output folder.

    Raises:
        ConfigError: the file system refuses; nothing has appeared.
    """
    from surgery.stages.save import not_written

    staged = state.staged
    if staged is None:
        return  # the save stage was not asked for: nothing is written
    try:
        staged.add(folder / "report.json", dump_json(report.to_dict()))
        staged.commit()
    except OSError as error:
        staged.discard()
        report.artifacts = dict.fromkeys(report.artifacts)
        raise not_written(folder, error) from error


def write_failure(report: Report, state: State | None, source: LoadedModel, folder: Path) -> None:
    """Write how far the model had come, TensorRT's log and the report; a warning where there is no room for them.

    Args:
        report: Of the run, whose exit code is 4, 5 or 6.
        state: Of the run, or None if it ended before its first stage.
        source: The model.
        folder: The output folder; what an earlier run left in it stays.
    """
    name = source.name
    anew = {"report.json", f"{name}.failed.onnx"}
    if state is not None and state.log:
        anew.add(f"{name}.failed.log")
    left = sorted(p.name for p in folder.glob("*") if p.name not in anew) if folder.is_dir() else []
    if left:
        report.previous = {"files": left, "note": "left by an earlier run and not touched by this one"}
    made = (state.target_model or state.portable or _export(state)) if state is not None else None
    failed = made if made is not None else source.proto
    staged = Staged()
    try:
        staged.add(folder / f"{name}.failed.onnx", failed.SerializeToString(deterministic=True))
        if state is not None and state.log:
            path = folder / f"{name}.failed.log"
            lines = "".join(f"[{line.severity}] {line.text}\n" for line in state.log).encode()
            staged.add(path, lines)
            entry = {"path": str(path.resolve()), "sha256": hashlib.sha256(lines).hexdigest()}
            report.artifacts = {**dict.fromkeys(report.artifacts), "log": entry}
        staged.add(folder / "report.json", dump_json(report.to_dict()))
        staged.commit()
    except OSError as error:
        report.artifacts = dict.fromkeys(report.artifacts)
        report.warnings.append(
            f"nothing could be written to {folder}: {error.strerror}; free space or give another --output"
        )
    finally:
        staged.discard()


def _export(state: State) -> onnx.ModelProto:
    from surgery.graph.convert import export_graph

    return export_graph(state.graph, state.header, provenance=state.provenance)
