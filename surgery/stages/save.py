"""save: the artifacts, each whole or not at all."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from surgery.errors import ConfigError
from surgery.pipeline import StageResult, State


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Save:
    """Write the portable ONNX, the one for the target's parser, the engine, the cut prefix, inputs, the log.

    They appear when the run has ended well, all at once, with its report.
    """

    name: ClassVar[str] = "save"

    def run(self, state: State) -> StageResult:
        """Write to the output folder, if the run has one."""
        from surgery.report.write import Staged
        from surgery.stages.substitute import finish
        from surgery.stages.trt_model import external_files

        if state.portable is None or state.target_model is None:
            finish(state)
        assert state.portable is not None
        assert state.target_model is not None
        folder = state.options.output
        if folder is None:
            return StageResult(False, "nothing to write: no output folder")
        name = state.source.name
        files: dict[str, tuple[str, bytes]] = {
            "onnx": (f"{name}.onnx", state.portable.SerializeToString(deterministic=True)),
            "onnx_target": (
                f"{name}.{state.target.name}.onnx",
                state.target_model.SerializeToString(deterministic=True),
            ),
        }
        if state.pre is not None:
            files["pre"] = (f"{name}.pre.onnx", state.pre.SerializeToString(deterministic=True))
        if state.options.inputs is not None:
            files["inputs"] = (f"{name}.inputs.npz", packed(state.options.inputs))
        if state.log:
            text = "".join(f"[{line.severity}] {line.text}\n" for line in state.log)
            files["log"] = ("build.log", text.encode())
        if state.engine is not None:
            files["engine"] = (f"{name}.engine", state.engine)
        source = state.source.path
        for file, _ in files.values():
            path = folder / file
            if source is not None and path.exists() and path.samefile(source):
                raise ConfigError(
                    "the output folder would overwrite the original model",
                    code="output-is-input",
                    where=str(path),
                    fix="give another --output",
                )
        state.staged = staged = Staged()
        try:
            for file, data in files.values():
                staged.add(folder / file, data)
            for weight in external_files(state.portable):
                assert state.source.base_dir is not None
                staged.add_file(state.source.base_dir / weight, folder / weight)
        except OSError as error:
            staged.discard()
            raise not_written(folder, error) from error
        for key, (file, data) in files.items():
            state.report.artifacts[key] = {
                "path": str((folder / file).resolve()), "sha256": hashlib.sha256(data).hexdigest()
            }  # fmt: skip
        engine = folder / f"{name}.engine"
        if state.engine is None and engine.exists():
            staged.remove(engine)
            state.warn(
                f"{engine.name} of an earlier run was removed: it is not of the model written now; "
                "give each target an --output of its own"
            )
        return StageResult(True, ", ".join(f for f, _ in files.values()))


def not_written(folder: Path, error: OSError) -> ConfigError:
    """The error of a file system that refuses the artifacts."""
    return ConfigError(
        f"cannot write the artifacts: {error.strerror}",
        code="output-not-writable",
        where=str(folder),
        fix="free space or give another --output",
    )


def packed(arrays: Mapping[str, Any]) -> bytes:
    """An ``.npz`` file with the arrays; the same bytes for the same values, for its entries have no time.

    Names may be any; ``numpy.savez`` takes them as keywords and has some of its own.
    """
    import numpy as np

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, value in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(value), allow_pickle=False)
    return file.getvalue()
