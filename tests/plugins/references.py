"""The references of all shipped plugins by name, whichever module holds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import plugin_references
import references_detection
import references_other

from surgery.plugins.definition import PluginDefinition

Reference = Callable[[dict[str, Any], list[np.ndarray]], list[np.ndarray]]

REFERENCES = {
    **plugin_references.REFERENCES,
    **references_detection.REFERENCES,
    **references_other.REFERENCES,
}


def reference_of(definition: PluginDefinition) -> Reference | None:
    """The reference of a definition, by its name or by its name and one of its versions ("Name:2")."""
    versions = (definition.version, *definition.file.also_versions)
    keys = (definition.name, *(f"{definition.name}:{v}" for v in versions))
    return next((REFERENCES[k] for k in keys if k in REFERENCES), None)
