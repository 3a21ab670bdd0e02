"""Handing a model to the TensorRT worker, with its external weights where it has any."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.graph.load import tensors_of
from surgery.pipeline import LogLine, State

if TYPE_CHECKING:
    import onnx

    from surgery.graph.load import LoadedModel
    from surgery.trt.session import Worker


@contextlib.contextmanager
def handed_over(state: State) -> Iterator[bytes | Path]:
    """The target model as bytes, or as a file with links to its weight files beside it."""
    from surgery.errors import SurgeryError

    model = state.target_model
    if model is None:
        raise SurgeryError("there is no model for the target: the stage substitute did not run")
    with on_disk(model, state.source) as placed:
        yield placed if isinstance(placed, Path) else placed.SerializeToString()


def external_files(model: onnx.ModelProto) -> list[str]:
    """Weight files that the model's tensors refer to, relative to the model, in order of first use."""
    import onnx

    names: dict[str, None] = {}
    for tensor in tensors_of(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            names.setdefault(next(e.value for e in tensor.external_data if e.key == "location"))
    return list(names)


def worker_for(state: State) -> Worker:
    """The run's TensorRT process, started on first use; its log goes to the run and to the listener."""
    from surgery.trt.session import lend

    if state.worker is None:

        def keep(line: Any) -> None:
            entry = LogLine(line.severity, line.text)
            state.log.append(entry)
            state.listener(entry)

        tf32 = any(getattr(stage, "tf32", False) for stage in state.config.stages)
        state.worker = lend(state.target.flavour, on_log=keep, tf32=tf32)
    return state.worker


@contextlib.contextmanager
def on_disk(model: onnx.ModelProto, source: LoadedModel) -> Iterator[onnx.ModelProto | Path]:
    """The model itself, or a file with links to its weight files where it has any."""
    names = external_files(model)
    if not names:
        yield model
        return
    assert source.base_dir is not None
    with tempfile.TemporaryDirectory(prefix="surgery-") as folder:
        for name in names:
            link = Path(folder) / name
            link.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(source.base_dir / name, link)
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        yield path
