"""Plugin nodes that are wrong, told all at once: who mends a model wants to mend it once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from surgery.errors import ConversionError

MOST = 8
"""Ways to be wrong that are told, and nodes that are named for each."""


class WrongNodesError(ConversionError):
    """Several nodes are wrong; code, node and what else is for programs are those of the first.

    Args:
        each: What is wrong with each of them, in the order of the model.
    """

    def __init__(self, each: Sequence[ConversionError]) -> None:
        groups: dict[tuple[str, str | None], list[ConversionError]] = {}
        for error in each:
            said = error.message.replace(repr(error.node), "...")
            groups.setdefault((said, error.fix), []).append(error)
        first = each[0]
        super().__init__(
            f"{len(each)} plugin nodes are wrong: {_listed(map(_of, groups.values()), '; and ')}",
            code=first.code,
            where=first.where,
            cause=_listed(dict.fromkeys(e.cause for e in each if e.cause), "; ") or None,
            fix=_listed(dict.fromkeys(e.fix for e in each if e.fix), "; ") or None,
            node=first.node,
        )
        self.each = tuple(each)


def told_together(errors: Sequence[ConversionError]) -> ConversionError:
    """One error that says what all of them say.

    Args:
        errors: At least one; those about several nodes count as the ones that they hold.
    """
    each = [one for error in errors for one in each_of(error)]
    return each[0] if len(each) == 1 else WrongNodesError(each)


def each_of(error: ConversionError) -> tuple[ConversionError, ...]:
    """The errors about single nodes that one about several holds; the error itself if it is about one."""
    return error.each if isinstance(error, WrongNodesError) else (error,)


def _of(alike: Sequence[ConversionError]) -> str:
    """What the first says, and of which other nodes that holds."""
    others = [repr(e.node) for e in alike[1:]]
    return alike[0].message + (f"; so with {_listed(others, ', ')}" if others else "")


def _listed(texts: Iterable[str], between: str) -> str:
    texts = list(texts)
    more = f"{between.rstrip()} {len(texts) - MOST} more" if len(texts) > MOST else ""
    return between.join(texts[:MOST]) + more
