"""A part of many cases, another one each day; ``SURGERY_PART=3`` asks for a certain one, ``all`` for all."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def part(cases: Sequence[T], parts: int) -> list[T]:
    """Every `parts`-th case, from a start that changes from day to day."""
    chosen = os.environ.get("SURGERY_PART", "")
    if chosen == "all":
        return list(cases)
    start = int(chosen) if chosen else datetime.date.today().toordinal()
    return list(cases[start % parts :: parts])
