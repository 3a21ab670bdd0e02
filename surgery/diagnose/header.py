"""Reading a model without its weights: the file is walked, and the data of large tensors is stepped over.

ONNX files are protobuf messages: fields one after the other, each with its length in front. What lies in fields that
hold tensor data is never touched, so that a file of gigabytes costs no more than its graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    import onnx

KEPT: Final = 1 << 16
"""Bytes of tensor data up to which it is kept: axes, shapes and other small constants are looked at."""

_DEPTH: Final = 100
"""Messages in messages that are followed; protobuf itself stops there."""

# Field numbers of onnx.proto: message to field to the message in it; "data" is what is left out.
_MESSAGES: Final[Mapping[str, Mapping[int, str]]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {4: "data", 5: "data", 6: "data", 7: "data", 9: "data", 10: "data", 11: "data"},
}


@dataclass(frozen=True, slots=True)
class Header:
    """A model without the data of its large tensors.

    Attributes:
        proto: The model; tensors whose data was left out have dims and type alone.
        path: The file, or None for bytes.
        size: Bytes of the file.
        left_out: Bytes of tensor data that were stepped over.
        external: Whether data lies in other files.
    """

    proto: onnx.ModelProto
    path: Path | None
    size: int
    left_out: int
    external: bool


def read_header(source: str | Path | bytes) -> Header:
    """Read a model's graph and small constants; memory and time grow with the graph, not with the weights.

    Args:
        source: Path of an ``.onnx`` file, or its bytes.

    Raises:
        ModelError: as :func:`surgery.graph.load.load_model` does; data of tensors is not looked at.
    """
    from surgery.graph.load import check_header, reading

    if isinstance(source, bytes):
        data, left = _without_data(_Bytes(source))
        proto, external = check_header(data, None, "<bytes>", left > 0)
        return Header(proto, None, len(source), left, external)
    path = Path(source)
    with reading(path), path.open("rb") as file:
        size = file.seek(0, 2)
        if size <= 4 * KEPT:
            file.seek(0)
            data, left = file.read(), 0
        else:
            data, left = _without_data(_Blocks(file, size))
    proto, external = check_header(data, path, str(path), left > 0)
    return Header(proto, path, size, left, external)


class _Blocks:
    """A file as bytes, one block in memory at a time. A memory map would count touched pages, up to 2 MB each."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._start = 0
        self._block = b""

    def __len__(self) -> int:
        return self._size

    def byte(self, at: int) -> int:
        """One byte."""
        offset = at - self._start
        if not 0 <= offset < len(self._block):
            self._file.seek(at)
            self._start, self._block, offset = at, self._file.read(KEPT), 0
        return self._block[offset]

    def part(self, begin: int, end: int) -> bytes:
        """Bytes from `begin` to before `end`."""
        self._file.seek(begin)
        return self._file.read(end - begin)


class _Bytes:
    """Bytes with the methods of :class:`_Blocks`."""

    def __init__(self, data: bytes) -> None:
        self.byte = data.__getitem__
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def part(self, begin: int, end: int) -> bytes:
        """Bytes from `begin` to before `end`."""
        return self._data[begin:end]


def _without_data(data: _Bytes | _Blocks) -> tuple[bytes, int]:
    """The message without large tensor data, and how many bytes that were; what is not protobuf stays as it is."""
    if len(data) <= KEPT:
        return data.part(0, len(data)), 0
    walk = _Walk(data)
    try:
        return b"".join(walk.message(0, len(data), "model", 0)), walk.left_out
    except (IndexError, ValueError):
        # Not a message as it should be: what the whole says is said by the beginning, too.
        return data.part(0, 4 * KEPT) + b"\xff", 0


class _Walk:
    def __init__(self, data: _Bytes | _Blocks) -> None:
        self.data = data
        self.left_out = 0

    def number(self, at: int, end: int) -> tuple[int, int]:
        """A varint and where it ends."""
        value = shift = 0
        while at < end:
            byte = self.data.byte(at)
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
            if shift > 63:
                break
        raise ValueError("a number without end")

    def message(self, at: int, end: int, kind: str, depth: int) -> list[bytes]:
        """The parts of a message that stay."""
        if depth > _DEPTH:
            raise ValueError("too deep")
        inner = _MESSAGES[kind]
        parts: list[bytes] = []
        begin = at  # of what is copied as it is
        while at < end:
            start = at
            tag, at = self.number(at, end)
            wire = tag & 7
            if wire == 0:
                _, at = self.number(at, end)
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            elif wire == 2:
                length, at = self.number(at, end)
                body, at = at, at + length
                child = inner.get(tag >> 3)
                if child is not None and length > KEPT and at <= end:
                    parts.append(self.data.part(begin, start))
                    begin = at
                    if child == "data":
                        self.left_out += length
                    else:
                        kept = self.message(body, at, child, depth + 1)
                        parts += [_number(tag), _number(sum(map(len, kept))), *kept]
            else:
                raise ValueError("a field of no known kind")
            if at > end:
                raise ValueError("a field that ends behind its message")
        parts.append(self.data.part(begin, end))
        return parts


def _number(value: int) -> bytes:
    found = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        found.append(low | (0x80 if value else 0))
        if not value:
            return bytes(found)
