"""Reading weights that lie outside of a model's file, whatever links lead to them.

onnx's own loader opens no file behind a link, and none that has two names in the file system (onnx 1.23); both are
how weights lie in caches of downloaded models, and how models are handed on here. Where the files are was checked
when the model was loaded (:func:`surgery.graph.load.load_model`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from surgery.graph.load import tensors_of

if TYPE_CHECKING:
    import onnx


def load_whole(path: Path) -> onnx.ModelProto:
    """The model in a file, with all its weights.

    Raises:
        OSError: a file cannot be read.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    for tensor in tensors_of(model.graph):
        take_in(tensor, path.parent)
    return model


def take_in(tensor: onnx.TensorProto, folder: Path) -> None:
    """Read the data of a tensor, in place, if it lies outside.

    Raises:
        OSError: the file cannot be read.
    """
    import onnx

    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return
    entry = {e.key: e.value for e in tensor.external_data}
    with (folder / entry["location"]).open("rb") as file:
        file.seek(int(entry.get("offset", 0)))
        tensor.raw_data = file.read(int(entry["length"]) if "length" in entry else _length(tensor))
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]


def _length(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's data; two numbers of 4 bits share a byte."""
    import onnx

    count = 1
    for dim in tensor.dims:
        count *= dim
    name = onnx.TensorProto.DataType.Name(tensor.data_type)
    if name in ("INT4", "UINT4", "FLOAT4E2M1"):
        return -(-count // 2)
    if name in ("INT2", "UINT2"):
        return -(-count // 4)
    return count * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
