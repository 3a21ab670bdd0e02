"""Inputs that a plugin's body does not read: nothing in a graph leads to them.

Of some inputs only the size counts, and a graph with fixed sizes has numbers in its place; the values of others are
not read at all. An input of the model that nothing reads may be that input. Else zeros can stand in for it, where
the definition says of what shape (`stand_in`): dims are numbers, or symbols, of other inputs or to be found from the
graph's numbers like attributes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from surgery.graph.body import Body
from surgery.plugins.definition import TensorType
from surgery.plugins.schema import Attribute

if TYPE_CHECKING:
    from surgery.plugins.definition import PluginDefinition
    from surgery.plugins.schema import Input

Types = tuple["TensorType | None", ...]

SIZE = Attribute(type="int", min=1, meaning="A size that is to be found.")

ORDERS = 24
"""Ways to give unread inputs of a model to a plugin that are tried."""


@dataclass(frozen=True)
class Unknown:
    """A size that is to be found; in the search it is an attribute of this name, which no plugin's has."""

    symbol: str

    @property
    def key(self) -> str:
        """Its name among attributes."""
        return f"size of {self.symbol}"


@dataclass(frozen=True)
class From:
    """A size that another input has; only at run time, where it is free."""

    tensor: str
    axis: int


@dataclass(frozen=True)
class Zeros:
    """A tensor of zeros.

    Attributes:
        dtype: Its dtype.
        dims: Its sizes: numbers, or whose sizes they are.
    """

    dtype: str
    dims: tuple[int | From, ...]

    def write(self, b: Body) -> str:
        """Write it; the value's name."""
        numbers = [d for d in self.dims if isinstance(d, int)]
        if len(numbers) == len(self.dims):
            shape = b.ints(*numbers)
        else:
            sizes = [
                b.ints(d) if isinstance(d, int) else b.slice(b.op("Shape", d.tensor), 0, d.axis, d.axis + 1)
                for d in self.dims
            ]
            shape = b.concat(sizes, 0) if len(sizes) > 1 else sizes[0]
        element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        return b.op("ConstantOfShape", shape, value=onnx.helper.make_tensor("value", element, [1], [0]))


@dataclass(frozen=True)
class Given:
    """Inputs for a plugin.

    Attributes:
        names: Names of tensors, "" for those that are left out, and for those that zeros stand in for.
        types: Their types; None for those that are left out, and where zeros stand in.
        zeros: By place: dtype and dims of zeros; a dim is a number, one of another input, or to be found.
        start: Values of what is to be found, to begin with.
    """

    names: tuple[str, ...]
    types: Types
    zeros: Mapping[int, tuple[str, tuple[int | Unknown | From, ...]]] = field(default_factory=dict)
    start: Mapping[str, int] = field(default_factory=dict)

    @property
    def unknown(self) -> dict[str, Attribute]:
        """The sizes that are to be found, as attributes."""
        return dict.fromkeys(self.start, SIZE)

    @property
    def symbols(self) -> dict[str, str]:
        """The symbol of each size that is to be found, by its name among attributes."""
        sizes = [d for _, dims in self.zeros.values() for d in dims if isinstance(d, Unknown)]
        return {d.key: d.symbol for d in sizes}

    def own(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Attributes without the sizes."""
        return {n: v for n, v in attributes.items() if n not in self.start}

    def types_with(self, attributes: Mapping[str, Any]) -> Types:
        """The types of all inputs, with sizes that are among the attributes."""
        if not self.zeros:
            return self.types
        found = list(self.types)
        for place, (dtype, dims) in self.zeros.items():
            found[place] = TensorType(dtype, tuple(self._size(d, attributes) for d in dims))
        return tuple(found)

    def _size(self, dim: int | Unknown | From, attributes: Mapping[str, Any]) -> int | str | None:
        if isinstance(dim, Unknown):
            return int(attributes[dim.key])
        if isinstance(dim, From):
            known = self.types[self.names.index(dim.tensor)]
            return None if known is None or known.shape is None else known.shape[dim.axis]
        return dim

    def written(self, attributes: Mapping[str, Any]) -> dict[int, Zeros]:
        """The zeros, by place, once sizes are found."""
        return {
            place: Zeros(dtype, tuple(int(attributes[d.key]) if isinstance(d, Unknown) else d for d in dims))
            for place, (dtype, dims) in self.zeros.items()
        }


def ways(
    definition: PluginDefinition,
    names: Sequence[str],
    types: Types,
    sample: Types,
    unread: Mapping[str, TensorType],
) -> Iterator[Given]:
    """How the inputs of a plugin can be given, likeliest first.

    Args:
        definition: The plugin.
        names: The tensors that were found, "" for those that were not.
        types: Their types.
        sample: Types of the inputs in a configuration of this structure.
        unread: Inputs of the model that nothing reads.
    """
    count = max((i + 1 for i, n in enumerate(names) if n), default=0)
    missing = [i for i, n in enumerate(names) if not n]
    if all(i >= count for i in missing) and count >= sum(not i.optional for i in definition.file.inputs):
        yield Given(tuple(names[:count]), types[:count])
    if not missing:
        return
    declared = definition.declared_inputs(len(names))
    fitting = [
        [n for n, t in unread.items() if t.dtype in declared[i].dtypes and _has_rank(declared[i], t)]
        for i in missing
    ]
    for chosen in itertools.islice(itertools.product(*fitting), ORDERS):
        if len(set(chosen)) == len(chosen):
            at = dict(zip(missing, chosen, strict=True))
            yield Given(
                tuple(at.get(i, n) for i, n in enumerate(names)),
                tuple(unread[at[i]] if i in at else t for i, t in enumerate(types)),
            )
    if all(declared[i].stand_in is not None for i in missing):
        yield _zeros(declared, names, types, sample, missing)


def _has_rank(declared: Input, given: TensorType) -> bool:
    rank = None if given.shape is None else len(given.shape)
    return any(
        len(s) == rank or any(isinstance(d, str) and d.startswith("...") for d in s) for s in declared.shapes
    )


def _zeros(
    declared: Sequence[Input], names: Sequence[str], types: Types, sample: Types, missing: Sequence[int]
) -> Given:
    known: dict[str, int | From] = {}
    for entry, name, given in zip(declared, names, types, strict=True):
        shape = None if given is None else given.shape
        fitting = [s for s in entry.shapes if shape is not None and len(s) == len(shape)]
        for axis, symbol in enumerate(fitting[0] if name and fitting else ()):
            dim = None if shape is None else shape[axis]
            if isinstance(symbol, str):
                known.setdefault(symbol, dim if isinstance(dim, int) else From(name, axis))
    zeros: dict[int, tuple[str, tuple[int | Unknown | From, ...]]] = {}
    start: dict[str, int] = {}
    for place in missing:
        entry, like = declared[place], sample[place]
        shape = () if like is None or like.shape is None else like.shape
        dims: list[int | Unknown | From] = []
        for axis, symbol in enumerate(entry.stand_in or ()):
            if isinstance(symbol, int) or symbol in known:
                dims.append(symbol if isinstance(symbol, int) else known[symbol])
                continue
            size = shape[axis] if axis < len(shape) else 1
            dims.append(Unknown(symbol))
            start.setdefault(Unknown(symbol).key, size if isinstance(size, int) else 1)
        dtype = entry.dtypes[0] if like is None or like.dtype not in entry.dtypes else like.dtype
        zeros[place] = (dtype, tuple(dims))
    return Given(tuple(names), types, zeros, start)
