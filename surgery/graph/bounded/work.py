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
from surgery.graph.bounded.equations import settle, settled
from surgery.graph.bounded.spans import smaller_of
from surgery.graph.control_flow import captured_names
from surgery.graph.convert import constant, is_external, value_of
from surgery.graph.infer import is_static

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray

    Elements = NDArray[np.object_]

SMALL = 4096
"""Elements up to which constants are looked at as sizes."""


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
class Bounds:
    """What is padded in a graph, and by how much.

    Attributes:
        provenance: First output of each new node to the metadata stamped on it.
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
    """

    provenance: dict[str, dict[str, str]]
    padded: dict[str, dict[int, Dim]] = field(default_factory=dict)
    sizes: dict[str, Elements] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    assumptions: list[str] = field(default_factory=list)
    named: frozenset[str] = frozenset()
    depth: int = 0
    frees: dict[str, tuple[Any, int]] = field(default_factory=dict)
    _scalars: dict[str, Any] = field(default_factory=dict)
    _masks: dict[tuple[str, int], Any] = field(default_factory=dict)
    _exact: dict[str, dict[int, Dim]] = field(default_factory=dict)
    _opaque: set[str] = field(default_factory=set)
    terms: dict[str, sums.Terms] = field(default_factory=dict)
    present: set[str] = field(default_factory=set)
    count_terms: dict[str, sums.Terms] = field(default_factory=dict)
    known: dict[str, Dim] = field(default_factory=dict)
    trimmed: dict[str, Any] = field(default_factory=dict)
    given: dict[str, int] = field(default_factory=dict)
    open: dict[str, tuple[Any, gs.Node]] = field(default_factory=dict)
    limited: dict[str, int] = field(default_factory=dict)
    refuses: Callable[[gs.Node], bool] = lambda node: False
    _computed: dict[str, tuple[str, Dim, Dim]] = field(default_factory=dict)
    _done: set[str] = field(default_factory=set)
    _out: list[Any] = field(default_factory=list)
    _count: int = 0
    _opset: int = 18

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

    # -- the pass -----------------------------------------------------------------------------------

    def follow(self, graph: gs.Graph, waits: Callable[[gs.Node], bool]) -> list[gs.Node]:
        """Change the nodes behind padded tensors, in place, up to nodes that wait.

        Args:
            graph: The graph, in topological order.
            waits: Whether the size of what a node makes depends on data, and the node is still to be replaced: its
                operands are masked, and what is behind it is left for a later call. Asked only once all in front
                of a node is done.

        Returns:
            The nodes that wait and have nothing in front of them that waits.

        Raises:
            Unbounded: a node cannot work on padded tensors.
        """
        from surgery.graph.bounded.operators import prepare
        from surgery.graph.bounded.values import limited

        self._opset = int(graph.opset)
        self.named = frozenset(d for t in graph.inputs for d in t.shape or () if isinstance(d, str))
        for tensor in graph.inputs:
            for axis, dim in enumerate(tensor.shape or ()):
                self.present.add(f"{FREE}{dim}" if isinstance(dim, str) else f"{FREE}{tensor.name}:{axis}")
        self._out = []
        self._opaque.clear()
        found = []
        blocked: set[str] = set()
        typed: set[str] = set()
        for node in list(graph.nodes):
            name = next((t.name for t in node.outputs if t.name), "")
            reads = {t.name for t in node.inputs if t.name}
            if node.attrs:
                reads |= {c for body in node.subgraphs() for c in captured_names(body)}
            if reads & blocked:
                blocked.update(t.name for t in node.outputs)
            elif waits(node):
                blocked.update(t.name for t in node.outputs)
                found.append(node)
                if name not in self._done and any(r in self.padded for r in reads):
                    settle(self, node)
                    self._guard(node, prepare)
                    self._done.add(name)
            elif (
                name not in self._done
                and (any(r in self.padded or r in self.sizes for r in reads) or limited(self, node))
                and not self._open_for(node)
            ):
                self._done.add(name)
                self._step(node, reads)
                continue
            elif self._open_for(node):
                blocked.update(t.name for t in node.outputs)
            elif name not in self._done and any(r in self._done or r in typed for r in reads):
                if name not in self._done and self._sized(node):
                    self._step(node, reads)
                    continue
                typed.update(self._sharpen(node))
            if name not in blocked:
                self._look(node)
            self._out.append(node)
        graph.nodes.clear()
        graph.nodes.extend(self._out)
        self._out = []
        return found

    def _open_for(self, node: gs.Node) -> bool:
        """Whether a node makes something as long as a number from data that nothing bounds yet."""
        from surgery.graph.bounded.values import limited

        limited(self, node)
        return any(wants is node for name, (_, wants) in self.open.items() if name not in self.given)

    def _look(self, node: gs.Node) -> None:
        """Take note of the free sizes of what a node makes; those that are numbers are so from now on."""
        for tensor in node.outputs:
            if tensor.name in self.padded or tensor.shape is None or is_static(tensor.shape):
                continue
            found = self.exact_dims(tensor)
            known = [found[a].number if a in found else None for a in range(len(tensor.shape))]
            if any(n is not None for n in known):
                tensor.shape = [d if n is None else n for d, n in zip(tensor.shape, known, strict=True)]

    def written(self, nodes: Iterable[gs.Node]) -> None:
        """Take note of nodes that were written to work on rooms as they are."""
        self._done.update(t.name for n in nodes for t in n.outputs)

    def renewed(self, names: Iterable[str]) -> None:
        """Take note of tensors that other nodes make now, which have yet to be followed."""
        self._done.difference_update(names)

    def values(self) -> list[Any]:
        """Tensors that later calls may read: nothing may drop what makes them until all is done."""
        import onnx_graphsurgeon as gs

        found = [s.tensor for s in self.sources.values()]
        found += [*self._scalars.values(), *self._masks.values()]
        return list({id(t): t for t in found if not isinstance(t, gs.Constant)}.values())

    def append_value(self, graph: gs.Graph, dim: Dim, name: str) -> Any:
        """Write a true size at the end of the graph; an int64 tensor of rank 0 with that name."""
        import onnx_graphsurgeon as gs

        self._out = []
        out = gs.Variable(name, np.dtype(np.int64), [])
        self._out.append(gs.Node("Identity", name, {}, [self.scalar(dim)], [out]))
        self.provenance[name] = {"surgery.rule": "keep-sizes"}
        self._done.add(name)
        graph.nodes.extend(self._out)
        self._out = []
        return out

    def told(self, assumption: str) -> None:
        """Take note of something that has to hold."""
        if assumption not in self.assumptions:
            self.assumptions.append(assumption)

    def _guard(self, node: gs.Node, handler: Any) -> bool:
        try:
            return bool(handler(self, node))
        except No as error:
            tensor = next((t.name for t in node.inputs if t.name in self.padded), "")
            raise Unbounded(node, tensor, str(error)) from error

    def _step(self, node: gs.Node, reads: set[str]) -> None:
        """Handle a node; it is written unless its handler has written something in its place."""
        from surgery.graph.bounded.operators import handle
        from surgery.graph.bounded.survey import survey

        made = [t for t in node.outputs if t.name]
        for tensor in node.outputs:
            tensor.shape = None  # what was declared holds for the true size
        inner = reads - {t.name for t in node.inputs}
        if any(r in self.padded for r in inner):
            raise Unbounded(
                node, next(r for r in inner if r in self.padded), "its body reads a padded tensor"
            )
        settle(self, node)
        sizes = (
            survey(self, node) if node.domain in (None, "", "ai.onnx") and made == node.outputs[:1] else {}
        )
        replaced = self._guard(node, handle)
        if not replaced:
            self._out.append(node)
            self.infer(node)
        if sizes:
            own = self.padded.get(made[0].name, {})
            follow = {a: d for a, d in sizes.items() if d.exact and a not in own}
            self._exact[made[0].name] = {**follow, **self._exact.get(made[0].name, {})}
        for tensor in made:
            self._fill(tensor)
        self._done.update(t.name for t in made)

    def _fill(self, tensor: Any) -> None:
        """Write sizes that are known into the type of a tensor, where inference does not know them."""
        known = {**self._exact.get(tensor.name, {}), **self.padded.get(tensor.name, {})}
        if tensor.shape is None or max(known, default=0) >= len(tensor.shape):
            return
        rooms = {axis: self.room(dim).number for axis, dim in known.items()}
        tensor.shape = [
            d if isinstance(d, int) or rooms.get(axis) is None else rooms[axis]
            for axis, d in enumerate(tensor.shape)
        ]

    def _sized(self, node: gs.Node) -> bool:
        """Whether a node lays out what has been written anew in sizes that are known, if not to inference."""
        if node.op != "Reshape" or node.domain not in (None, "", "ai.onnx"):
            return False
        shape = node.outputs[0].shape
        return (shape is None or not is_static(shape)) and self.elements(node.inputs[1]) is not None

    def _sharpen(self, node: gs.Node) -> list[str]:
        """Types behind what has been written anew: names of the outputs whose sizes are better known now."""
        before = [(t, t.shape) for t in node.outputs if t.name]
        if not self.known and all(shape is None or is_static(shape) for _, shape in before):
            return []  # where rooms have been left out, sizes that are known have changed too
        self.infer(node)
        found = []
        for tensor, old in before:
            new = tensor.shape
            if old is None or new is None or len(new) != len(old):
                tensor.shape = old
                continue
            tensor.shape = [n if isinstance(n, int) else o for n, o in zip(new, old, strict=True)]
            if tensor.shape != list(old):
                found.append(tensor.name)
        return found

    # -- writing ------------------------------------------------------------------------------------

    def emit(self, op: str, *inputs: Any, dtype: Any = None, **attributes: Any) -> Any:
        """Write a node; its output, with its type inferred.

        Args:
            op: Operator of the default domain.
            inputs: Tensors, or arrays that become constants.
            dtype: Element type of the output; that of the first input if None.
            attributes: The node's.
        """
        import onnx_graphsurgeon as gs

        self._count += 1
        name = f"surgery/sizes/{op.lower()}_{self._count}"
        operands = [self.const(i) if isinstance(i, np.ndarray) else i for i in inputs]
        out = gs.Variable(name, np.dtype(dtype or operands[0].dtype))
        node = gs.Node(op, name, attributes, operands, [out])
        self._out.append(node)
        self._done.add(name)
        self.provenance[name] = {"surgery.rule": "keep-sizes"}
        self.infer(node)
        return out

    def const(self, value: NDArray[Any]) -> Any:
        """A constant."""
        self._count += 1
        return constant(f"surgery/sizes/constant_{self._count}", value)

    def write(self, node: gs.Node) -> None:
        """Write a node that has been changed, before others that belong to it."""
        self._out.append(node)
        self.infer(node)

    def then(self, node: gs.Node, op: str, *operands: Any) -> Any:
        """Write a node, and another behind it that makes its first output from what it makes.

        Args:
            node: The node; its first output becomes that of the other one.
            op: Operator of the other one, of the default domain.
            operands: Its operands behind the first: tensors, or arrays that become constants.

        Returns:
            What the other one makes.
        """
        import onnx_graphsurgeon as gs

        output = node.outputs[0]
        self._count += 1
        between = gs.Variable(f"surgery/sizes/before_{self._count}", output.dtype)
        node.outputs.clear()
        node.outputs.append(between)
        self.write(node)
        self._done.add(between.name)
        others = [self.const(o) if isinstance(o, np.ndarray) else o for o in operands]
        self.provenance[output.name] = {"surgery.rule": "keep-sizes"}
        self.write(gs.Node(op, f"{between.name}/then", {}, [between, *others], [output]))
        return output

    def instead(self, node: gs.Node, op: str, *inputs: Any, **attributes: Any) -> Any:
        """Write a node that makes the first output of another one in its place; that output."""
        import onnx_graphsurgeon as gs

        output = node.outputs[0]
        operands = [self.const(i) if isinstance(i, np.ndarray) else i for i in inputs]
        node.outputs.clear()
        made = gs.Node(op, node.name, attributes, operands, [output])
        self.provenance[output.name] = {"surgery.rule": "keep-sizes"}
        self.write(made)
        return output

    def infer(self, node: gs.Node) -> None:
        """Types of a node's outputs from those of its operands."""
        import onnx
        from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

        if node.domain not in (None, "", "ai.onnx"):
            return
        inputs: list[onnx.ValueInfoProto] = []
        values: list[onnx.TensorProto] = []
        for tensor in {t.name: t for t in node.inputs if t.name}.values():
            known = self.number(tensor)
            if known is not None and known.size <= SMALL:
                values.append(onnx.numpy_helper.from_array(known, tensor.name))
            elif tensor.dtype is not None:
                kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
                shape = None if tensor.shape is None else list(tensor.shape)
                inputs.append(onnx.helper.make_tensor_value_info(tensor.name, kind, shape))
        outputs = [onnx.helper.make_empty_tensor_value_info(t.name) for t in node.outputs if t.name]
        graph = onnx.helper.make_graph([OnnxExporter.export_node(node)], "one", inputs, outputs, values)
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", self._opset)], ir_version=8
        )
        try:
            found = onnx.shape_inference.infer_shapes(model, data_prop=True)
        except Exception:  # a help; onnx raises many undocumented types
            return
        from surgery.graph.infer import dims_of

        by_name = {v.name: v for v in found.graph.output}
        for tensor in node.outputs:
            value = by_name.get(tensor.name)
            if value is None:
                continue
            if value.type.tensor_type.elem_type:
                tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            tensor.shape = dims_of(value)

    # -- what is known of tensors -------------------------------------------------------------------

    def number(self, tensor: Any) -> NDArray[Any] | None:
        """The value of a constant."""
        import onnx_graphsurgeon as gs

        if not isinstance(tensor, gs.Constant) or is_external(tensor):
            return None
        return value_of(tensor)

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
        if node is None or tensor.name in self._opaque or node.domain not in (None, "", "ai.onnx"):
            return None
        self._opaque.add(tensor.name)  # until it is known to be one; ends circles too
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
            self._opaque.discard(tensor.name)
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
            return self._sum(op, a, b, sums.plus(one, two, 1 if op == "Add" else -1))
        if op in ("Min", "Max"):
            for less, more, rest in ((a, b, sums.plus(two, one, -1)), (b, a, sums.plus(one, two, -1))):
                if self._natural(rest):
                    return less if op == "Min" else more
        if op == "Div":
            found = sums.quotient(one, two)
            if found is None and b.number and b.number > 0 and self._natural(one):
                found = sums.whole_part(one, b.number)
            if found is not None:
                return self._sum(op, a, b, found)
        return self._opaque_size(op, a, b)

    def _natural(self, terms: sums.Terms) -> bool:
        """Whether a sum is surely 0 or more."""
        from surgery.graph.bounded.choices import not_negative

        atoms = {atom for key in terms for atom in key}
        known = all(a not in self._computed or not_negative(self, Dim(1, (a,))) for a in atoms)
        return known and sums.surely_not_negative(terms, self.present)

    def _sum(self, op: str, a: Dim, b: Dim, terms: sums.Terms) -> Dim:
        if len(terms) > sums.MOST_TERMS or any(len(k) > sums.MOST_ATOMS for k in terms):
            return self._opaque_size(op, a, b)
        number, atoms, rest = sums.factored(terms)
        if set(rest) <= {()}:
            return Dim(number, atoms)
        name = sums.named(rest)
        self.terms.setdefault(name, rest)
        return Dim(number, tuple(sorted((*atoms, name))))

    def _opaque_size(self, op: str, a: Dim, b: Dim) -> Dim:
        name = f"{FREE}{op.lower()}({a},{b})"
        self._computed.setdefault(name, (op, a, b))
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
            if atom in self._computed:
                op, a, b = self._computed[atom]
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
            most, limit = self.room(one).number, two.number
            if most is not None and limit is not None and most <= limit:
                return one
        one, two = sorted((a, b), key=str)
        name = f"min({one},{two})"
        if name not in self.sources:
            left, right = self.scalar(one), self.scalar(two)
            less = self.emit("Less", left, right, dtype=np.bool_)
            self.atom(name, self.emit("Where", less, left, right, dtype=np.int64), 0, room)
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
