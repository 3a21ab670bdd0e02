"""Pairing rows of two lists: a largest matching, the same one every time."""

from __future__ import annotations

from collections.abc import Sequence


def assign(options: Sequence[Sequence[int]], partner: Sequence[int] | None = None) -> list[int]:
    """Find as many pairs as there can be.

    Greedy pairing fails among near-equal rows: the first takes the only partner of the second. Augmenting
    paths (found breadth first, without recursion, so that thousands of equal rows are no problem) never lose.

    Args:
        options: For every left row the right rows it may be paired with, best first.
        partner: Pairs to begin with, as returned; rows in it stay paired, perhaps with others.

    Returns:
        For every left row its right row, or -1.
    """
    result = list(partner) if partner is not None else [-1] * len(options)
    holder = {right: left for left, right in enumerate(result) if right >= 0}
    for start in range(len(options)):
        if result[start] < 0:
            _augment(start, options, result, holder)
    return result


def _augment(
    start: int, options: Sequence[Sequence[int]], partner: list[int], holder: dict[int, int]
) -> None:
    came_from: dict[int, int] = {}  # right row -> left row that reached it first
    queue = [start]
    for left in queue:
        for right in options[left]:
            if right in came_from:
                continue
            came_from[right] = left
            if right in holder:
                queue.append(holder[right])
                continue
            while True:  # swap the pairs along the path back to the start
                left = came_from[right]
                left_before = partner[left]
                partner[left], holder[right] = right, left
                if left == start:
                    return
                right = left_before
