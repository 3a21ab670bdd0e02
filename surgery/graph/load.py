"""Reading a model without reading its weights.

External data stays on disk: only its location, presence and length are checked here, so that a missing
weight file is reported before any work is done. Paths that leave the model's folder are refused, as in
onnx-ir's ``ExternalTensor`` checks.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.errors import ModelError
from surgery.graph.labels import as_numbers
from surgery.graph.leave import take_no_leave
from surgery.graph.mend import mend
from surgery.graph.order import put_in_order
from surgery.graph.spelling import spell_plainly

if TYPE_CHECKING:
    import onnx

_MAX_IR_VERSION = 13
"""Newest IR version that ONNX Runtime 1.31 loads (measured); newer headers are lowered on export."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model as the user gave it; never changed by any stage.

    Attributes:
        proto: The model, external data not loaded.
        path: File it came from, or None for bytes and protos.
        name: Stem used for the names of written files.
        sha256: Hash of the file's bytes (of the serialized proto where there is no file).
        base_dir: Folder that external data is relative to, or None.
        external: True if some tensor's data lies outside the file.
        mended: What was not valid as it stood and is read as it is meant, in words.
    """

    proto: onnx.ModelProto
    path: Path | None
    name: str
    sha256: str
    base_dir: Path | None
    external: bool
    mended: tuple[str, ...] = ()

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return opset_of(self.proto)


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the default (``ai.onnx``) operator set that the model imports; 1 if it imports none."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)


def load_model(source: str | Path | bytes | onnx.ModelProto) -> LoadedModel:
    """Read a model and check that it is usable ONNX.

    Args:
        source: Path of an ``.onnx`` file, its bytes, or a ModelProto (copied, not changed).

    Raises:
        ModelError: no such file, not a protobuf, truncated, empty graph, invalid structure (undefined or
            twice defined tensors, cycles), external data missing, too short or outside the model's folder.
    """
    import onnx

    if isinstance(source, (str, Path)):
        path = Path(source)
        with reading(path):
            data = path.read_bytes()
        proto = _parse(data, str(path))
        base, name, where = path.resolve().parent, path.stem, str(path)
    elif isinstance(source, bytes):
        path, base, data = None, None, source
        proto = _parse(source, "<bytes>")
        name, where = proto.graph.name or "model", "<bytes>"
    else:
        proto = onnx.ModelProto()
        proto.CopyFrom(source)
        path, base, where = None, None, "<ModelProto>"
        data = proto.SerializeToString(deterministic=True)
        name = proto.graph.name or "model"
    spell_plainly(proto)
    put_in_order(proto.graph)
    external = _check_external_data(proto, base, where)
    _check_structure(proto, where)
    mended = (*mend(proto), *as_numbers(proto), *take_no_leave(proto))
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name) or "model"
    return LoadedModel(proto, path, safe, hashlib.sha256(data).hexdigest(), base, external, mended)


def check_header(
    data: bytes, path: Path | None, where: str, without_data: bool
) -> tuple[onnx.ModelProto, bool]:
    """Check a model whose large tensors have no data, as :func:`load_model` checks whole ones.

    Args:
        data: The serialized model.
        path: Its file, or None.
        where: What errors call it.
        without_data: Whether data of tensors was left out; tensors without any are then not looked at.

    Returns:
        The model, and whether some tensor's data lies outside the file.

    Raises:
        ModelError: as :func:`load_model`.
    """
    proto = _parse(data, where)
    spell_plainly(proto)
    put_in_order(proto.graph)
    external = _check_external_data(proto, path.resolve().parent if path is not None else None, where)
    checked = proto
    if without_data:
        checked = type(proto)()
        checked.CopyFrom(proto)
        for tensor in tensors_of(checked.graph):
            if not any(f.name.endswith("_data") for f, _ in tensor.ListFields()):
                tensor.dims[:] = [0]  # the checker wants as many numbers as dims say
    _check_structure(checked, where)
    return proto, external


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """A file is read as a model.

    Raises:
        ModelError: there is no such file, or it cannot be read.
    """
    try:
        yield
    except FileNotFoundError:
        fix = _meant(path, path.parent)
        raise ModelError("no such model file", code="model-not-found", where=str(path), fix=fix) from None
    except IsADirectoryError:
        fix = _meant(path, path)
        raise ModelError("a folder, not a model", code="model-unreadable", where=str(path), fix=fix) from None
    except OSError as error:
        raise ModelError(
            f"cannot read the model: {error.strerror}", code="model-unreadable", where=str(path)
        ) from error


def _meant(path: Path, folder: Path) -> str:
    """What may be meant by a path that is no model: a near name first."""
    there = sorted(p.name for p in folder.glob("*.onnx")) if folder.is_dir() else []
    close = difflib.get_close_matches(path.stem, [Path(name).stem for name in there], n=1)
    if close and folder != path:
        return f"did you mean {str(folder / f'{close[0]}.onnx')!r}?"
    return f"models in that folder: {', '.join(there[:5])}" if there else "check the path"


def _parse(data: bytes, where: str) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    if not data:
        raise ModelError(
            "the file is empty", code="not-onnx", where=where, fix="export or download the model again"
        )
    if data.startswith(b"version https://git-lfs"):
        raise ModelError(
            "this is a Git LFS pointer, not the model", code="not-onnx", where=where, fix="run `git lfs pull`"
        )
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        text = all(32 <= b < 127 or b in b"\r\n\t" for b in data[:256])
        raise ModelError(
            "not an ONNX file (it is text)" if text else "not a valid ONNX file: it is damaged or truncated",
            code="not-onnx",
            where=where,
            cause=str(error) or None,
            fix="give a binary .onnx file; export or download it again if it should be one",
        ) from error
    if not proto.ir_version or not proto.opset_import or not proto.graph.output:
        missing = (
            "ir_version"
            if not proto.ir_version
            else "opset_import"
            if not proto.opset_import
            else "graph outputs"
        )
        raise ModelError(
            f"not a valid ONNX model: it has no {missing}",
            code="invalid-onnx",
            where=where,
            fix="export the model again",
        )
    return proto


def tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All TensorProtos of a graph: initializers and tensor attributes, subgraphs included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from tensors_of(attribute.g)
            for sub in attribute.graphs:
                yield from tensors_of(sub)


def _check_external_data(proto: onnx.ModelProto, base: Path | None, where: str) -> bool:
    import onnx

    found = False
    for tensor in tensors_of(proto.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        found = True
        entry = {e.key: e.value for e in tensor.external_data}
        location = entry.get("location", "")
        if base is None:
            raise ModelError(
                f"tensor {tensor.name!r} has external data, but the model was not given as a file",
                code="external-data",
                where=where,
                fix="pass the path of the .onnx file",
            )
        target = (base / location).resolve()
        if not location or not target.is_relative_to(base):
            raise ModelError(
                f"external data of {tensor.name!r} lies outside the model's folder: {location!r}",
                code="external-data-outside",
                where=where,
                fix="move the weight file next to the model and save the model again",
            )
        if not target.is_file():
            raise ModelError(
                f"weight file {location!r} is missing (needed by {tensor.name!r})",
                code="external-data-missing",
                where=where,
                fix=f"put {location} next to the model, into {base}",
            )
        _check_extent(tensor, entry, target, where)
    return found


def _check_extent(tensor: onnx.TensorProto, entry: dict[str, str], target: Path, where: str) -> None:
    try:
        end = int(entry.get("offset", "0")) + int(entry.get("length", "0"))
    except ValueError:
        end = -1
    size = target.stat().st_size
    if end < 0 or end > size:
        raise ModelError(
            f"weight file {target.name!r} is too short for {tensor.name!r}: {size} bytes, {end} needed",
            code="external-data-truncated",
            where=where,
            fix="copy or export the weight file again",
        )


def _check_structure(proto: onnx.ModelProto, where: str) -> None:
    import onnx

    from surgery.graph.sane import first_absurdity

    absurd = first_absurdity(proto)
    if absurd is not None:
        raise ModelError(
            f"not valid ONNX: {absurd}", code="invalid-onnx", where=where, fix="export the model again"
        )
    _check_graph(proto.graph, frozenset(), where)
    # The checker wants a shape on every input and output; ONNX Runtime does not, and exporters leave it out.
    open_ended = [
        v
        for v in (*proto.graph.input, *proto.graph.output)
        if v.type.HasField("tensor_type") and not v.type.tensor_type.HasField("shape")
    ]
    for value in open_ended:
        value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(proto, full_check=False)
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
        # The checker's own text is not always UTF-8: it quotes names and data as they are.
        text = str(error) if isinstance(error, onnx.checker.ValidationError) else "text that is not UTF-8"
        # Plugin nodes live in the default domain without a schema; TensorRT, not ONNX, decides on them.
        # External data was checked above, relative to the model's own folder.
        harmless = (
            "No Op registered for",
            "No opset import for domain",
            "No schema registered",
            "Data of TensorProto",
            "is not compatible with the version imported by model",  # the function is brought to it when inlined
        )
        if not any(h in text for h in harmless):
            raise ModelError(
                "not valid ONNX",
                code="invalid-onnx",
                where=where,
                cause=text.strip().splitlines()[0],
                fix="export the model again; `python -m onnx.checker` tells more",
            ) from error
    finally:
        for value in open_ended:
            value.type.tensor_type.ClearField("shape")


def _check_graph(graph: onnx.GraphProto, outer: frozenset[str], where: str) -> None:
    known = set(outer)
    known.update(i.name for i in graph.input)
    known.update(i.name for i in graph.initializer)
    known.update(i.values.name for i in graph.sparse_initializer)
    produced: set[str] = {i.name for i in graph.input}
    for node in graph.node:
        label = node.name or f"{node.op_type} -> {', '.join(node.output)}"
        for name in node.input:
            if name and name not in known:
                raise ModelError(
                    f"node {label!r} uses tensor {name!r}, which nothing before it defines",
                    code="invalid-onnx",
                    where=where,
                    node=node.name or None,
                    fix="the graph has a cycle, is not sorted or misses a node: export the model again",
                )
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _check_graph(attribute.g, frozenset(known), where)
        for name in node.output:
            if name and name in produced:
                raise ModelError(
                    f"tensor {name!r} is defined twice (again by node {label!r})",
                    code="invalid-onnx",
                    where=where,
                    node=node.name or None,
                    fix="give every tensor one producer: export the model again",
                )
            produced.add(name)
            known.add(name)
    for value in graph.output:
        if value.name not in known:
            raise ModelError(
                f"graph output {value.name!r} is defined by nothing",
                code="invalid-onnx",
                where=where,
                fix="export the model again",
            )
