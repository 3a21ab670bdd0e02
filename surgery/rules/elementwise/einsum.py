"""Einsum as transposes and products of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from surgery.graph.body import Body
from surgery.rules.engine.rule import NoMatch, lowering, samples_in
from surgery.rules.engine.site import Dim, Site


@dataclass
class Term:
    """A factor of the product: a value and the labels of its axes."""

    value: str
    labels: list[str]
    shape: tuple[Dim, ...] = ()


class Sum:
    """Lowers one equation.

    Labels are single letters; axes under an ellipsis get labels of their own, counted from the right.
    """

    def __init__(self, site: Site, b: Body) -> None:
        self.site, self.b = site, b
        self.sizes: dict[str, Dim] = {}
        self.places: dict[str, tuple[str, int]] = {}
        self.zero = b.const(0, site.dtype(0))
        equation = str(site.attr("equation")).replace(" ", "")
        left, arrow, right = equation.partition("->")
        written = left.split(",")
        if len(written) != len(site.inputs):
            raise NoMatch(f"{len(site.inputs)} operands for {equation!r}")
        self.terms = [self._term(i, text) for i, text in enumerate(written)]
        dotted = [t for t, text in zip(self.terms, written, strict=True) if "..." in text]
        if len({sum(x.startswith(".") for x in t.labels) for t in dotted}) > 1:
            raise NoMatch("ONNX wants ellipses of equal rank")
        self.output = self._given(right) if arrow else self._implied(left)

    def _hidden(self) -> list[str]:
        """Labels of the axes under ellipses, in order."""
        found = {label for term in self.terms for label in term.labels if label.startswith(".")}
        return sorted(found, key=lambda label: -int(label[1:]))

    def _given(self, text: str) -> list[str]:
        before, dots, behind = text.partition("...")
        return [*before, *(self._hidden() if dots else ()), *behind]

    def _implied(self, left: str) -> list[str]:
        """Without an arrow: what is under the ellipses, then every letter that is written once."""
        return [*self._hidden(), *sorted(x for x in set(left) if x.isalpha() and left.count(x) == 1)]

    def _term(self, i: int, text: str) -> Term:
        operand = self.site.input(i)
        rank = operand.rank
        before, dots, behind = text.partition("...")
        hidden = rank - len(before) - len(behind)
        if hidden < 0 or (hidden and not dots):
            raise NoMatch(f"{text!r} for {rank} dims")
        labels = [*before, *(f".{k}" for k in range(hidden, 0, -1)), *behind]
        shape = operand.shape or ()
        # A dim of 1 is broadcast: it is left out of the product where another operand has the axis too.
        for axis, (label, size) in enumerate(zip(labels, shape, strict=True)):
            known = self.sizes.get(label, 1)
            if known == 1 or (not isinstance(known, int) and isinstance(size, int) and size > 1):
                self.sizes[label] = size
                self.places[label] = (operand.name, axis)
        return self._without_repeats(Term(operand.name, labels, tuple(shape)))

    def _without_repeats(self, term: Term) -> Term:
        """Only the diagonal of axes with equal labels."""
        b = self.b
        while len(set(term.labels)) < len(term.labels):
            label = next(x for x in term.labels if term.labels.count(x) > 1)
            first = term.labels.index(label)
            second = term.labels.index(label, first + 1)
            rank = len(term.labels)
            places = self._range(label)
            down = b.unsqueeze(places, *range(1, rank - first)) if rank - first > 1 else places
            along = b.unsqueeze(places, *range(1, rank - second)) if rank - second > 1 else places
            kept = b.where(b.equal(down, along), term.value, self.zero)
            value = self._reduce(kept, [second])
            rest = [k for k in range(rank) if k != second]
            term = Term(value, [term.labels[k] for k in rest], tuple(term.shape[k] for k in rest))
        return term

    def _range(self, label: str) -> str:
        size = self.sizes[label]
        if isinstance(size, int):
            return self.b.const(np.arange(size), np.int64)
        count = self.b.squeeze(self._size(label), 0)
        return self.b.op("Range", self.b.const(0, np.int64), count, self.b.const(1, np.int64))

    def _size(self, label: str) -> str:
        """The size as an int64 list of one."""
        size = self.sizes[label]
        if isinstance(size, int):
            return self.b.ints(size)
        name, axis = self.places[label]
        return self.b.slice(self.b.op("Shape", name), 0, axis, axis + 1)

    def _reduce(self, value: str, axes: Sequence[int]) -> str:
        return self.b.reduce("ReduceSum", value, *axes, keepdims=False)

    def result(self) -> str:
        """The whole sum."""
        terms = [self._without_ones(term) for term in self.terms]
        done = terms[0]
        for k, other in enumerate(terms[1:], 1):
            needed = {*self.output, *(x for term in terms[k + 1 :] for x in term.labels)}
            done = self._contract(self._shrink(done, {*needed, *other.labels}), other, needed)
        done = self._shrink(done, set(self.output))
        value = done.value
        missing = [x for x in self.output if x not in done.labels]
        if missing:  # axes of size 1 in every operand
            value = self.b.unsqueeze(value, *range(len(done.labels), len(done.labels) + len(missing)))
        labels = [*done.labels, *missing]
        order = [labels.index(x) for x in self.output]
        if order != sorted(order):
            return self.b.transpose(value, *order)
        return self.b.op("Identity", value)

    def _without_ones(self, term: Term) -> Term:
        """Without axes of size 1: they neither add up nor line up with anything."""
        ones = [k for k, size in enumerate(term.shape) if size == 1]
        if not ones:
            return term
        labels = [x for k, x in enumerate(term.labels) if k not in ones]
        return Term(self.b.squeeze(term.value, *ones), labels)

    def _shrink(self, term: Term, needed: set[str]) -> Term:
        """Sums over the labels that nothing else has."""
        axes = [k for k, x in enumerate(term.labels) if x not in needed]
        if not axes:
            return term
        return Term(self._reduce(term.value, axes), [x for x in term.labels if x in needed])

    def _contract(self, a: Term, c: Term, needed: set[str]) -> Term:
        """The product of two terms, summed over the labels that are not needed any more."""
        c = self._shrink(c, {*needed, *a.labels})
        common = [x for x in a.labels if x in c.labels]
        summed = [x for x in common if x not in needed]
        batch = [x for x in common if x in needed]
        own_a = [x for x in a.labels if x not in common]
        own_c = [x for x in c.labels if x not in common]
        labels = [*batch, *own_a, *own_c]
        if not summed:
            left = self._aligned(a, labels)
            return Term(self.b.mul(left, self._aligned(c, labels)), labels)
        left = self._matrices(a, batch, own_a, summed)
        right = self._matrices(c, batch, summed, own_c)
        product = self.b.op("MatMul", left, right)
        if len(own_a) == 1 and len(own_c) == 1:
            return Term(product, labels)
        return Term(self._reshape(product, len(batch), [[x] for x in (*own_a, *own_c)]), labels)

    def _aligned(self, term: Term, labels: list[str]) -> str:
        """The term with its axes in this order, and dims of 1 for those that it does not have."""
        order = [term.labels.index(x) for x in labels if x in term.labels]
        value = term.value if order == sorted(order) else self.b.transpose(term.value, *order)
        ones = [k for k, x in enumerate(labels) if x not in term.labels]
        return self.b.unsqueeze(value, *ones) if ones else value

    def _matrices(self, term: Term, batch: list[str], rows: list[str], columns: list[str]) -> str:
        """The term as a batch of matrices."""
        value = self._aligned(term, [*batch, *rows, *columns])
        if len(rows) == 1 and len(columns) == 1:
            return value
        return self._reshape(value, len(batch), [rows, columns])

    def _reshape(self, value: str, kept: int, groups: Sequence[Sequence[str]]) -> str:
        """The first axes as they are, then one axis for each group of labels."""
        sizes: list[int | None] = []
        for group in groups:
            known = [self.sizes[x] for x in group]
            numbers = [int(n) for n in known if isinstance(n, int)]
            sizes.append(int(np.prod(numbers)) if len(numbers) == len(known) else None)
        if sizes.count(None) <= 1:
            return self.b.reshape(value, *[0] * kept, *(-1 if n is None else n for n in sizes))
        parts = [self.b.ints(*[0] * kept)] if kept else []
        for group in groups:
            size = self.b.ints(1)
            for label in group:
                size = self.b.mul(size, self._size(label))
            parts.append(size)
        return self.b.op("Reshape", value, self.b.concat(parts, 0))


def _einsum(shapes: Sequence[str], equation: str, result: str, kind: str = "float") -> str:
    names = [f"x{i}" for i in range(len(shapes))]
    inputs = ", ".join(f"{kind}{shape} {name}" for shape, name in zip(shapes, names, strict=True))
    return f'({inputs}) => ({kind}{result} y) {{ y = Einsum <equation = "{equation}"> ({", ".join(names)}) }}'


@lowering(
    "einsum-by-products",
    "Einsum",
    why="TensorRT takes neither capitals nor whole numbers in an equation.",
    samples=[
        _einsum(["[4, 5]", "[5, 6]"], "Ij,jK->IK", "[4, 6]"),
        _einsum(["[4, 5]", "[5, 6]"], "iJ, Jk", "[4, 6]"),
        _einsum(["[4, 5]", "[5, 6]"], "ij,jk->ki", "[6, 4]", "int32"),
        _einsum(["[4, 5]", "[3, 5, 6]"], "ij,...jk->...ik", "[3, 4, 6]"),
        _einsum(["[2, 4, 5]", "[1, 5, 6]"], "...ij,...jk", "[2, 4, 6]"),
        _einsum(["[4, 4]"], "ii", ""),
        _einsum(["[2, 4, 4]"], "...ii->...i", "[2, 4]"),
        _einsum(["[n, m, m]"], "bii->bi", "[n, m]"),
        _einsum(["[3, 3, 3]"], "iii->i", "[3]"),
        _einsum(["[2, 3, 4]"], "bij->bji", "[2, 4, 3]"),
        _einsum(["[3, 4]"], "ij->", ""),
        _einsum(["[4]", "[4]"], "i,i", ""),
        _einsum(["[4]", "[5]"], "i,j->ji", "[5, 4]"),
        _einsum(["", "[4]"], ",i->i", "[4]"),
        _einsum(["[4, 5]", "[5, 6]", "[6, 7]"], "ij,jk,kl->il", "[4, 7]"),
        _einsum(["[4, 5]", "[4, 5]", "[4, 5]"], "ij,ij,ij->", ""),
        _einsum(["[n, 2, 4, 5]", "[n, 2, 6, 5]"], "bhid,bhjd->bhij", "[n, 2, 4, 6]"),
        _einsum(["[n, m, 4, 5]", "[n, 6, 4, 5]"], "bihd,bjhd->bhij", "[n, 4, m, 6]"),
        _einsum(["[n, m, 4, k]", "[4, k, 7]"], "bihd,hdo->bio", "[n, m, 7]"),
        _einsum(["[n, m, 4, 3]", "[4, 3, 2, 7]"], "bihd,hdop->bpio", "[n, 7, m, 2]"),
        _einsum(["[2, 3]", "[4, 5]"], "ij,kl->il", "[2, 5]"),
        _einsum(["[2, 3]", "[3]"], "i...,...->i...", "[2, 3]"),
        _einsum(["[2, 1, 3]", "[2, 1, 3]"], "abc,abc->ab", "[2, 1]"),
        _einsum(["[3, 4]", "[4, 5]"], "ij,jk->ik", "[3, 5]", "float16"),
        _einsum(["[3, 4]", "[4, 5]"], "ij,jk->ik", "[3, 5]", "double"),
        _einsum(["[3, 4]", "[4, 5]"], "ij,jk->ik", "[3, 5]", "int64"),
        *samples_in(
            "uint8 uint16 uint32 uint64 int8 int16",
            '(T[4, 5] x0, T[5, 6] x1) => (T[4, 6] y) { y = Einsum <equation = "Ij,jK->IK"> (x0, x1) }',
        ),
    ],
    near_misses=["(float[2, 3] x, float[3, 4] w) => (float[2, 4] y) { y = MatMul (x, w) }"],
)
def einsum(site: Site, b: Body) -> str:
    """Diagonals, sums of what one operand alone has, then products from left to right."""
    return Sum(site, b).result()
