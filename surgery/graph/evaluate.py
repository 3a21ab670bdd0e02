"""Running a model in ONNX Runtime on the CPU: the numeric reference."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.deadline import EndlessError, deadline

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]


NEWER = 13
"""Operator set that models of older ones are converted to where ONNX Runtime has no kernels for those."""

UNTYPED = "Type Error: Type 'tensor(bfloat16)'"
"""How ONNX Runtime refuses bfloat16 where an operator takes it from a later operator set on alone: Conv does from 22
on, and exporters write it in 18."""

WIDER = 20
"""Operator set that has kernels for wider floats."""

FOREIGN = {
    "tensor(bfloat16)": "BFLOAT16",
    "tensor(float8e4m3fn)": "FLOAT8E4M3FN",
    "tensor(float8e4m3fnuz)": "FLOAT8E4M3FNUZ",
    "tensor(float8e5m2)": "FLOAT8E5M2",
    "tensor(float8e5m2fnuz)": "FLOAT8E5M2FNUZ",
    "tensor(int4)": "INT4",
    "tensor(uint4)": "UINT4",
}
"""Types in ONNX Runtime's words that numpy lacks, and onnx's names of them."""

TOO_NEW = "models stamped with official released onnx opset versions"
"""What ONNX Runtime says of an operator set that it does not know: up to 1.23 it refuses all of its models."""

WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
"""ONNX Runtime's name of the option that says where external weights are."""


class EvaluationError(Exception):
    """ONNX Runtime refused the model or failed while running it; the text is ONNX Runtime's own."""


def open_session(payload: str | bytes, options: Any) -> Any:
    """An ONNX Runtime session on the CPU, as written if that is possible.

    Callers turn off the planning of which buffer takes over which: its time grows with the square of the nodes
    (50,000 take 20 s instead of 2), and buffers are freed after their last use all the same.

    Without any optimization, ONNX Runtime 1.30 leaves casts that it inserted around float16 nodes in a state that
    it then refuses itself; with the basic ones the same model loads. bfloat16, for which it has no kernels, is
    computed in float32 and rounded (:mod:`surgery.graph.bfloat`). Where it has no kernel for an operator in the
    version of an old operator set, the model is converted to a newer one; :func:`note_on` then says so. Operators on
    floats of two kinds compute in the wider one (:mod:`surgery.graph.mixed`). Functions
    that it cannot inline, as those of another operator set than the model's, are inlined before. In an operator set
    newer than it knows (24 in 1.31), it does not even expand operators that it has no kernels for, and 1.23 refuses
    any model, so the oldest one with the same operators is tried; in the same way a version of the format that it
    does not know is taken for the newest that it does: what versions add are types and fields.
    """
    import onnxruntime as ort

    levels = ort.GraphOptimizationLevel
    try:
        return ort.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        older = _in_older_format(payload, str(error))
        if older is not None:
            return open_session(older, options)
        inlined = _without_functions(payload)
        if inlined is not None:
            with contextlib.suppress(Exception):  # as below
                return ort.InferenceSession(inlined, options, providers=["CPUExecutionProvider"])
        if UNTYPED in str(error):
            widened = _without_bfloat16(payload)
            if widened is not None:
                return ort.InferenceSession(widened, options, providers=["CPUExecutionProvider"])
        if any(said in str(error) for said in ("NOT_IMPLEMENTED", TOO_NEW)):
            for lowered in (_in_oldest_opset(payload), _in_known_opset(payload, str(error))):
                if lowered is not None:
                    with contextlib.suppress(Exception):  # as below
                        return ort.InferenceSession(lowered, options, providers=["CPUExecutionProvider"])
            widened = _without_bfloat16(payload)
            if widened is not None:
                return ort.InferenceSession(widened, options, providers=["CPUExecutionProvider"])
            mixed = _in_widest_float(payload, options)
            if mixed is not None:
                return mixed
            converted = _in_newer_opset(payload)
            if converted is not None:
                with contextlib.suppress(Exception):  # what ONNX Runtime said of the original is what matters
                    session = ort.InferenceSession(converted, options, providers=["CPUExecutionProvider"])
                    session.note = (
                        f"ONNX Runtime does not run it as it is ({_first_line(error)}); it ran converted to opset "
                        f"{NEWER} by onnx's version converter"
                    )
                    return session
        if options.graph_optimization_level != levels.ORT_DISABLE_ALL:
            raise
        options.graph_optimization_level = levels.ORT_ENABLE_BASIC
        return ort.InferenceSession(payload, options, providers=["CPUExecutionProvider"])


def _in_older_format(payload: str | bytes, said: str) -> bytes | None:
    """The model with the newest IR version that ONNX Runtime says it knows; None if it says nothing of the kind."""
    known = re.search(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)", said)
    model = _read(payload) if known is not None else None
    if known is None or model is None or model.ir_version <= int(known[2]):
        return None
    model.ir_version = int(known[2])
    return model.SerializeToString()


def _without_functions(payload: str | bytes) -> bytes | None:
    """The model with its functions inlined; None if it has none, or weights in other files."""
    from surgery.errors import ModelError
    from surgery.graph.functions import inline_functions

    model = _read(payload)
    if model is None or not model.functions:
        return None
    try:
        return inline_functions(model).SerializeToString()
    except ModelError:
        return None


def _read(payload: str | bytes) -> onnx.ModelProto | None:
    """The model; None if it lies in a file and has weights in others, which its bytes alone do not lead to."""
    import onnx

    if isinstance(payload, bytes):
        return onnx.ModelProto.FromString(payload)
    model = onnx.load(payload, load_external_data=False)
    return None if _has_weights_outside(model) else model


def _has_weights_outside(model: onnx.ModelProto) -> bool:
    import onnx

    from surgery.graph.load import tensors_of

    return any(t.data_location == onnx.TensorProto.EXTERNAL for t in tensors_of(model.graph))


def _in_oldest_opset(payload: str | bytes) -> bytes | None:
    """The model in the oldest operator set that has all its operators as they are; None if it is in that."""
    import onnx

    from surgery.graph.walk import all_nodes

    model = _read(payload)
    if model is None or model.functions:
        return None
    declared = next((o for o in model.opset_import if o.domain in ("", "ai.onnx")), None)
    if declared is None:
        return None
    oldest = 1
    for node in all_nodes(model.graph.node):
        if node.domain in ("", "ai.onnx"):
            try:
                schema = onnx.defs.get_schema(node.op_type, declared.version, "")
            except onnx.defs.SchemaError:
                return None
            oldest = max(oldest, schema.since_version)
    if oldest >= declared.version:
        return None
    declared.version = oldest
    return model.SerializeToString()


def _in_known_opset(payload: str | bytes, said: str) -> bytes | None:
    """The model in the newest operator set that ONNX Runtime says it supports, if that has all its attributes.

    What a version adds to an operator is types, mostly, and ONNX Runtime checks those.
    """
    import onnx

    from surgery.graph.walk import all_nodes

    known = re.search(r"official support for domain ai\.onnx is till opset (\d+)", said)
    model = _read(payload) if known is not None else None
    if known is None or model is None or model.functions:
        return None
    version = int(known[1])
    for node in all_nodes(model.graph.node):
        if node.domain in ("", "ai.onnx"):
            try:
                schema = onnx.defs.get_schema(node.op_type, version, "")
            except onnx.defs.SchemaError:
                return None
            if not {a.name for a in node.attribute} <= schema.attributes.keys():
                return None
    for declared in model.opset_import:
        if declared.domain in ("", "ai.onnx"):
            declared.version = version
    return model.SerializeToString()


def _without_bfloat16(payload: str | bytes) -> bytes | None:
    """The model with its bfloat16 operators in float32; None if it has none, or weights in other files."""
    from surgery.graph.bfloat import has_bfloat16, in_float32

    model = _read(payload)
    return in_float32(model).SerializeToString() if model is not None and has_bfloat16(model) else None


def _in_widest_float(payload: str | bytes, options: Any) -> Any:
    """A session of the model with operators on floats of two kinds in the wider one; None if that is no help.

    Kernels for the wider kind may be those of a newer operator set alone (GridSample in 1.31), which is tried too.
    """
    import onnxruntime as ort

    from surgery.graph.mixed import in_widest_float
    from surgery.graph.upgrade import upgrade

    model = _read(payload)
    if model is None or _has_weights_outside(model):
        return None
    found, operators = in_widest_float(model)
    for opset in (0, WIDER) if operators else ():
        with contextlib.suppress(
            Exception
        ):  # as in what calls this; the converter raises many undocumented types
            one = upgrade(found, opset) if opset else found
            session = ort.InferenceSession(
                one.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            session.note = (
                f"ONNX Runtime has no kernels for floats of two kinds ({', '.join(operators)}): it ran with these "
                "operators in the wider kind, results rounded as in the model"
            )
            return session
    return None


def _in_newer_opset(payload: str | bytes) -> bytes | None:
    """The model in opset `NEWER`; None if it is not older, cannot be converted, or has weights in other files."""
    from surgery.graph.upgrade import upgrade

    model = _read(payload)
    if model is None or _has_weights_outside(model):
        return None
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), NEWER)
    if opset >= NEWER:
        return None
    try:
        return upgrade(model, NEWER).SerializeToString()
    except Exception:  # the converter raises many undocumented types
        return None


def run_session(
    session: Any, names: Sequence[str], feeds: Arrays, seconds: float | None = None
) -> list[NDArray[Any]]:
    """Outputs of a session, those included that numpy has no type of its own for.

    ONNX Runtime 1.31 takes and gives no arrays of bfloat16, float8 and 4-bit numbers (of ml_dtypes here), only values
    of its own; their memory is read and written.

    Args:
        session: An ONNX Runtime session.
        names: Outputs that are wanted.
        feeds: Values by name, of the dtypes that the model declares.
        seconds: Time limit of the run; None takes that of :mod:`surgery.graph.deadline`.

    Raises:
        EndlessError: the run did not end in time.
    """
    import onnxruntime as ort

    foreign = {v.name for v in (*session.get_inputs(), *session.get_outputs()) if v.type in FOREIGN}
    if not foreign:
        with deadline(seconds) as options:
            return list(session.run(list(names), dict(feeds), options))
    types = {v.name: v.type for v in session.get_inputs()}
    given = {
        name: _foreign_value(value, types[name])
        if name in foreign
        else ort.OrtValue.ortvalue_from_numpy(np.asarray(value))
        for name, value in feeds.items()
    }
    with deadline(seconds) as options:
        found = session.run_with_ort_values(list(names), given, options)
    return [_foreign_array(v) if v.is_tensor() and v.data_type() in FOREIGN else v.numpy() for v in found]


def _foreign_value(value: Any, kind: str) -> Any:
    import onnx
    import onnxruntime as ort

    element = getattr(onnx.TensorProto, FOREIGN[kind])
    array = np.asarray(value)
    made = ort.OrtValue.ortvalue_from_shape_and_type(list(array.shape), element)
    # As a tensor of a model holds them: two numbers of 4 bits in a byte.
    raw = onnx.numpy_helper.from_array(array.astype(onnx.helper.tensor_dtype_to_np_dtype(element))).raw_data
    ctypes.memmove(made.data_ptr(), raw, len(raw))
    return made


def _foreign_array(value: Any) -> NDArray[Any]:
    import onnx

    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    element = getattr(onnx.TensorProto, FOREIGN[value.data_type()])
    tensor = onnx.TensorProto(dims=list(value.shape()), data_type=element, raw_data=raw)
    return onnx.numpy_helper.to_array(tensor)


def note_on(session: Any) -> str | None:
    """What has to be said of results of a session, if it does not run the model as it was given."""
    return getattr(session, "note", None)


def payload_of(path: Path, options: Any) -> str | bytes:
    """What a session is made of for a model in a file: its path, or its bytes if links beside it lead to its weights.

    ONNX Runtime 1.31 refuses weights behind a link that leads out of the model's folder, so `options` say where the
    weights really are. It follows them for the outermost graph alone (measured); those of bodies and of Constant
    nodes are read here.
    """
    import onnx

    from surgery.graph.load import tensors_of

    model = onnx.load(path, load_external_data=False)
    for tensor in tensors_of(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = Path(next(e.value for e in tensor.external_data if e.key == "location"))
        link = path.parent / location
        if not link.is_symlink():
            break
        target = link.parent / os.readlink(link)
        if target.parts[-len(location.parts) :] == location.parts:
            folder = str(target.parents[len(location.parts) - 1])
            options.add_session_config_entry(WEIGHTS_FOLDER, folder)
            _read_inner_weights(model, folder)
            return model.SerializeToString()
        break
    return str(path)


def _read_inner_weights(model: onnx.ModelProto, folder: str) -> None:
    from surgery.graph.load import tensors_of
    from surgery.graph.outside import take_in

    for tensor in itertools.islice(tensors_of(model.graph), len(model.graph.initializer), None):
        take_in(tensor, Path(folder))


class Evaluator:
    """An ONNX Runtime CPU session with deterministic settings.

    Graph optimizations are off by default: the model is then computed as written, and a session costs a
    tenth (0.26 ms for a small cut, measured), which matters for the many small proofs.

    Args:
        model: A model, its bytes, or a path (needed when weights lie outside the file and the model's
            own folder is to be used).
        base_dir: Folder that external data is relative to when `model` is not a path.
        optimize: Let ONNX Runtime optimize the graph: slower to load, faster to run.
        threads: Threads inside one operator; 0 lets ONNX Runtime decide.

    Raises:
        EvaluationError: ONNX Runtime refuses the model.
    """

    def __init__(
        self,
        model: onnx.ModelProto | bytes | Path,
        *,
        base_dir: Path | None = None,
        optimize: bool = False,
        threads: int = 0,
    ) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        options.enable_mem_reuse = False
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
        if base_dir is not None:
            options.add_session_config_entry(WEIGHTS_FOLDER, str(base_dir))
        if isinstance(model, Path):
            payload: str | bytes = payload_of(model, options)
        elif isinstance(model, bytes):
            payload = model
        else:
            payload = model.SerializeToString()
        try:
            self._session = open_session(payload, options)
        except Exception as error:
            raise EvaluationError(_first_line(error)) from error
        self.input_names: tuple[str, ...] = tuple(i.name for i in self._session.get_inputs())
        self.output_names: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())

    def run(
        self, feeds: Arrays, outputs: Sequence[str] | None = None, seconds: float | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Outputs by name; only the named ones if `outputs` is given.

        Args:
            feeds: Values by name; those that the model does not read are left out.
            outputs: Names of the wanted outputs; None for all.
            seconds: Time limit of the run; None takes that of :mod:`surgery.graph.deadline`.

        Raises:
            EvaluationError: a feed is missing or wrong, or an operator failed.
            EndlessError: the run did not end in time.
        """
        names = list(outputs) if outputs is not None else list(self.output_names)
        wanted = {n: feeds[n] for n in self.input_names if n in feeds}
        try:
            values = run_session(self._session, names, wanted, seconds)
        except EndlessError:
            raise
        except Exception as error:
            raise EvaluationError(_first_line(error)) from error
        return dict(zip(names, values, strict=True))


def output_types(model: onnx.ModelProto) -> dict[str, tuple[str, list[Any] | None]]:
    """Type, as in ``tensor(float)``, and shape of every output, as ONNX Runtime infers them.

    The model is loaded, and no session is made ready to run: that takes 30 times as long for 50,000 nodes.

    Raises:
        EvaluationError: ONNX Runtime refuses the model.
    """
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as binding

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        loaded = binding.InferenceSession(options, model.SerializeToString(), False, False)
        found = loaded.outputs_meta
    except Exception as error:  # ONNX Runtime's own, of many kinds
        raise EvaluationError(_first_line(error)) from error
    return {o.name: (o.type, list(o.shape) if o.shape is not None else None) for o in found}


def evaluate_somehow(model: onnx.ModelProto, feeds: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    """Outputs of a small model: from ONNX Runtime, or from onnx's reference where that has no kernel.

    ONNX Runtime's CPU provider lacks kernels for bfloat16, several unsigned and 4-bit types; float8 and
    bfloat16 values cannot be handed to it as numpy arrays.

    Raises:
        EvaluationError: neither runs it; the text is ONNX Runtime's.
    """
    try:
        return Evaluator(model, threads=1).run(feeds)
    except EvaluationError as error:
        first = error
    from onnx.reference import ReferenceEvaluator

    try:
        names = [o.name for o in model.graph.output]
        values = ReferenceEvaluator(model).run(None, dict(feeds))
    except Exception:  # whatever it is: what ONNX Runtime said is what matters
        raise first from None
    return dict(zip(names, values, strict=True))


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
