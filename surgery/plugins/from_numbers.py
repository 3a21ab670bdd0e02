"""Plugins whose body is numbers alone: anchors and prior boxes, which graphs hold as constants.

Nothing computes a constant, so that there is no structure to look for. `from_numbers` of such a plugin's body.py says
which constants of a graph look like its outputs, and with what attributes it would make them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class FromNumbers:
    """What some constants look like; believed only if the body built from it gives the same numbers.

    Attributes:
        attributes: The plugin's attributes.
        outputs: For each output, in order, which of the constants it is.
        sizes: Sizes of inputs that are not read, by the symbol that `stand_in` has for them.
    """

    attributes: Mapping[str, Any]
    outputs: tuple[int, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)
