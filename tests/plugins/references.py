"""The references of all shipped plugins by name, whichever module holds them."""

from __future__ import annotations

import plugin_references
import references_detection

REFERENCES = {**plugin_references.REFERENCES, **references_detection.REFERENCES}
