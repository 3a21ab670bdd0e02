"""Following padded tensors through a graph.

A tensor whose size depends on data has a fixed size here, its room, and what is real stands in front of the
padding along each such axis; how much of it is real is a *count*, an int64 tensor of rank 0. Each operator behind
it is changed so that the same holds for what it makes: what is summed over is masked, sizes read off a shape are
true sizes, sizes given to an operator are rooms. So the graph keeps to fixed sizes and computes the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.graph.bounded import sums
from surgery.graph.bounded.dims import FREE, ONE, Dim, product
from surgery.graph.bounded.equations import settled
from surgery.graph.bounded.spans import smaller_of
from surgery.graph.bounded.writing import SMALL, Writer
from surgery.graph.infer import is_static

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray

    Elements = NDArray[np.object_]


class Unbounded(Exception):  # noqa: N818 - an answer
    """A node cannot work on padded tensors; the text says why."""

    def __init__(self, node: gs.Node, tensor: str, why: str) -> None:
        super().__init__(why)
        self.node, self.tensor, self.why = node, tensor, why


class No(Exception):  # noqa: N818 - an answer
    """Raised by the handler of an operator: why it cannot work on this."""


@dataclass(frozen=True)
class Source:
    """Where the value of a count is found: an element of a tensor of whole numbers, and its largest value."""

    tensor: Any
    index: int
    room: Dim


@dataclass
class Bounds(Writer):
    """What is padded in a graph, and by how much.

    Attributes:
        padded: Tensor name to its padded axes and their true sizes.
        sizes: Tensor name to the sizes that its elements stand for.
        sources: Count to where its value is.
        terms: Free size to the sum of products that it stands for.
        count_terms: Count to the sum of products that it is.
        known: Counts that the model decides itself.
        trimmed: Tensor to what it is without the padding that is known to be none.
        given: Tensor of numbers from data to the largest that they can be, where the model does not say.
        open: Tensor of such numbers that nothing bounds yet, and the node that wants them for a size.
        limited: Count to the largest that it can be, of those that the model does not bound.
        refuses: Whether the target takes no size from data for a node.
        present: Free sizes of inputs, which are 1 or more.
        assumptions: What has to hold, as it has to in the model, in words.
        named: Names of the free sizes of the graph's inputs.
        frees: Free size to a tensor and an axis that have it.
        depth: Tensors that are being looked at to tell the sizes of one.
        opaque: Tensors that are not made of sizes, as far as is known.
        computed: Free size to the operator and the operands that make it, of those that are no sum.
    """

    padded: dict[str, dict[int, Dim]] = field(default_factory=dict)
    sizes: dict[str, Elements] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    assumptions: list[str] = field(default_factory=list)
    named: frozenset[str] = frozenset()
    depth: int = 0
    frees: dict[str, tuple[Any, int]] = field(default_factory=dict)
    _scalars: dict[str, Any] = field(default_factory=dict)
    _masks: dict[tuple[str, int], Any] = field(default_factory=dict)
    _smaller: dict[str, tuple[Dim, Dim]] = field(default_factory=dict)
    _exact: dict[str, dict[int, Dim]] = field(default_factory=dict)
    opaque: set[str] = field(default_factory=set)
    terms: dict[str, sums.Terms] = field(default_factory=dict)
    present: set[str] = field(default_factory=set)
    count_terms: dict[str, sums.Terms] = field(default_factory=dict)
    known: dict[str, Dim] = field(default_factory=dict)
    trimmed: dict[str, Any] = field(default_factory=dict)
    given: dict[str, int] = field(default_factory=dict)
    open: dict[str, tuple[Any, gs.Node]] = field(default_factory=dict)
    limited: dict[str, int] = field(default_factory=dict)
    refuses: Callable[[gs.Node], bool] = lambda node: False
    computed: dict[str, tuple[str, Dim, Dim]] = field(default_factory=dict)

    def add(self, tensor: Any, axis: int, count: Any) -> None:
        """Take a tensor for padded.

        Args:
            tensor: The tensor, of known rank; its size along the axis is the room.
            axis: The axis.
            count: int64 tensor of rank 0.
        """
        from surgery.graph.bounded.wanted import same_number

        size = tensor.shape[axis]
        known = None if isinstance(size, int) else self.exact_dims(tensor).get(axis)
        room = Dim(size) if isinstance(size, int) else known or self.free(tensor, axis, size)
        name = same_number(self, count)
        if name in self.sources and self.sources[name].room != room:
            name = count.name
        self.sources.setdefault(name, Source(count, 0, room))
        self._scalars.setdefault(name, count)
        self.padded.setdefault(tensor.name, {})[axis] = Dim(1, (name,))

    @property
    def rooms(self) -> dict[str, Dim]:
        """Largest value of each count."""
        return {name: source.room for name, source in self.sources.items()}

    # -- what is followed ---------------------------------------------------------------------------

    def written(self, nodes: Iterable[gs.Node]) -> None:
        """Take note of nodes that were written to work on rooms as they are."""
        self.done.update(t.name for n in nodes for t in n.outputs)

    def renewed(self, names: Iterable[str]) -> None:
        """Take note of tensors that other nodes make now, which have yet to be followed."""
        self.done.difference_update(names)

    def values(self) -> list[Any]:
        """Tensors that later calls may read: nothing may drop what makes them until all is done."""
        import onnx_graphsurgeon as gs

        found = [s.tensor for s in self.sources.values()]
        found += [*self._scalars.values(), *self._masks.values()]
        return list({id(t): t for t in found if not isinstance(t, gs.Constant)}.values())

    def append_value(self, graph: gs.Graph, dim: Dim, name: str) -> Any:
        """Write a true size at the end of the graph; an int64 tensor of rank 0 with that name."""
        import onnx_graphsurgeon as gs

        self.out = []
        out = gs.Variable(name, np.dtype(np.int64), [])
        self.out.append(gs.Node("Identity", name, {}, [self.scalar(dim)], [out]))
        self.provenance[name] = {"surgery.rule": "keep-sizes"}
        self.done.add(name)
        graph.nodes.extend(self.out)
        self.out = []
        return out

    def told(self, assumption: str) -> None:
        """Take note of something that has to hold."""
        if assumption not in self.assumptions:
            self.assumptions.append(assumption)

    # -- what is known of tensors -------------------------------------------------------------------

    def elements(self, tensor: Any) -> Elements | None:
        """The sizes that a tensor of whole numbers stands for; None if it is not made of sizes."""
        if tensor.name in self.sizes:
            return self._settled(self.sizes[tensor.name])
        if tensor.dtype is None or np.dtype(tensor.dtype).kind not in "iu":
            return None
        value = self.number(tensor)
        if value is None:
            return self._traced(tensor)
        if value.size > SMALL:
            return None
        found = np.empty(value.shape, object)
        for index in np.ndindex(value.shape):
            found[index] = Dim(int(value[index]))
        return found

    def _settled(self, elements: Elements) -> Elements:
        if not self.known:
            return elements
        found = np.empty(elements.shape, object)
        for index in np.ndindex(elements.shape):
            found[index] = settled(self, elements[index])
        return found

    def _traced(self, tensor: Any) -> Elements | None:
        """The sizes that a tensor stands for where nothing is padded: it is computed from shapes."""
        from surgery.graph.bounded.sizes import SIZE_OPS, compute_sizes

        node = tensor.inputs[0] if tensor.inputs else None
        if node is None or tensor.name in self.opaque or node.domain not in (None, "", "ai.onnx"):
            return None
        self.opaque.add(tensor.name)  # until it is known to be one; ends circles too
        found: Elements | None = None
        try:
            if node.op == "Shape":
                dims = self.dims(node.inputs[0])
                found = sized(dims[node.attrs.get("start", 0) : node.attrs.get("end", len(dims))])
            elif node.op in SIZE_OPS:
                found = compute_sizes(self, node)
        except No:
            return None
        if found is not None:
            self.opaque.discard(tensor.name)
            self.sizes[tensor.name] = found
        return found

    def dims(self, tensor: Any) -> list[Dim]:
        """The true sizes of a tensor.

        Raises:
            No: its rank, or a size, is not known.
        """
        if tensor.shape is None:
            raise No(f"the rank of {tensor.name!r} is not known")
        own = self.padded.get(tensor.name, {})
        found = []
        for axis, dim in enumerate(tensor.shape):
            if axis in own:
                found.append(own[axis])
            elif isinstance(dim, int):
                found.append(Dim(dim))
            else:
                known = self.exact_dims(tensor).get(axis)
                found.append(known if known is not None else self.free(tensor, axis, dim))
        return found

    def exact_dims(self, tensor: Any) -> dict[int, Dim]:
        """Free sizes of a tensor by what they are computed from, as far as that is known."""
        if tensor.name not in self._exact:
            from surgery.graph.bounded.exact import exact_dims

            self._exact[tensor.name] = {}  # until it is known; ends circles too
            self._exact[tensor.name] = exact_dims(self, tensor)
        return self._exact[tensor.name]

    def note_exact(self, tensor: Any, axes: Mapping[int, Dim]) -> None:
        """Take note of what free sizes of a tensor are computed from, where that is not known yet."""
        self._exact[tensor.name] = {**axes, **self.known_dims(tensor)}

    def known_dims(self, tensor: Any) -> dict[int, Dim]:
        """Free sizes of a tensor that have been looked at, by what they are computed from."""
        return self._exact.get(tensor.name, {})

    def free(self, tensor: Any, axis: int, dim: Any) -> Dim:
        """A free dim of the inputs, known by its name, or as that of one tensor."""
        atom = f"{FREE}{dim}" if isinstance(dim, str) else f"{FREE}{tensor.name}:{axis}"
        self.frees.setdefault(atom, (tensor, axis))
        return Dim(1, (atom,))

    def room(self, dim: Dim) -> Dim:
        """The largest that a size can be; it is exact."""
        return dim.room(self.rooms)

    def exact(self, op: str, a: Dim, b: Dim) -> Dim:
        """Arithmetic on sizes that follow from the sizes of the inputs.

        Args:
            op: Add, Sub, Min, Max or Div.
            a: An exact size.
            b: An exact size.
        """
        one, two = sums.expand(a, self.terms), sums.expand(b, self.terms)
        if op in ("Add", "Sub"):
            found = self.size_of(sums.plus(one, two, 1 if op == "Add" else -1))
            return self._one_of_its_own(op, a, b) if found is None else found
        if op in ("Min", "Max"):
            for less, more, rest in ((a, b, sums.plus(two, one, -1)), (b, a, sums.plus(one, two, -1))):
                if self.never_negative(rest):
                    return less if op == "Min" else more
        if op == "Div":
            terms = sums.quotient(one, two)
            if terms is None and b.number and b.number > 0 and self.never_negative(one):
                terms = sums.whole_part(one, b.number)
            found = None if terms is None else self.size_of(terms)
            if found is not None:
                return found
        return self._one_of_its_own(op, a, b)

    def never_negative(self, terms: sums.Terms) -> bool:
        """Whether a sum is surely 0 or more."""
        from surgery.graph.bounded.choices import not_negative

        atoms = {atom for key in terms for atom in key}
        known = all(a not in self.computed or not_negative(self, Dim(1, (a,))) for a in atoms)
        return known and sums.surely_not_negative(terms, self.present)

    def size_of(self, terms: sums.Terms) -> Dim | None:
        """The size that a sum of products is; None if it is too long to keep."""
        if len(terms) > sums.MOST_TERMS or any(len(k) > sums.MOST_ATOMS for k in terms):
            return None
        number, atoms, rest = sums.factored(terms)
        if set(rest) <= {()}:
            return Dim(number, atoms)
        name = sums.named(rest)
        self.terms.setdefault(name, rest)
        return Dim(number, tuple(sorted((*atoms, name))))

    def _one_of_its_own(self, op: str, a: Dim, b: Dim) -> Dim:
        name = f"{FREE}{op.lower()}({a},{b})"
        self.computed.setdefault(name, (op, a, b))
        return Dim(1, (name,))

    def scalar(self, dim: Dim) -> Any:
        """A true size as an int64 tensor of rank 0."""
        if not dim.atoms:
            return self.const(np.asarray(dim.factor, np.int64))
        result = None
        for atom in dim.atoms:
            value = self._atom(atom)
            result = value if result is None else self.emit("Mul", result, value)
        if dim.factor != 1:
            result = self.emit("Mul", result, np.asarray(dim.factor, np.int64))
        return result

    def _atom(self, atom: str) -> Any:
        if atom not in self._scalars:
            if atom in self.terms:
                parts = [self.scalar(Dim(v, k)) for k, v in self.terms[atom].items()]
                whole = parts[0]
                for part in parts[1:]:
                    whole = self.emit("Add", whole, part)
                self._scalars[atom] = whole
                return whole
            if atom in self.computed:
                op, a, b = self.computed[atom]
                left, right = self.scalar(a), self.scalar(b)
                if op in ("Min", "Max"):
                    less = self.emit(
                        "Less", *((left, right) if op == "Min" else (right, left)), dtype=np.bool_
                    )
                    self._scalars[atom] = self.emit("Where", less, left, right, dtype=np.int64)
                else:
                    self._scalars[atom] = self.emit(op, left, right)
                return self._scalars[atom]
            if atom.startswith(FREE):
                tensor, axis = self.frees[atom]
                shape = self.emit("Shape", tensor, dtype=np.int64)
                index = axis
            else:
                source = self.sources[atom]
                shape, index = source.tensor, source.index
                if np.dtype(shape.dtype) != np.int64:
                    shape = self.emit("Cast", shape, dtype=np.int64, to=7)
                shape = self.emit("Reshape", shape, np.asarray([-1], np.int64))
            self._scalars[atom] = self.emit("Gather", shape, np.asarray(index, np.int64), axis=0)
        return self._scalars[atom]

    def value(self, elements: Iterable[Dim], *, rooms: bool = False) -> Any:
        """Sizes as an int64 vector: true ones, or the rooms for them."""
        parts = [self.room(dim) if rooms else dim for dim in elements]
        if all(d.number is not None for d in parts):
            return self.const(np.asarray([d.factor for d in parts], np.int64))
        one = np.asarray([1], np.int64)
        vectors = [self.emit("Reshape", self.scalar(d), one) for d in parts]
        return vectors[0] if len(vectors) == 1 else self.emit("Concat", *vectors, axis=0)

    def pad(self, tensor: Any, axes: Mapping[int, Dim]) -> None:
        """Take note of the padded axes of a tensor; exact ones are left out."""
        found = {a: d for a, d in axes.items() if not d.exact}
        free = {a: d for a, d in axes.items() if d.exact}  # numbers too: inference may not know them
        if free:
            self._exact[tensor.name] = free
        if found:
            self.padded[tensor.name] = found
        else:
            self.padded.pop(tensor.name, None)

    def atom(self, name: str, tensor: Any, index: int, room: Dim) -> Dim:
        """A size of a name of its own, whose value is an element of a tensor."""
        self.sources.setdefault(name, Source(tensor, index, room))
        return Dim(1, (name,))

    def smaller(self, a: Dim, b: Dim) -> Dim:
        """The smaller of two sizes."""
        if a == b:
            return a
        room = self.exact("Min", self.room(a), self.room(b))
        if a.exact and b.exact:
            return room
        known = smaller_of(self, a, b)
        if known is not None:
            return known
        for one, two in ((a, b), (b, a)):
            if two in self._smaller.get(str(one), ()):
                return one
            most, limit = self.room(one).number, two.number
            if most is not None and limit is not None and most <= limit:
                return one
        one, two = sorted((a, b), key=str)
        name = f"min({one},{two})"
        if name not in self.sources:
            left, right = self.scalar(one), self.scalar(two)
            less = self.emit("Less", left, right, dtype=np.bool_)
            self.atom(name, self.emit("Where", less, left, right, dtype=np.int64), 0, room)
        self._smaller[name] = (one, two)
        return Dim(1, (name,))

    def places(self, room: Dim) -> Any:
        """0, 1, ... below a room; int64."""
        if room.number is not None:
            return self.const(np.arange(room.number, dtype=np.int64))
        zero, one = np.asarray(0, np.int64), np.asarray(1, np.int64)
        return self.emit("Range", zero, self.scalar(room), one)

    # -- masks --------------------------------------------------------------------------------------

    def mask(self, dim: Dim, trailing: int) -> Any:
        """Bool tensor [room, 1, ...]: which entries along an axis are real.

        Args:
            dim: True size of the axis.
            trailing: Number of axes behind it.
        """
        key = (str(dim), trailing)
        if key not in self._masks:
            places = self.places(self.room(dim))
            if trailing:
                places = self.emit("Reshape", places, np.asarray([-1] + [1] * trailing, np.int64))
            self._masks[key] = self.emit("Less", places, self.scalar(dim), dtype=np.bool_)
        return self._masks[key]

    def masked(self, tensor: Any, fill: Any, axes: Iterable[int] | None = None) -> Any:
        """The tensor with another value in place of the padding.

        Args:
            tensor: The tensor.
            fill: What padding becomes.
            axes: Padded axes to look at; all if None.
        """
        own = self.padded.get(tensor.name, {})
        wanted = [a for a in own if axes is None or a in set(axes)]
        result = tensor
        for axis in wanted:
            real = self.mask(own[axis], len(self.dims(tensor)) - 1 - axis)
            if np.dtype(tensor.dtype) == np.bool_:
                one, other = ("Or", self.emit("Not", real)) if fill else ("And", real)
                result = self.emit(one, other, result)
            else:
                other = np.asarray(fill, np.dtype(tensor.dtype))
                result = self.emit("Where", real, result, other, dtype=tensor.dtype)
        if wanted:
            left = {a: d for a, d in own.items() if a not in wanted}
            self.pad(result, left)
            if result.shape is None or not is_static(result.shape):
                result.shape = tensor.shape
        return result


def sized(dims: Iterable[Dim]) -> Elements:
    """Sizes as a vector of elements."""
    found = list(dims)
    result = np.empty(len(found), object)
    for i, dim in enumerate(found):
        result[i] = dim
    return result


def total(dims: list[Dim]) -> Dim:
    """The number of elements."""
    return product(dims) if dims else ONE
