"""Lines that a person can read: long ones are broken between words, short ones stay whole for grep."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable

LONGEST = 160
"""Characters of a line that stays as it is."""

WIDTH = 120
"""Characters of each part of a line that is longer."""


def fitted(text: str, indent: int = 2, longest: int = LONGEST) -> str:
    """A text with every line that is too long broken between words.

    Args:
        text: One or several lines.
        indent: Spaces before what follows the first part of a broken line.
        longest: Characters of a line that stays as it is.
    """
    return "\n".join(_broken(line, indent, longest) for line in text.splitlines())


def _broken(line: str, indent: int, longest: int) -> str:
    if len(line) <= longest:
        return line
    own = len(line) - len(line.lstrip())
    parts = textwrap.wrap(
        line.strip(),
        WIDTH - own,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(" " * own + part for part in parts)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question for who has mistyped a name; empty if no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else ""
