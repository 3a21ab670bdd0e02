"""Finding a smallest set that still fails, with as few questions as possible; knows nothing of models.

First, what has to be there is found one by one, each by bisection over prefixes: with k needed elements of n that
takes about k log n questions, where plain delta debugging (Zeller and Hildebrandt, 2002) takes several times as many.
Where more elements are needed than that is good for, or where the answers do not fit together (a set fails and a
larger one does not), pieces of halving size are left out one after the other. In the end no element can be left out
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Set = frozenset[int]
Ask = Callable[[Sequence[Set]], list[bool]]
"""Which of some sets fail; they are looked at side by side."""

MANY = 12
"""Needed elements from which on delta debugging takes over."""

WIDTH = 4
"""Most sets of one round of bisection: more are asked in vain than they save rounds."""


class _EnoughError(Exception):
    """As many questions were asked as were allowed."""


class _Counted:
    """Asks, remembers the smallest set that failed, and stops when it was enough."""

    def __init__(self, ask: Ask, items: Sequence[int], most: int) -> None:
        self._ask, self._left, self.best = ask, most, frozenset(items)

    def __call__(self, sets: Sequence[Set]) -> list[bool]:
        if self._left <= 0:
            raise _EnoughError
        self._left -= len(sets)
        answers = self._ask(sets)
        for one, fails in zip(sets, answers, strict=True):
            if fails and len(one) < len(self.best):
                self.best = one
        return answers


def shrink(items: Sequence[int], ask: Ask, width: int = 1, most: int = 1 << 30) -> tuple[Set, bool]:
    """A subset that fails, and whether no single element of it can be left out.

    Args:
        items: The elements, in an order in which prefixes make sense; all of them together fail.
        ask: Which of some sets fail.
        width: Sets that are looked at side by side.
        most: Sets that are looked at at most; the smallest that failed up to then is given back.
    """
    counted = _Counted(ask, items, most)
    try:
        return _search(items, counted, width), True
    except _EnoughError:
        return counted.best, False


def _search(items: Sequence[int], ask: Ask, width: int) -> Set:
    found, done = _one_by_one(items, ask, min(width, WIDTH))
    left = [i for i in items if i in found]
    if not ask([found])[0]:  # the answers did not fit together
        left, done = list(items), False
    return _polish(left if done else _delta(left, ask, width), ask, width)


def _one_by_one(items: Sequence[int], ask: Ask, width: int) -> tuple[Set, bool]:
    """Elements that fail together, and whether all of them have to be there; if not, they were too many to find."""
    needed: set[int] = set()
    left = list(items)
    while left:
        if needed and ask([frozenset(needed)])[0]:
            return frozenset(needed), True
        low, high = 0, len(left)  # the first `low` do not fail, the first `high` do
        while high - low > 1:
            inner = min(width, high - low - 1)
            points = [low + (high - low) * (i + 1) // (inner + 1) for i in range(inner)]
            answers = ask([frozenset(needed.union(left[:p])) for p in points])
            failing = [p for p, fails in zip(points, answers, strict=True) if fails]
            high = min(failing, default=high)
            low = max((p for p in points if p < high), default=low)
        needed.add(left[high - 1])
        left = left[: high - 1]
        if len(needed) >= MANY:
            return frozenset(needed.union(left)), False
    return frozenset(needed), True


def _delta(items: list[int], ask: Ask, width: int) -> list[int]:
    """Leave out pieces, large ones first, each once; plain delta debugging starts anew after each success."""
    size = len(items) // 2
    while size >= 2:
        at = 0
        while at < len(items):
            starts = range(at, min(at + size * max(width, 1), len(items)), size)
            sets = [items[:k] + items[k + size :] for k in starts]
            answers = ask([frozenset(s) for s in sets]) if all(sets) else [False] * len(sets)
            good = next((n for n, fails in enumerate(answers) if fails), None)
            if good is None:
                at = starts[-1] + size
            else:
                items, at = sets[good], starts[good]
        size //= 2
    return items


def _polish(items: list[int], ask: Ask, width: int) -> Set:
    """Leave out single elements until none can be."""
    changed = True
    while changed and len(items) > 1:
        changed, at = False, 0
        while at < len(items) and len(items) > 1:
            several = range(at, min(at + max(width, 1), len(items)))
            answers = ask([frozenset(items[:i] + items[i + 1 :]) for i in several])
            good = next((i for i, fails in zip(several, answers, strict=True) if fails), None)
            if good is None:
                at = several.stop
            else:
                items = items[:good] + items[good + 1 :]
                changed, at = True, good
    return frozenset(items)
